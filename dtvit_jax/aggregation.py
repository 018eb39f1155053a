"""From slices to subjects: one score, one location and one truth for each person."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from data_builder.records import LOCATIONS
from dtvit_jax.predictions import UNKNOWN, Predictions

TOP = 3
"""Slices that speak for a subject: a bleed of 10 mm crosses two or three slices of 5 mm."""


def by_subject(predictions: Predictions, top: int | None = TOP) -> tuple[Predictions, list[str]]:
    """One row a subject, sorted by subject, and the subjects whose location truth is a tie.

    Score: the mean p_hemorrhage of the `top` highest slices (1: the maximum; None: all slices;
    a subject with fewer slices uses them all; equal slices are taken in the order of their keys).
    Location: the mean of the same slices' location probabilities, weighted by p_hemorrhage.
    Truth: ICH if any slice is, normal if all are, else unknown; location by the majority of its
    ICH slices, unknown on a tie. `key` is the subject; study, split and fold are kept where all of
    its slices agree. Raises ValueError for `top` below 1.
    """
    if top is not None and top < 1:
        raise ValueError(f"top must be 1 or more, or None for all slices; it is {top}")
    order = np.lexsort((predictions.key, -predictions.p_hemorrhage, predictions.subject))
    table = predictions.select(order)
    names, starts = np.unique(table.subject, return_index=True)
    groups = np.split(np.arange(len(table)), starts[1:])
    truth = [_hemorrhage(table.hemorrhage[rows]) for rows in groups]
    places = [_majority(table.location[rows]) for rows in groups]
    tops = [rows[:top] for rows in groups]
    subjects = Predictions(
        key=names,
        subject=names,
        hemorrhage=np.array(truth, np.int8),
        location=np.array([place for place, _ in places], np.int8),
        p_hemorrhage=np.array([table.p_hemorrhage[rows].mean(dtype=np.float64) for rows in tops]),
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
