"""From slices to subjects: one score, one location and one truth for each person."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int, Shaped

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.predictions import UNKNOWN, Predictions

METHODS = ("mean", "noisy_or")
LEVELS = ("slice", "subject")
"""What a number is of."""


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """How a subject's slices make its score: `method` over its `k` highest slices (0: all).

    'mean': their mean p_hemorrhage (k = 1: the maximum). 'noisy_or': 1 - product of (1 - p), the
    chance that any of them bleeds if slices erred independently. Three slices by default: a bleed
    of 10 mm crosses two or three slices of 5 mm. Raises InputError for another method or k < 0.
    """

    method: str = "mean"
    k: int = 3

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"aggregation method {self.method!r}: it is {' or '.join(METHODS)}")
        if self.k < 0:
            raise InputError(f"aggregation k is {self.k}: give 1 or more, or 0 for all slices")

    def __str__(self) -> str:
        slices = f"the {self.k} highest slices" if self.k > 1 else "the highest slice"
        what = {"mean": "mean", "noisy_or": "noisy-or (1 - product of 1 - p)"}[self.method]
        return f"{what} of {slices if self.k else 'all slices'}"


CANDIDATES = (
    Aggregation("mean", 3),
    Aggregation("mean", 1),
    Aggregation("mean", 2),
    Aggregation("mean", 5),
    Aggregation("mean", 0),
    Aggregation("noisy_or", 3),
    Aggregation("noisy_or", 0),
)
"""What 'auto' chooses from, on validation."""

DEFAULT = Aggregation()


def by_subject(
    predictions: Predictions, aggregation: Aggregation = DEFAULT
) -> tuple[Predictions, list[str]]:
    """One row a subject, sorted by subject, and the subjects whose location truth is a tie.

    Score: as `Aggregation` says (a subject with fewer slices uses them all; equal slices are taken
    in the order of their keys). Location: the mean of the same slices' location probabilities,
    weighted by p_hemorrhage. Truth: ICH if any slice is, normal if all are, else unknown; location
    by the majority of its ICH slices, unknown on a tie. `key` is the subject; study, split and
    fold are kept where all of its slices agree.
    """
    order = np.lexsort((predictions.key, -predictions.p_hemorrhage, predictions.subject))
    table = predictions.select(order)
    names, starts = np.unique(table.subject, return_index=True)
    groups = np.split(np.arange(len(table)), starts[1:])
    truth = [_hemorrhage(table.hemorrhage[rows]) for rows in groups]
    places = [_majority(table.location[rows]) for rows in groups]
    tops = [rows[: aggregation.k or None] for rows in groups]
    subjects = Predictions(
        key=names,
        subject=names,
        hemorrhage=np.array(truth, np.int8),
        location=np.array([place for place, _ in places], np.int8),
        p_hemorrhage=np.array([_score(table.p_hemorrhage[rows], aggregation) for rows in tops]),
        p_location=np.array([_location(table, rows) for rows in tops]),
        split=np.array([_common(table.split[rows], "") for rows in groups]),
        study=np.array([_common(table.study[rows], "") for rows in groups]),
        fold=np.array([_common(table.fold[rows], UNKNOWN) for rows in groups], np.int32),
    )
    tied = [str(name) for name, (_, tie) in zip(names, places, strict=True) if tie]
    return subjects, tied


def subject_index(predictions: Predictions, subjects: Predictions) -> Int[np.ndarray, " slices"]:
    """For each slice the row of its subject in `subjects` (as `by_subject` sorts them)."""
    return np.searchsorted(subjects.subject, predictions.subject)


def _score(p: Float[np.ndarray, " k"], aggregation: Aggregation) -> float:
    p = p.astype(np.float64)
    return float(1 - np.prod(1 - p) if aggregation.method == "noisy_or" else p.mean())


def _hemorrhage(truth: Int[np.ndarray, " slices"]) -> int:
    if (truth == 1).any():
        return 1
    return UNKNOWN if (truth == UNKNOWN).any() else 0


def _majority(location: Int[np.ndarray, " slices"]) -> tuple[int, bool]:
    """The commonest location, and whether two are equally common."""
    counts = np.bincount(location[location != UNKNOWN], minlength=len(LOCATIONS))
    winners = np.flatnonzero(counts == counts.max())
    if counts.max() == 0:
        return UNKNOWN, False
    return (int(winners[0]), False) if len(winners) == 1 else (UNKNOWN, True)


def _location(table: Predictions, rows: Int[np.ndarray, " top"]) -> Float[np.ndarray, " 3"]:
    weights = table.p_hemorrhage[rows].astype(np.float64)
    if weights.sum() == 0:
        weights = np.ones_like(weights)
    return weights @ table.p_location[rows] / weights.sum()


def _common(values: Shaped[np.ndarray, " slices"], otherwise: str | int) -> str | int:
    return values[0].item() if (values == values[0]).all() else otherwise
