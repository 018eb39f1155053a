"""From predictions to metrics.json: each metric by slice and by subject, with its interval."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from data_builder.records import LOCATIONS
from dtvit_jax.decision.aggregation import (
    DEFAULT,
    LEVELS,
    Aggregation,
    Level,
    by_subject,
    subject_index,
)
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation import bootstrap, cohort, metrics, ranking
from dtvit_jax.evaluation.intervals import closed_form, estimate, why_no_rows, why_undefined
from dtvit_jax.evaluation.schema import ByLevel, Estimates, Metrics, Task

POSITIVE = "ICH (hemorrhage = 1)"
TASK_CLASSES = {"hemorrhage": ("normal", "ICH"), "location": LOCATIONS}
BAND_RESAMPLES = 1000
NO_COMBINED = "one of the two tasks has no value for this metric"


class Part(NamedTuple):
    """The rows of a table that count for a task.

    Attributes:
      level, task: what the rows are, and what they count for.
      table: the rows.
      subject: each row's subject, as an index into `strata`.
      strata: each subject's class, as `bootstrap.strata_of` numbers them.
    """

    level: Level
    task: Task
    table: Predictions
    subject: Int[np.ndarray, " n"]
    strata: Int[np.ndarray, " subjects"]


def evaluate_predictions(
    predictions: Predictions,
    *,
    aggregation: Aggregation = DEFAULT,
    threshold: float = 0.5,
    resamples: int = bootstrap.RESAMPLES,
) -> Metrics:
    """Computes metrics.json for one set of predictions (one split of one run).

    Subject-level proportions have "exact", the Clopper-Pearson interval, and AUROCs "score",
    Newcombe's; where every resample has the same value, low and high are those. ICH is predicted
    at p >= threshold.
    """
    subjects, tied = by_subject(predictions, aggregation)
    counts = cohort.counts(predictions, subjects, tied)
    confusion: dict[Level, dict[str, list[list[int]]]] = {}
    estimates: ByLevel[Estimates] = {"slice": {}, "subject": {}}
    for part in parts(predictions, subjects):
        statistic = statistic_of(part.table, part.task, threshold)
        intervals = bootstrap.bootstrap(statistic, part.subject, part.strata, resamples)
        estimates[part.level][part.task] = _estimates(part, threshold, intervals)
        if part.task != "combined":
            matrix = confusion_of(part, threshold)
            confusion.setdefault(part.level, {})[part.task] = matrix.tolist()
    return {
        "positive": POSITIVE,
        "threshold": threshold,
        "aggregation": {
            "method": aggregation.method,
            "k": aggregation.k,
            "words": str(aggregation),
        },
        "interval": {
            "level": bootstrap.LEVEL,
            "method": bootstrap.METHOD,
            "resamples": resamples,
            "seed": bootstrap.SEED,
        },
        "n": counts,
        "confusion": confusion,
        **estimates,
        "warnings": cohort.warnings(predictions, counts),
    }


def rates_at(
    predictions: Predictions,
    level: Level,
    threshold: float,
    *,
    aggregation: Aggregation = DEFAULT,
    resamples: int = bootstrap.RESAMPLES,
) -> Estimates:
    """Computes the rates of one level's ICH decisions at one threshold, as in metrics.json."""
    subjects, _ = by_subject(predictions, aggregation)
    (part,) = (
        part
        for part in parts(predictions, subjects)
        if (part.level, part.task) == (level, "hemorrhage")
    )
    truth, predicted = _decisions(part, threshold)
    statistic = partial(metrics.hemorrhage_rates, truth == 1, predicted == 1)
    intervals = bootstrap.bootstrap(statistic, part.subject, part.strata, resamples)
    return _estimates(part, threshold, intervals)


def _estimates(part: Part, threshold: float, intervals: dict[str, bootstrap.Interval]) -> Estimates:
    """Every metric of a task with its closed form, or the reason why it has no value."""
    if part.task == "combined":
        return {name: estimate(name, i, undefined=NO_COMBINED) for name, i in intervals.items()}
    truth, predicted = _decisions(part, threshold)
    subject, classes = part.table.subject, TASK_CLASSES[part.task]
    matrix = confusion_of(part, threshold)
    no_rows = why_no_rows(part.level, matrix)
    return {
        name: estimate(
            name,
            interval,
            closed_form(name, interval.value, part.task, truth, predicted, subject),
            independent=part.level == "subject",
            undefined=no_rows or why_undefined(name, part.level, classes, matrix),
            no_rows=no_rows,
        )
        for name, interval in intervals.items()
    }


def roc_bands(
    predictions: Predictions, aggregation: Aggregation
) -> dict[Level, tuple[Float[np.ndarray, " g"], Float[np.ndarray, "3 g"]]]:
    """Computes ROC curves with pointwise 95% percentile bands over subjects.

    Returns, for each level with both classes, false positive rates and the sensitivity at them:
    the low end, the sample's own, the high end.
    """
    grid = np.linspace(0, 1, 201)
    bands: dict[Level, tuple[Float[np.ndarray, " g"], Float[np.ndarray, "3 g"]]] = {}
    subjects, _ = by_subject(predictions, aggregation)
    for part in parts(predictions, subjects):
        if part.task != "hemorrhage" or len(np.unique(part.table.hemorrhage)) < 2:
            continue
        truth, p = part.table.hemorrhage == 1, part.table.p_hemorrhage
        own = ranking.roc_sensitivity(truth, p, np.ones((1, len(p))), grid)
        drawn = [
            ranking.roc_sensitivity(truth, p, counts[:, part.subject].astype(float), grid)
            for counts in bootstrap.subject_counts(part.strata, BAND_RESAMPLES, bootstrap.SEED, 100)
        ]
        tails = [(1 - bootstrap.LEVEL) / 2, (1 + bootstrap.LEVEL) / 2]
        low, high = np.nanquantile(np.concatenate(drawn), tails, axis=0)
        bands[part.level] = (grid, np.stack([low, own[0], high]))
    return bands


def parts(predictions: Predictions, subjects: Predictions) -> Iterator[Part]:
    """Yields the rows that count for each task at each level; 'combined' if both tasks have any."""
    strata = bootstrap.strata_of(subjects.hemorrhage, subjects.location)
    indices = (subject_index(predictions, subjects), np.arange(len(subjects)))
    for level, table, index in zip(LEVELS, (predictions, subjects), indices, strict=True):
        known = table.hemorrhage != UNKNOWN
        located = has_location(table)
        masks: dict[Task, np.ndarray] = {"hemorrhage": known, "location": located}
        if located.any():
            masks["combined"] = known
        for task, mask in masks.items():
            used, position = np.unique(index[mask], return_inverse=True)
            yield Part(level, task, table.select(mask), position, strata[used])


def has_location(table: Predictions) -> Bool[np.ndarray, " n"]:
    """Rows that count for the location task: ICH of a known location, with a prediction."""
    return (table.location != UNKNOWN) & np.isfinite(table.p_location).all(axis=1)


def statistic_of(table: Predictions, task: str, threshold: float) -> bootstrap.Statistic:
    """Returns the function that computes a task's metrics over the rows of a `Part`."""
    truth, p = table.hemorrhage.astype(int), table.p_hemorrhage.astype(np.float64)
    location, p_location = table.location.astype(int), table.p_location.astype(np.float64)
    if task == "hemorrhage":
        return partial(metrics.hemorrhage_metrics, truth, p, threshold=threshold)
    if task == "location":
        return partial(metrics.location_metrics, location, p_location)
    location = np.where(has_location(table), location, UNKNOWN)
    return partial(metrics.combined_metrics, truth, p, location, p_location, threshold=threshold)


def confusion_of(part: Part, threshold: float) -> Int[np.ndarray, "c c"]:
    """Computes the confusion matrix of a task of TASK_CLASSES, the truth in rows."""
    return metrics.confusion_matrix(*_decisions(part, threshold), len(TASK_CLASSES[part.task]))


def _decisions(part: Part, threshold: float) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """True and predicted class of each row, as indices into the task's classes."""
    table = part.table
    if part.task == "hemorrhage":
        return table.hemorrhage, (table.p_hemorrhage.astype(np.float64) >= threshold).astype(int)
    return table.location, table.p_location.argmax(axis=1)
