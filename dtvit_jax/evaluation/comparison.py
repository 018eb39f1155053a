"""Compares models on the same subjects: paired differences, tests, and conclusions in words."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import DEFAULT, Aggregation, by_subject
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation import bootstrap
from dtvit_jax.evaluation.differences import on_the_same_slices, paired_difference
from dtvit_jax.evaluation.paired_tests import delong, holm, mcnemar
from dtvit_jax.evaluation.schema import Comparison, Differences, PairTests
from dtvit_jax.evaluation.summary import evaluate_predictions, has_location

ALPHA = 0.05


def compare(
    runs: Mapping[str, Predictions],
    aggregations: Mapping[str, Aggregation] | None = None,
    *,
    threshold: float = 0.5,
    resamples: int = bootstrap.RESAMPLES,
) -> Comparison:
    """Computes comparison.json: each run's metrics, and a - b for each pair with tests in words.

    Every p-value has "p_holm", adjusted over all pairs for the same metric. McNemar's and DeLong's
    tests assume independent rows, so they are by subject only; a difference by slice has its
    p-value from resampled subjects. Raises InputError unless there are two runs or more, all on
    the same slices with the same truths.
    """
    if len(runs) < 2:
        raise InputError("give two runs or more to compare")
    by_run = {name: (aggregations or {}).get(name, DEFAULT) for name in runs}
    first = next(iter(runs.values()))
    tables = {name: on_the_same_slices(first, table)[1] for name, table in runs.items()}
    subjects = {name: by_subject(table, by_run[name])[0] for name, table in tables.items()}
    metrics = {
        name: evaluate_predictions(
            table, aggregation=by_run[name], threshold=threshold, resamples=resamples
        )
        for name, table in tables.items()
    }
    names = list(itertools.combinations(runs, 2))
    differences = [
        paired_difference(
            tables[a],
            tables[b],
            aggregation=by_run[a],
            aggregation_b=by_run[b],
            threshold=threshold,
            resamples=resamples,
        )
        for a, b in names
    ]
    by_subjects = _adjust_differences([pair["subject"] for pair in differences])
    by_slices = _adjust_differences([pair["slice"] for pair in differences])
    tests = _adjust_tests([_tests(subjects[a], subjects[b], threshold) for a, b in names])
    shared = metrics[next(iter(runs))]
    return {
        "positive": shared["positive"],
        "threshold": threshold,
        "interval": shared["interval"],
        "n": shared["n"],
        "warnings": shared["warnings"],
        "runs": {
            name: {
                "aggregation": str(by_run[name]),
                "subject": own["subject"],
                "slice": own["slice"],
            }
            for name, own in metrics.items()
        },
        "pairs": [
            {
                "a": a,
                "b": b,
                "subject": by_subjects[i],
                "slice": by_slices[i],
                "tests": tests[i],
                "sentences": sentences(a, b, tests[i], len(names)),
            }
            for i, (a, b) in enumerate(names)
        ],
    }


def _tests(a: Predictions, b: Predictions, threshold: float) -> PairTests:
    """McNemar's test of both tasks and DeLong's of the ICH task, by subject.

    None where no subject counts, or (DeLong) where a class has fewer than two.
    """
    known = a.hemorrhage != UNKNOWN
    truth = a.hemorrhage[known] == 1
    scores = np.stack([t.p_hemorrhage[known].astype(np.float64) for t in (a, b)])
    tests: PairTests = {"mcnemar": {"hemorrhage": None, "location": None}, "delong": None}
    if len(truth):
        tests["mcnemar"]["hemorrhage"] = mcnemar(*((scores >= threshold) == truth))
    located = has_location(a) & has_location(b)
    if located.any():
        location = a.location[located]
        correct = [t.p_location[located].argmax(axis=1) == location for t in (a, b)]
        tests["mcnemar"]["location"] = mcnemar(*correct)
    if min(truth.sum(), (~truth).sum()) >= 2:
        tests["delong"] = delong(truth, scores).difference(0, 1)
    return tests


def _adjust_differences(pairs: Sequence[dict[str, Differences]]) -> list[dict[str, Differences]]:
    """Adjusts the differences of one level, by task and metric, over all pairs (`_with_holm`)."""
    adjusted = [{task: dict(entries) for task, entries in pair.items()} for pair in pairs]
    for task, entries in pairs[0].items():
        for name in entries:
            column = _with_holm([pair.get(task, {}).get(name) for pair in pairs])
            for pair, entry in zip(adjusted, column, strict=True):
                if entry is not None:
                    pair[task][name] = entry
    return adjusted


def _adjust_tests(pairs: Sequence[PairTests]) -> list[PairTests]:
    """Adjusts each test over all pairs (`_with_holm`)."""
    hemorrhage, location = (
        _with_holm([tests["mcnemar"][task] for tests in pairs])
        for task in ("hemorrhage", "location")
    )
    areas = _with_holm([tests["delong"] for tests in pairs])
    return [
        {"mcnemar": {"hemorrhage": h, "location": p}, "delong": area}
        for h, p, area in zip(hemorrhage, location, areas, strict=True)
    ]


def _with_holm(entries: Sequence[Any]) -> list[Any]:
    """Copies of one metric's entries, one per pair, with "p_holm" (Holm 1979) over all pairs.

    A pair without an entry (None) or without a p-value counts as p = 1. A difference of 0 that
    every resample repeats has p = 1.
    """
    p = [_p_value(entry) for entry in entries]
    adjusted = holm([1.0 if value is None else value for value in p])
    return [
        None
        if entry is None
        else {**entry, "p": value, "p_holm": None if value is None else p_holm}
        for entry, value, p_holm in zip(entries, p, adjusted, strict=True)
    ]


def _p_value(entry: Mapping[str, Any] | None) -> float | None:
    if entry is None:
        return None
    return 1.0 if entry["p"] is None and entry["value"] == 0 else entry["p"]


def sentences(a: str, b: str, tests: PairTests, pairs: int) -> list[str]:
    """What the tests of one pair of `pairs` show, in sentences."""
    conclusions = []
    area = tests["delong"]
    if area:
        name = "subject-level AUROC for ICH"
        values = f"The {name} is {area['a']:.3f} for {a} and {area['b']:.3f} for {b}"
        interval = f"95% interval {area['low']:+.3f} to {area['high']:+.3f}"
        if area["se"] == 0 and area["value"] == 0:
            conclusions.append(f"{values}: both rank ICH and normal subjects in the same order.")
        else:
            test = f"DeLong p {_p(area['p'])}{_holm(area['p_holm'], pairs)}"
            difference = f"a difference of {area['value']:+.3f} ({interval}; {test})"
            verdict = _verdict(a, b, area["value"], area["p_holm"], name)
            conclusions.append(f"{values}, {difference}. {verdict}")
    for task, subject in (("hemorrhage", "ICH or normal"), ("location", "the location")):
        counts = tests["mcnemar"][task]
        if not counts:
            continue
        only_a, only_b = counts["only_a"], counts["only_b"]
        if only_a + only_b == 0:
            conclusions.append(f"For {subject}, {a} and {b} are correct on the same subjects.")
            continue
        test = f"McNemar p {_p(counts['p'])}{_holm(counts['p_holm'], pairs)}"
        verdict = _verdict(a, b, only_a - only_b, counts["p_holm"], "accuracy")
        conclusions.append(
            f"For {subject}, only {a} is correct on {only_a} subjects and only {b} on {only_b} "
            f"({test}). {verdict}"
        )
    return conclusions


def _verdict(a: str, b: str, difference: int | float, p_holm: float, metric: str) -> str:
    if p_holm >= ALPHA:
        return (
            f"These subjects do not show that the two differ in {metric}; that is not the same as "
            "showing that they are equal."
        )
    better, worse = (a, b) if difference > 0 else (b, a)
    return (
        f"On subjects of this kind, {better}'s {metric} is above {worse}'s; the test "
        "concerns these two trained models, not other training runs of the same recipes."
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _holm(p_holm: float, pairs: int) -> str:
    return f"; p {_p(p_holm)} by Holm over {pairs} pairs" if pairs > 1 else ""
