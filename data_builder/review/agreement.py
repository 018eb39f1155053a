"""Measures the agreement of readers beyond chance: Cohen's and Fleiss' kappa, with intervals.

Cohen, Educ. Psychol. Meas. 20:37 (1960); Fleiss, Psychol. Bull. 76:378 (1971). Slices of a subject
are correlated, so intervals resample subjects with all their slices. Pure functions.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

RESAMPLES = 2000

_Proportion = Callable[[np.ndarray], np.ndarray]  # [batch, ...] of sums -> [batch]


@dataclasses.dataclass(frozen=True)
class Kappa:
    """A kappa with its 95% interval; None where it is undefined (one class, no slice).

    `observed` is the proportion of slices (for Fleiss: of pairs of readers) that agree.
    """

    value: float | None
    low: float | None
    high: float | None
    observed: float | None
    slices: int
    subjects: int


def cohen(
    one: Sequence[int], other: Sequence[int], subjects: Sequence[str], classes: int, seed: int = 0
) -> Kappa:
    """Cohen's kappa of two readers; `one` and `other` are classes from 0 to `classes` - 1.

    All sequences have one entry a slice; `subjects` are the slices' subjects.
    """
    group, count = _groups(subjects)
    tables = np.zeros((count, classes, classes))
    np.add.at(tables, (group, np.asarray(one, int), np.asarray(other, int)), 1)

    def observed(total: np.ndarray) -> np.ndarray:
        return np.trace(total, axis1=-2, axis2=-1) / total.sum((-2, -1))

    def expected(total: np.ndarray) -> np.ndarray:
        slices = total.sum((-2, -1))
        return (total.sum(-1) * total.sum(-2)).sum(-1) / slices**2

    return _kappa(tables, observed, expected, len(group), seed)


def fleiss(
    ratings: Int[np.ndarray, "slices readers"], subjects: Sequence[str], classes: int, seed: int = 0
) -> Kappa:
    """Fleiss' kappa of two or more readers, each of whom has classed every slice."""
    group, count = _groups(subjects)
    readers = ratings.shape[1]
    votes = (ratings[:, :, None] == np.arange(classes)).sum(1)  # slices, classes
    pairs = (votes * (votes - 1)).sum(1) / (readers * (readers - 1))
    sums = np.zeros((count, classes + 2))  # agreeing pairs, slices, votes for each class
    np.add.at(sums, group, np.column_stack([pairs, np.ones(len(pairs)), votes]))

    def observed(total: np.ndarray) -> np.ndarray:
        return total[..., 0] / total[..., 1]

    def expected(total: np.ndarray) -> np.ndarray:
        shares = total[..., 2:] / (readers * total[..., 1:2])
        return (shares**2).sum(-1)

    return _kappa(sums, observed, expected, len(group), seed)


def _groups(subjects: Sequence[str]) -> tuple[np.ndarray, int]:
    names, group = np.unique(np.asarray(subjects, str), return_inverse=True)
    return group, len(names)


def _kappa(
    by_subject: np.ndarray, observed: _Proportion, expected: _Proportion, slices: int, seed: int
) -> Kappa:
    """Kappa from sums by subject, with the percentile interval over resampled subjects."""
    subjects = len(by_subject)
    if not slices:
        return Kappa(None, None, None, None, 0, 0)
    total = by_subject.sum(0, keepdims=True)
    agreed, chance = float(observed(total)[0]), float(expected(total)[0])
    if chance >= 1:
        return Kappa(None, None, None, agreed, slices, subjects)
    value, low, high = (agreed - chance) / (1 - chance), None, None
    if subjects > 1:
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(subjects, np.full(subjects, 1 / subjects), RESAMPLES)
        totals = np.tensordot(draws.astype(float), by_subject, axes=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            by_chance = expected(totals)
            values = (observed(totals) - by_chance) / (1 - by_chance)
        values = values[np.isfinite(values)]
        if len(values):
            low, high = (float(v) for v in np.percentile(values, (2.5, 97.5)))
    return Kappa(value, low, high, agreed, slices, subjects)
