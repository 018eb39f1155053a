"""Differences of two models' metrics on the same subjects, with 95% intervals and p-values."""

from functools import partial

import numpy as np

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import DEFAULT, Aggregation, by_subject
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.evaluation import bootstrap, cohort
from dtvit_jax.evaluation.intervals import estimate, finite
from dtvit_jax.evaluation.ranking import Values, Weights
from dtvit_jax.evaluation.schema import ByLevel, Difference, Differences, PairedDifferences
from dtvit_jax.evaluation.summary import Part, parts, statistic_of


def paired_difference(
    a: Predictions,
    b: Predictions,
    *,
    aggregation: Aggregation = DEFAULT,
    aggregation_b: Aggregation | None = None,
    threshold: float = 0.5,
    resamples: int = bootstrap.RESAMPLES,
) -> PairedDifferences:
    """Computes a - b for every metric; each resample draws the same subjects for both.

    The form is that of metrics.json, with "a", "b" and the two-sided p-value "p"; p is below 0.05
    where the interval excludes 0. aggregation_b: that of b (None: the same). Raises InputError
    unless both hold the same slices with the same truths.
    """
    a, b = on_the_same_slices(a, b)
    subjects_a, tied = by_subject(a, aggregation)
    subjects_b, _ = by_subject(b, aggregation_b or aggregation)
    differences: ByLevel[Differences] = {"slice": {}, "subject": {}}
    for part_a, part_b in zip(parts(a, subjects_a), parts(b, subjects_b), strict=True):
        same_rows = len(part_a.table) and len(part_a.table) == len(part_b.table)
        differences[part_a.level][part_a.task] = (
            _differences(part_a, part_b, threshold, resamples) if same_rows else {}
        )
    return {"n": cohort.counts(a, subjects_a, tied), **differences}


def _differences(a: Part, b: Part, threshold: float, resamples: int) -> Differences:
    statistics = tuple(statistic_of(part.table, part.task, threshold) for part in (a, b))
    paired = partial(_difference, statistics)
    intervals = bootstrap.bootstrap(paired, a.subject, a.strata, resamples, difference=True)
    of_a, of_b = (statistic(np.ones((1, len(a.table)))) for statistic in statistics)
    return {
        name: Difference(
            **estimate(name, interval),
            p=finite(interval.p),
            a=finite(float(of_a[name][0])),
            b=finite(float(of_b[name][0])),
        )
        for name, interval in intervals.items()
    }


def on_the_same_slices(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    """Sorts both tables by key. Raises InputError where slices or truths differ."""
    a, b = a.select(np.argsort(a.key)), b.select(np.argsort(b.key))
    for column in ("key", "subject", "hemorrhage", "location"):
        if not np.array_equal(getattr(a, column), getattr(b, column)):
            raise InputError(
                f"the two predictions differ in column {column}; compare them on the same slices"
            )
    return a, b


def _difference(statistics: tuple[bootstrap.Statistic, ...], weights: Weights) -> dict[str, Values]:
    a, b = (statistic(weights) for statistic in statistics)
    return {name: a[name] - b[name] for name in a}
