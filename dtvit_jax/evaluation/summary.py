"""From predictions to metrics.json: each metric by slice and by subject, with its interval."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.aggregation import DEFAULT, LEVELS, Aggregation, by_subject, subject_index
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation import bootstrap, cohort, metrics, ranking
from dtvit_jax.evaluation.intervals import NO_VARIATION, add_exact, add_reasons

POSITIVE = "ICH (hemorrhage = 1)"
TASK_CLASSES = {"hemorrhage": ("normal", "ICH"), "location": LOCATIONS}
NO_ECE_INTERVAL = "no interval: in samples this small it is biased upwards, and resamples more so"


def evaluate_predictions(
    predictions: Predictions,
    *,
    aggregation: Aggregation = DEFAULT,
    threshold: float = 0.5,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """metrics.json of one set of predictions (one split of one run) as a dict.

    Each metric is {"value", "low", "high"}: the number and its 95% interval over subjects, null
    with a "reason" where it cannot be had. Proportions also have "count" and "of"; subject-level
    ones "exact", the Clopper-Pearson interval (AUROC: "score", Newcombe's). Where no resample
    moves a number, low and high are those, with the "method" named. ICH is called at
    p >= threshold.
    """
    subjects, tied = by_subject(predictions, aggregation)
    result: dict[str, Any] = {
        "positive": POSITIVE,
        "threshold": threshold,
        "aggregation": dataclasses.asdict(aggregation) | {"words": str(aggregation)},
        "interval": {
            "level": bootstrap.LEVEL,
            "method": bootstrap.METHOD,
            "resamples": resamples,
            "seed": seed,
        },
        "n": cohort.counts(predictions, subjects, tied),
        "confusion": {},
    }
    for level, task, part, index, strata in parts(predictions, subjects):
        statistic = statistic_of(part, task, threshold)
        entries = bootstrap_entries(statistic, index, strata, resamples, seed)
        if task != "combined":
            truth, called = _decisions(part, task, threshold)
            names = TASK_CLASSES[task]
            matrix = metrics.confusion_matrix(truth, called, len(names))
            result["confusion"].setdefault(level, {})[task] = matrix.tolist()
            add_exact(entries, task, truth, called, part.subject, independent=level == "subject")
            add_reasons(entries, level, names, matrix)
        for entry in entries.values() if task == "combined" else ():
            if entry["value"] is None:
                entry["reason"] = "one of the two tasks has no value for it"
        result.setdefault(level, {})[task] = entries
    result["warnings"] = cohort.warnings(predictions, result["n"])
    return result


def rates_at(
    predictions: Predictions,
    level: str,
    threshold: float,
    *,
    aggregation: Aggregation = DEFAULT,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Sensitivity, specificity and the like of one level at one threshold, as in metrics.json."""
    subjects, _ = by_subject(predictions, aggregation)
    of = {(p[0], p[1]): p[2:] for p in parts(predictions, subjects)}
    part, index, strata = of[level, "hemorrhage"]
    truth, called = _decisions(part, "hemorrhage", threshold)
    statistic = partial(metrics.hemorrhage_rates, truth == 1, called == 1)
    entries = bootstrap_entries(statistic, index, strata, resamples, seed)
    add_exact(entries, "hemorrhage", truth, called, part.subject, independent=level == "subject")
    names = TASK_CLASSES["hemorrhage"]
    add_reasons(entries, level, names, metrics.confusion_matrix(truth, called, len(names)))
    return entries


def paired_difference(
    a: Predictions,
    b: Predictions,
    *,
    aggregation: Aggregation = DEFAULT,
    aggregation_b: Aggregation | None = None,
    threshold: float = 0.5,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """a - b for every metric, both on the same subjects in each resample.

    The form is metrics.json's, with "a", "b" and the two-sided p-value "p" beside value, low and
    high; p is below 0.05 where the interval leaves 0 out. aggregation_b: where b's is another.
    Raises InputError unless both hold the same slices with the same truths.
    """
    a, b = on_the_same_slices(a, b)
    subjects_a, tied = by_subject(a, aggregation)
    subjects_b, _ = by_subject(b, aggregation_b or aggregation)
    result: dict[str, Any] = {"n": cohort.counts(a, subjects_a, tied)}
    both = zip(parts(a, subjects_a), parts(b, subjects_b), strict=True)
    for (level, task, part_a, index, strata), (_, _, part_b, _, _) in both:
        entries: dict[str, Any] = {}
        if len(part_a) and len(part_a) == len(part_b):
            first, second = (statistic_of(part, task, threshold) for part in (part_a, part_b))
            paired = partial(_difference, first, second)
            intervals = bootstrap.bootstrap(paired, index, strata, resamples, seed, difference=True)
            for name, interval in intervals.items():
                entries[name] = _entry(name, interval) | {"p": _number(interval.p)}
            ones = np.ones((1, len(part_a)))
            for key, statistic in (("a", first), ("b", second)):
                for name, value in statistic(ones).items():
                    entries[name][key] = _number(float(value[0]))
        result.setdefault(level, {})[task] = entries
    return result


def on_the_same_slices(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    """Both in the order of their keys. Raises InputError where slices or truths differ."""
    a, b = a.select(np.argsort(a.key)), b.select(np.argsort(b.key))
    for column in ("key", "subject", "hemorrhage", "location"):
        if not np.array_equal(getattr(a, column), getattr(b, column)):
            raise InputError(
                f"the two predictions differ in column {column}; compare them on the same slices"
            )
    return a, b


def roc_bands(
    predictions: Predictions,
    *,
    aggregation: Aggregation = DEFAULT,
    points: int = 201,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[Float[np.ndarray, " g"], Float[np.ndarray, "3 g"]]]:
    """For each level that has both classes: false positive rates; low, own, high sensitivity.

    low and high: the pointwise 95% percentile band over subjects.
    """
    grid = np.linspace(0, 1, points)
    bands = {}
    subjects, _ = by_subject(predictions, aggregation)
    for level, task, part, index, strata in parts(predictions, subjects):
        if task != "hemorrhage" or len(np.unique(part.hemorrhage)) < 2:
            continue
        truth, p = part.hemorrhage == 1, part.p_hemorrhage
        own = ranking.roc_sensitivity(truth, p, np.ones((1, len(part))), grid)
        drawn = [
            ranking.roc_sensitivity(truth, p, counts[:, index].astype(float), grid)
            for counts in bootstrap.subject_counts(strata, resamples, seed, chunk=100)
        ]
        tails = [(1 - bootstrap.LEVEL) / 2, (1 + bootstrap.LEVEL) / 2]
        low, high = np.nanquantile(np.concatenate(drawn), tails, axis=0)
        bands[level] = (grid, np.stack([low, own[0], high]))
    return bands


Part = tuple[str, str, Predictions, Int[np.ndarray, " n"], Int[np.ndarray, " subjects"]]


def parts(predictions: Predictions, subjects: Predictions) -> Iterator[Part]:
    """Level, task, the rows that count for it, each row's subject and the subjects' strata."""
    strata = bootstrap.strata_of(subjects.hemorrhage, subjects.location)
    indices = (subject_index(predictions, subjects), np.arange(len(subjects)))
    for level, table, index in zip(LEVELS, (predictions, subjects), indices, strict=True):
        known = table.hemorrhage != UNKNOWN
        located = has_location(table)
        masks = {"hemorrhage": known, "location": located}
        if located.any():
            masks["combined"] = known
        for task, mask in masks.items():
            used, place = np.unique(index[mask], return_inverse=True)
            yield level, task, table.select(mask), place, strata[used]


def has_location(table: Predictions) -> Bool[np.ndarray, " n"]:
    """Rows that count for the location task: truly ICH, of a known place, with a prediction."""
    return (table.location != UNKNOWN) & np.isfinite(table.p_location).all(axis=1)


def statistic_of(part: Predictions, task: str, threshold: float) -> bootstrap.Statistic:
    """All metrics of a task over the rows of `part` (as `parts` gives it)."""
    truth, p = part.hemorrhage.astype(int), part.p_hemorrhage.astype(np.float64)
    location, p_location = part.location.astype(int), part.p_location.astype(np.float64)
    if task == "hemorrhage":
        return partial(metrics.hemorrhage_metrics, truth, p, threshold=threshold)
    if task == "location":
        return partial(metrics.location_metrics, location, p_location)
    location = np.where(has_location(part), location, UNKNOWN)
    return partial(metrics.combined_metrics, truth, p, location, p_location, threshold=threshold)


def _difference(
    first: bootstrap.Statistic, second: bootstrap.Statistic, weights: Float[np.ndarray, "r n"]
) -> dict[str, Float[np.ndarray, " r"]]:
    a, b = first(weights), second(weights)
    return {name: a[name] - b[name] for name in a}


def _decisions(
    part: Predictions, task: str, threshold: float
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Truth and call of each row, as indices into the task's classes."""
    if task == "hemorrhage":
        return part.hemorrhage, (part.p_hemorrhage >= threshold).astype(int)
    return part.location, part.p_location.argmax(axis=1)


def bootstrap_entries(
    statistic: bootstrap.Statistic,
    index: Int[np.ndarray, " n"],
    strata: Int[np.ndarray, " subjects"],
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Every metric of `statistic` with its interval, as in metrics.json."""
    intervals = bootstrap.bootstrap(statistic, index, strata, resamples, seed)
    return {name: _entry(name, interval) for name, interval in intervals.items()}


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _entry(name: str, interval: bootstrap.Interval) -> dict[str, Any]:
    low, high = _number(interval.low), _number(interval.high)
    entry: dict[str, Any] = {"value": _number(interval.value), "low": low, "high": high}
    if name == "ece":
        entry |= {"low": None, "high": None, "reason": NO_ECE_INTERVAL}
    elif entry["value"] is not None and low is None:
        entry["reason"] = NO_VARIATION
    if interval.undefined > 0 and entry["value"] is not None:
        entry["undefined_resamples"] = round(interval.undefined, 4)
    return entry
