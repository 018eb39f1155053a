"""Computes a table's figures, with intervals over subjects, from the finished folds."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float

from dtvit_jax.decision.aggregation import DEFAULT, Aggregation, by_subject
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.evaluation import bootstrap
from dtvit_jax.evaluation.summary import parts, statistic_of

FIGURES = (
    ("hemorrhage", "auroc", "ICH AUROC"),
    ("hemorrhage", "accuracy", "ICH accuracy"),
    ("location", "accuracy", "location accuracy"),
    ("location", "macro_recall", "location macro recall"),
    ("combined", "pooled_accuracy", "accuracy, pooled"),
    ("combined", "mean_precision", "precision"),
    ("combined", "mean_recall", "recall"),
    ("combined", "mean_f1", "F1"),
    ("combined", "mean_specificity", "specificity"),
    ("combined", "loss", "loss"),
)
"""Task, metric and label of each figure: four main ones, then the columns of the paper's Table 4.

In the latter the positive class is ICH.
"""

Folds = Mapping[int, Predictions]
"""Predictions of the test side, by fold."""

Seeds = Mapping[int, Folds]
"""The same, by seed."""


class Figure(TypedDict):
    """A figure and its 95% interval over subjects; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    seeds: NotRequired[list[float]]  # the value of each seed
    p: NotRequired[float | None]  # of a difference: two-sided p


def joined(tables: Sequence[Predictions]) -> Predictions:
    """Joins the slices of all folds, each predicted once, sorted by key."""
    names = [field.name for field in dataclasses.fields(Predictions)]
    whole = Predictions(**{n: np.concatenate([getattr(t, n) for t in tables]) for n in names})
    return whole.select(np.argsort(whole.key))


def row_of(
    seeds: Seeds,
    level: str,
    aggregation: Aggregation = DEFAULT,
    resamples: int = bootstrap.RESAMPLES,
) -> dict[str, Any]:
    """Returns FIGURES by label, as means over seeds, on the folds that all started seeds have.

    The interval is that of the mean. "folds", "seeds" and "slices": what it was computed from.

    Args:
      level: 'subject' or 'slice'.
    """
    tables, folds = _common(seeds)
    row: dict[str, Any] = {"folds": folds, "seeds": len(tables), "slices": len(tables[0])}
    for task, index, strata, statistics in _tasks(tables, level, aggregation):
        of_seeds = [statistic(np.ones((1, len(index)))) for statistic in statistics]
        intervals = bootstrap.bootstrap(partial(_mean, statistics), index, strata, resamples)
        for figure_task, name, label in FIGURES:
            if figure_task == task:
                row[label] = _figure(intervals[name])
                row[label]["seeds"] = [float(values[name][0]) for values in of_seeds]
    return row


def difference_of(
    first: Seeds,
    second: Seeds,
    level: str,
    aggregation: Aggregation = DEFAULT,
    resamples: int = bootstrap.RESAMPLES,
) -> dict[str, Any]:
    """Returns first minus second for each of FIGURES, on the slices that both predicted.

    Both are resampled together, by subject.
    """
    ones, twos = _common(first)[0], _common(second)[0]
    keys = np.intersect1d(ones[0].key, twos[0].key)
    ones, twos = ([t.select(np.isin(t.key, keys)) for t in tables] for tables in (ones, twos))
    row: dict[str, Any] = {"slices": len(keys)}
    if not len(keys):
        return row
    pairs = zip(_tasks(ones, level, aggregation), _tasks(twos, level, aggregation), strict=True)
    for (task, index, strata, a), (_, _, _, b) in pairs:
        paired = partial(_difference, a, b)
        intervals = bootstrap.bootstrap(paired, index, strata, resamples, difference=True)
        for figure_task, name, label in FIGURES:
            if figure_task == task:
                row[label] = _figure(intervals[name])
                p = intervals[name].p
                row[label]["p"] = float(p) if np.isfinite(p) else None
    return row


def _common(seeds: Seeds) -> tuple[list[Predictions], list[int]]:
    """Joins each seed's folds, of those that every started seed has; returns these folds too."""
    started = [folds for folds in seeds.values() if folds]
    folds = sorted(set.intersection(*(set(f) for f in started)))
    return [joined([f[fold] for fold in folds]) for f in started], folds


Task = tuple[str, np.ndarray, np.ndarray, list[bootstrap.Statistic]]


def _tasks(tables: Sequence[Predictions], level: str, aggregation: Aggregation) -> Iterator[Task]:
    """Yields each task, its rows' subjects, the subjects' strata, and each table's statistic."""
    parts_of_tables = [parts(table, by_subject(table, aggregation)[0]) for table in tables]
    for same_part in zip(*parts_of_tables, strict=True):
        if same_part[0][0] == level:
            _, task, rows, index, strata = same_part[0]
            if len(rows):
                names = {name for figure_task, name, _ in FIGURES if figure_task == task}
                statistics = [statistic_of(part[2], task, 0.5) for part in same_part]
                yield task, index, strata, [partial(_only, names, s) for s in statistics]


def _only(
    names: set[str], statistic: bootstrap.Statistic, weights: Float[np.ndarray, "r n"]
) -> dict[str, Float[np.ndarray, " r"]]:
    return {name: value for name, value in statistic(weights).items() if name in names}


def _mean(
    statistics: Sequence[bootstrap.Statistic], weights: Float[np.ndarray, "r n"]
) -> dict[str, Float[np.ndarray, " r"]]:
    values = [statistic(weights) for statistic in statistics]
    return {name: np.mean([v[name] for v in values], axis=0) for name in values[0]}


def _difference(
    first: Sequence[bootstrap.Statistic],
    second: Sequence[bootstrap.Statistic],
    weights: Float[np.ndarray, "r n"],
) -> dict[str, Float[np.ndarray, " r"]]:
    a, b = _mean(first, weights), _mean(second, weights)
    return {name: a[name] - b[name] for name in a}


def _figure(interval: bootstrap.Interval) -> Figure:
    def finite(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        "value": finite(interval.value),
        "low": finite(interval.low),
        "high": finite(interval.high),
    }


def beats(difference: Mapping[str, Any], label: str) -> bool | None:
    """Returns whether a difference's interval is above 0; None without an interval."""
    figure = difference.get(label)
    if not figure or figure["low"] is None:
        return None
    return bool(figure["low"] > 0)
