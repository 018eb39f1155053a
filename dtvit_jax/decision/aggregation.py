"""From slices to subjects: one score, one location and one truth for each subject."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.predictions import UNKNOWN, Predictions

METHODS = ("mean", "noisy_or")
Level = Literal["slice", "subject"]
LEVELS: tuple[Level, ...] = ("slice", "subject")
"""The units that a metric is computed over."""


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """A subject's score: `method` over the `k` highest p_hemorrhage of its slices (0: all).

    'mean': their mean (k = 1: the maximum). 'noisy_or': 1 - product of (1 - p), the probability
    that at least one of them shows ICH if slices erred independently. Three slices by default: a
    hemorrhage of 10 mm crosses two or three slices of 5 mm. Raises InputError for another method
    or k < 0.
    """

    method: str = "mean"
    k: int = 3

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"aggregation method {self.method!r}: give {' or '.join(METHODS)}")
        if self.k < 0:
            raise InputError(f"aggregation k is {self.k}: give 1 or more, or 0 for all slices")

    def __str__(self) -> str:
        slices = f"the {self.k} highest slices" if self.k > 1 else "the highest slice"
        function = {"mean": "mean", "noisy_or": "noisy-or (1 - product of 1 - p)"}[self.method]
        return f"{function} of {slices if self.k else 'all slices'}"


CANDIDATES = (
    Aggregation("mean", 3),
    Aggregation("mean", 1),
    Aggregation("mean", 2),
    Aggregation("mean", 5),
    Aggregation("mean", 0),
    Aggregation("noisy_or", 3),
    Aggregation("noisy_or", 0),
)
"""Candidates among which 'auto' chooses on validation."""

DEFAULT = Aggregation()


def by_subject(
    predictions: Predictions, aggregation: Aggregation = DEFAULT
) -> tuple[Predictions, list[str]]:
    """Aggregates slices to one row per subject, sorted by subject.

    Score: as `Aggregation` defines it; a subject with fewer than k slices uses all of them, and
    slices with equal probabilities are taken in the order of their keys. Location probabilities:
    the mean over the same slices, weighted by p_hemorrhage. Truth: ICH if any slice is, normal if
    all are, else unknown; location by the majority of its ICH slices, unknown on a tie. `key` is
    the subject; study, split and fold are kept where all of its slices agree.

    Returns the table, and the subjects whose location truth is a tie.
    """
    order = np.lexsort((predictions.key, -predictions.p_hemorrhage, predictions.subject))
    table = predictions.select(order)
    names, starts = np.unique(table.subject, return_index=True)
    groups = np.split(np.arange(len(table)), starts[1:])
    truth = [_hemorrhage(table.hemorrhage[rows]) for rows in groups]
    locations = [_majority(table.location[rows]) for rows in groups]
    highest = [rows[: aggregation.k or None] for rows in groups]
    subjects = Predictions(
        key=names,
        subject=names,
        hemorrhage=np.array(truth, np.int8),
        location=np.array([location for location, _ in locations], np.int8),
        p_hemorrhage=np.array([_score(table.p_hemorrhage[rows], aggregation) for rows in highest]),
        p_location=np.array([_location(table, rows) for rows in highest]),
        split=np.array([_common(table.split[rows], "") for rows in groups]),
        study=np.array([_common(table.study[rows], "") for rows in groups]),
        fold=np.array([_common(table.fold[rows], UNKNOWN) for rows in groups], np.int32),
    )
    tied = [str(name) for name, (_, tie) in zip(names, locations, strict=True) if tie]
    return subjects, tied


def subject_index(predictions: Predictions, subjects: Predictions) -> Int[np.ndarray, " slices"]:
    """The row of each slice's subject in `subjects`, which is sorted as `by_subject` returns it."""
    return np.searchsorted(subjects.subject, predictions.subject)


def _score(p: Float[np.ndarray, " k"], aggregation: Aggregation) -> float:
    p = p.astype(np.float64)
    return float(1 - np.prod(1 - p) if aggregation.method == "noisy_or" else p.mean())


def _hemorrhage(truth: Int[np.ndarray, " slices"]) -> int:
    if (truth == 1).any():
        return 1
    return UNKNOWN if (truth == UNKNOWN).any() else 0


def _majority(location: Int[np.ndarray, " slices"]) -> tuple[int, bool]:
    """The most frequent location (UNKNOWN on a tie or without one), and whether it is a tie."""
    counts = np.bincount(location[location != UNKNOWN], minlength=len(LOCATIONS))
    winners = np.flatnonzero(counts == counts.max())
    if counts.max() == 0:
        return UNKNOWN, False
    return (int(winners[0]), False) if len(winners) == 1 else (UNKNOWN, True)


def _location(table: Predictions, rows: Int[np.ndarray, " k"]) -> Float[np.ndarray, " 3"]:
    weights = table.p_hemorrhage[rows].astype(np.float64)
    if weights.sum() == 0:
        weights = np.ones_like(weights)
    return weights @ table.p_location[rows] / weights.sum()


def _common(values: Shaped[np.ndarray, " slices"], otherwise: str | int) -> str | int:
    return values[0].item() if (values == values[0]).all() else otherwise
