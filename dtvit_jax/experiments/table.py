"""Computes a table's figures, with intervals over subjects, from the finished folds."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NotRequired, TypedDict

import numpy as np

from dtvit_jax.decision.aggregation import by_subject
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.evaluation import bootstrap
from dtvit_jax.evaluation.intervals import finite
from dtvit_jax.evaluation.ranking import Values, Weights
from dtvit_jax.evaluation.summary import Part, parts, statistic_of

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
    seeds: NotRequired[list[float | None]]  # the value of each seed
    p: NotRequired[float | None]  # of a difference: two-sided p


def joined(tables: Sequence[Predictions]) -> Predictions:
    """Joins the slices of all folds, each predicted once, sorted by key."""
    names = [field.name for field in dataclasses.fields(Predictions)]
    whole = Predictions(**{n: np.concatenate([getattr(t, n) for t in tables]) for n in names})
    return whole.select(np.argsort(whole.key))


def row_of(seeds: Seeds, level: str, resamples: int = bootstrap.RESAMPLES) -> dict[str, Any]:
    """Returns FIGURES by label, as means over seeds, on the folds that all started seeds have.

    The interval is that of the mean. "folds", "seeds" and "slices": what it was computed from.

    Args:
      level: 'subject' or 'slice'.
    """
    tables, folds = _common(seeds)
    row: dict[str, Any] = {"folds": folds, "seeds": len(tables), "slices": len(tables[0])}
    for part, statistics in _parts(tables, level):
        of_seeds = [statistic(np.ones((1, len(part.table)))) for statistic in statistics]
        mean = partial(_mean, statistics)
        intervals = bootstrap.bootstrap(mean, part.subject, part.strata, resamples)
        for label, interval in intervals.items():
            of_each = [finite(float(values[label][0])) for values in of_seeds]
            row[label] = _figure(interval) | {"seeds": of_each}
    return row


def difference_of(
    first: Seeds, second: Seeds, level: str, resamples: int = bootstrap.RESAMPLES
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
    for (part, a), (_, b) in zip(_parts(ones, level), _parts(twos, level), strict=True):
        paired = partial(_difference, a, b)
        intervals = bootstrap.bootstrap(
            paired, part.subject, part.strata, resamples, difference=True
        )
        for label, interval in intervals.items():
            row[label] = _figure(interval) | {"p": finite(interval.p)}
    return row


def _common(seeds: Seeds) -> tuple[list[Predictions], list[int]]:
    """Joins each seed's folds, of those that every started seed has; returns these folds too."""
    started = [folds for folds in seeds.values() if folds]
    folds = sorted(set.intersection(*(set(f) for f in started)))
    return [joined([f[fold] for fold in folds]) for f in started], folds


def _parts(
    tables: Sequence[Predictions], level: str
) -> Iterator[tuple[Part, list[bootstrap.Statistic]]]:
    """Yields the first table's parts of `level`, each with the FIGURES statistic of every table."""
    parts_of_tables = [parts(table, by_subject(table)[0]) for table in tables]
    for same_part in zip(*parts_of_tables, strict=True):
        if same_part[0].level == level and len(same_part[0].table):
            yield same_part[0], [partial(_figures, part) for part in same_part]


def _figures(part: Part, weights: Weights) -> dict[str, Values]:
    values = statistic_of(part.table, part.task, 0.5)(weights)
    return {label: values[name] for task, name, label in FIGURES if task == part.task}


def _mean(statistics: Sequence[bootstrap.Statistic], weights: Weights) -> dict[str, Values]:
    values = [statistic(weights) for statistic in statistics]
    return {name: np.mean([v[name] for v in values], axis=0) for name in values[0]}


def _difference(
    first: Sequence[bootstrap.Statistic], second: Sequence[bootstrap.Statistic], weights: Weights
) -> dict[str, Values]:
    a, b = _mean(first, weights), _mean(second, weights)
    return {name: a[name] - b[name] for name in a}


def _figure(interval: bootstrap.Interval) -> Figure:
    value, low, high = map(finite, (interval.value, interval.low, interval.high))
    return {"value": value, "low": low, "high": high}


def beats(difference: Mapping[str, Any], label: str) -> bool | None:
    """Returns whether a difference's interval is above 0; None without an interval."""
    figure = difference.get(label)
    if not figure or figure["low"] is None:
        return None
    return bool(figure["low"] > 0)
