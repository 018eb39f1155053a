"""Tests of two or more models on the same subjects: exact McNemar, DeLong, Holm."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats as distributions

from dtvit_jax.evaluation.bootstrap import LEVEL


def mcnemar(a_right: Bool[np.ndarray, " n"], b_right: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    """McNemar's exact test (1947): are a and b wrong equally often on the same, independent rows?

    Returns "only_a" and "only_b", how often one alone was right, and the two-sided "p" of the
    binomial with equal chances; 1 where they never differ.
    """
    only_a, only_b = int((a_right & ~b_right).sum()), int((b_right & ~a_right).sum())
    different = only_a + only_b
    p = distributions.binomtest(only_a, different).pvalue if different else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


@dataclasses.dataclass(frozen=True)
class DeLong:
    """Areas under ROC curves of m scores on the same rows, and their covariance matrix."""

    areas: Float[np.ndarray, " m"]
    covariance: Float[np.ndarray, "m m"]

    def difference(self, a: int, b: int) -> dict[str, float]:
        """areas[a] - areas[b] with "low", "high" (95%, normal) and the two-sided "p"."""
        value = float(self.areas[a] - self.areas[b])
        cells = self.covariance
        variance = float(cells[a, a] + cells[b, b] - 2 * cells[a, b])
        error = float(np.sqrt(max(variance, 0.0)))
        if error < 1e-12:  # the same order of rows in both: nothing to tell apart
            return {"value": value, "low": value, "high": value, "se": 0.0, "p": float(value == 0)}
        reach = float(distributions.norm.ppf((1 + LEVEL) / 2)) * error
        p = float(2 * distributions.norm.sf(abs(value) / error))
        return {"value": value, "low": value - reach, "high": value + reach, "se": error, "p": p}


def delong(truth: Bool[np.ndarray, " n"], scores: Float[np.ndarray, "m n"]) -> DeLong:
    """DeLong, DeLong and Clarke-Pearson (1988), by midranks (Sun and Xu 2014); rows independent.

    Raises ValueError unless both classes have two rows or more.
    """
    positive, negative = scores[:, truth].astype(np.float64), scores[:, ~truth].astype(np.float64)
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2:
        raise ValueError(f"DeLong's test needs two rows of each class; there are {m} and {n}")
    together = distributions.rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    # Each row's part in the area: the share of the other class that it stands above.
    of_positive = (together[:, :m] - distributions.rankdata(positive, axis=1)) / n
    of_negative = 1 - (together[:, m:] - distributions.rankdata(negative, axis=1)) / m
    covariance = np.atleast_2d(np.cov(of_positive)) / m + np.atleast_2d(np.cov(of_negative)) / n
    return DeLong(of_positive.mean(axis=1), covariance)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm (1979), in the order given."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(
        np.minimum(np.array(p)[order] * (len(p) - np.arange(len(p))), 1)
    )
    return [float(value) for value in adjusted]
