"""Tests of two or more models on the same subjects: exact McNemar, DeLong, Holm."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats as distributions

from dtvit_jax.evaluation.bootstrap import LEVEL
from dtvit_jax.evaluation.schema import AreaDifference, McNemar


def mcnemar(a_correct: Bool[np.ndarray, " n"], b_correct: Bool[np.ndarray, " n"]) -> McNemar:
    """McNemar's exact test (1947) that a and b err equally often on the same, independent rows.

    p is that of a binomial with equal chances; 1 where a and b never differ.
    """
    only_a, only_b = int((a_correct & ~b_correct).sum()), int((b_correct & ~a_correct).sum())
    discordant = only_a + only_b
    p = distributions.binomtest(only_a, discordant).pvalue if discordant else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


@dataclasses.dataclass(frozen=True)
class DeLong:
    """Areas under ROC curves of m scores on the same rows, and their covariance matrix."""

    areas: Float[np.ndarray, " m"]
    covariance: Float[np.ndarray, "m m"]

    def difference(self, a: int, b: int) -> AreaDifference:
        """areas[a] - areas[b] with a normal interval, and the p-value of a difference of 0."""
        area_a, area_b = float(self.areas[a]), float(self.areas[b])
        value, cells = area_a - area_b, self.covariance
        variance = float(cells[a, a] + cells[b, b] - 2 * cells[a, b])
        error = float(np.sqrt(max(variance, 0.0)))
        if error < 1e-12:  # both scores rank the rows alike
            error, p = 0.0, float(value == 0)
        else:
            p = float(2 * distributions.norm.sf(abs(value) / error))
        reach = float(distributions.norm.ppf((1 + LEVEL) / 2)) * error
        return {
            "a": area_a,
            "b": area_b,
            "value": value,
            "low": value - reach,
            "high": value + reach,
            "se": error,
            "p": p,
        }


def delong(truth: Bool[np.ndarray, " n"], scores: Float[np.ndarray, "m n"]) -> DeLong:
    """Areas and covariance by DeLong, DeLong and Clarke-Pearson (1988); rows are independent.

    Computed from midranks (Sun and Xu 2014). Raises ValueError unless both classes have two rows
    or more.
    """
    positive, negative = scores[:, truth].astype(np.float64), scores[:, ~truth].astype(np.float64)
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2:
        raise ValueError(f"DeLong's test needs two rows of each class; there are {m} and {n}")
    together = distributions.rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    # The share of the other class that a row ranks above (a positive) or below (a negative).
    of_positive = (together[:, :m] - distributions.rankdata(positive, axis=1)) / n
    of_negative = 1 - (together[:, m:] - distributions.rankdata(negative, axis=1)) / m
    covariance = np.atleast_2d(np.cov(of_positive)) / m + np.atleast_2d(np.cov(of_negative)) / n
    return DeLong(of_positive.mean(axis=1), covariance)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number by Holm (1979); the order is kept."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(
        np.minimum(np.array(p)[order] * (len(p) - np.arange(len(p))), 1)
    )
    return [float(value) for value in adjusted]
