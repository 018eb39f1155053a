"""The table of an experiment, from the predictions of the folds that are done."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

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
"""The first four, and the columns of the paper's Table 4 (positive class: ICH)."""

Folds = Mapping[int, Predictions]
Seeds = Mapping[int, Folds]


def joined(tables: Sequence[Predictions]) -> Predictions:
    """All folds' slices, each predicted once, in the order of their keys."""
    names = [field.name for field in dataclasses.fields(Predictions)]
    whole = Predictions(**{n: np.concatenate([getattr(t, n) for t in tables]) for n in names})
    return whole.select(np.argsort(whole.key))


def row_of(
    seeds: Seeds,
    level: str,
    aggregation: Aggregation = DEFAULT,
    resamples: int = bootstrap.RESAMPLES,
) -> dict[str, Any]:
    """Each of FIGURES over the folds that all started seeds have done: the mean over seeds.

    "low", "high": 95% over subjects, of that mean; "seeds": each seed's own value.
    """
    tables, folds = _common(seeds)
    found: dict[str, Any] = {"folds": folds, "seeds": len(tables), "slices": len(tables[0])}
    for task, index, strata, statistics in _tasks(tables, level, aggregation):
        each = [statistic(np.ones((1, len(index)))) for statistic in statistics]
        intervals = bootstrap.bootstrap(partial(_mean, statistics), index, strata, resamples)
        for figure_task, name, label in FIGURES:
            if figure_task == task:
                found[label] = _entry(intervals[name])
                found[label]["seeds"] = [float(values[name][0]) for values in each]
    return found


def difference_of(
    first: Seeds,
    second: Seeds,
    level: str,
    aggregation: Aggregation = DEFAULT,
    resamples: int = bootstrap.RESAMPLES,
) -> dict[str, Any]:
    """first - second for each of FIGURES, on the slices that both predicted, resampled together."""
    ones, twos = _common(first)[0], _common(second)[0]
    keys = np.intersect1d(ones[0].key, twos[0].key)
    ones, twos = ([t.select(np.isin(t.key, keys)) for t in tables] for tables in (ones, twos))
    found: dict[str, Any] = {"slices": len(keys)}
    if not len(keys):
        return found
    pairs = zip(_tasks(ones, level, aggregation), _tasks(twos, level, aggregation), strict=True)
    for (task, index, strata, a), (_, _, _, b) in pairs:
        paired = partial(_difference, a, b)
        intervals = bootstrap.bootstrap(paired, index, strata, resamples, difference=True)
        for figure_task, name, label in FIGURES:
            if figure_task == task:
                found[label] = _entry(intervals[name])
                p = intervals[name].p
                found[label]["p"] = float(p) if np.isfinite(p) else None
    return found


def _common(seeds: Seeds) -> tuple[list[Predictions], list[int]]:
    """A table a seed, over the folds that every seed has; those folds."""
    started = [folds for folds in seeds.values() if folds]
    folds = sorted(set.intersection(*(set(f) for f in started)))
    return [joined([f[fold] for fold in folds]) for f in started], folds


Task = tuple[str, np.ndarray, np.ndarray, list[bootstrap.Statistic]]


def _tasks(tables: Sequence[Predictions], level: str, aggregation: Aggregation) -> Iterator[Task]:
    """Task, each row's subject, the subjects' strata, and each table's statistic."""
    of = [parts(table, by_subject(table, aggregation)[0]) for table in tables]
    for together in zip(*of, strict=True):
        if together[0][0] == level:
            _, task, part, index, strata = together[0]
            if len(part):
                shown = {name for of_task, name, _ in FIGURES if of_task == task}
                statistics = [statistic_of(t[2], task, 0.5) for t in together]
                yield task, index, strata, [partial(_only, shown, s) for s in statistics]


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


def _entry(interval: bootstrap.Interval) -> dict[str, Any]:
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: float(v) if np.isfinite(v) else None for name, v in numbers.items()}


def beats(difference: Mapping[str, Any], label: str) -> bool | None:
    """Whether the interval of a difference lies above 0; None where there is none."""
    entry = difference.get(label)
    if not entry or entry["low"] is None:
        return None
    return bool(entry["low"] > 0)
