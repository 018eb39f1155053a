"""Models on the same subjects: paired differences, tests, and what these allow to say."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import DEFAULT, Aggregation, by_subject
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation import bootstrap
from dtvit_jax.evaluation.paired_tests import delong, holm, mcnemar
from dtvit_jax.evaluation.summary import (
    evaluate_predictions,
    has_location,
    on_the_same_slices,
    paired_difference,
)

ALPHA = 0.05


def compare(
    runs: Mapping[str, Predictions],
    aggregations: Mapping[str, Aggregation] | None = None,
    *,
    threshold: float = 0.5,
    resamples: int = bootstrap.RESAMPLES,
) -> dict[str, Any]:
    """comparison.json: each run's figures, and for each pair a - b with tests and sentences.

    Every p-value has "p_holm", adjusted over all pairs for the same figure. McNemar's and DeLong's
    tests take rows as independent, so they are by subject only; a difference by slice has its
    p-value from resampled subjects. Raises InputError unless there are two runs or more, all on
    the same slices with the same truths.
    """
    if len(runs) < 2:
        raise InputError("give two runs or more to compare")
    how = {name: (aggregations or {}).get(name, DEFAULT) for name in runs}
    first = next(iter(runs.values()))
    same = {name: on_the_same_slices(first, table)[1] for name, table in runs.items()}
    subjects = {name: by_subject(table, how[name])[0] for name, table in same.items()}
    options: dict[str, Any] = {"threshold": threshold, "resamples": resamples}
    figures = {
        name: evaluate_predictions(table, aggregation=how[name], **options)
        for name, table in same.items()
    }
    pairs = []
    for a, b in itertools.combinations(runs, 2):
        found = paired_difference(
            same[a], same[b], aggregation=how[a], aggregation_b=how[b], **options
        )
        tests = _tests(subjects[a], subjects[b], threshold)
        pairs.append(
            {"a": a, "b": b, **{k: found[k] for k in ("subject", "slice")}, "tests": tests}
        )
    _adjust(pairs)
    for pair in pairs:
        pair["sentences"] = sentences(pair, len(pairs))
    one = next(iter(figures.values()))
    return {
        "positive": one["positive"],
        "threshold": threshold,
        "interval": one["interval"],
        "n": one["n"],
        "warnings": one["warnings"],
        "runs": {
            name: {
                "aggregation": str(how[name]),
                **{level: found[level] for level in ("subject", "slice")},
            }
            for name, found in figures.items()
        },
        "pairs": pairs,
    }


def _tests(a: Predictions, b: Predictions, threshold: float) -> dict[str, Any]:
    """McNemar's test of both tasks and DeLong's of the ICH task, by subject; null where not had."""
    known = a.hemorrhage != UNKNOWN
    truth = a.hemorrhage[known] == 1
    scores = np.stack([t.p_hemorrhage[known].astype(np.float64) for t in (a, b)])
    found: dict[str, Any] = {"mcnemar": {"hemorrhage": None, "location": None}, "delong": None}
    if len(truth):
        right = (scores >= threshold) == truth
        found["mcnemar"]["hemorrhage"] = mcnemar(*right)
    located = has_location(a) & has_location(b)
    if located.any():
        place = a.location[located]
        right = [t.p_location[located].argmax(axis=1) == place for t in (a, b)]
        found["mcnemar"]["location"] = mcnemar(*right)
    if min(truth.sum(), (~truth).sum()) >= 2:
        areas = delong(truth, scores)
        found["delong"] = {"a": float(areas.areas[0]), "b": float(areas.areas[1])}
        found["delong"] |= areas.difference(0, 1)
    return found


def _adjust(pairs: Sequence[dict[str, Any]]) -> None:
    """Adds "p_holm" beside each "p", adjusted over all pairs for the same figure.

    A difference of 0 that no resample moves has p = 1; a pair without a p-value counts as 1.
    """
    for leaf in _leaves(pairs[0]):
        entries = [entry for pair in pairs if (entry := _at(pair, leaf)) is not None]
        for entry in entries:
            if entry.get("p") is None and entry.get("value") == 0:
                entry["p"] = 1.0
        family = [1.0 if (p := entry.get("p")) is None else p for entry in entries]
        family += [1.0] * (len(pairs) - len(family))
        for entry, p in zip(entries, holm(family), strict=False):
            entry["p_holm"] = None if entry.get("p") is None else p


def _leaves(pair: Mapping[str, Any]) -> list[tuple[str, ...]]:
    differences = [
        (level, task, name)
        for level in ("subject", "slice")
        for task, entries in pair[level].items()
        for name in entries
    ]
    tests = [("tests", "mcnemar", "hemorrhage"), ("tests", "mcnemar", "location")]
    return [*differences, *tests, ("tests", "delong")]


def _at(pair: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    found: Any = pair
    for name in path:
        found = (found or {}).get(name)
    return found


def sentences(pair: Mapping[str, Any], pairs: int) -> list[str]:
    """What the tests of one pair allow to say, and no more."""
    a, b, tests = pair["a"], pair["b"], pair["tests"]
    said = []
    area = tests["delong"]
    if area:
        name = "subject-level AUROC for ICH"
        figures = f"The {name} is {area['a']:.3f} for {a} and {area['b']:.3f} for {b}"
        reach = f"95% interval {area['low']:+.3f} to {area['high']:+.3f}"
        if area["se"] == 0 and area["value"] == 0:
            said.append(f"{figures}: both put the subjects in the same order, as far as it counts.")
        else:
            test = f"DeLong p {_p(area['p'])}{_holm(area, pairs)}"
            start = f"{figures}, a difference of {area['value']:+.3f} ({reach}; {test})."
            said.append(f"{start} {_verdict(a, b, area, name)}")
    for task, what in (("hemorrhage", "ICH or normal"), ("location", "the location")):
        test = tests["mcnemar"][task]
        if not test:
            continue
        if test["only_a"] + test["only_b"] == 0:
            said.append(f"On {what}, {a} and {b} are right and wrong on the same subjects.")
            continue
        said.append(
            f"On {what}, {a} alone is right on {test['only_a']} subjects and {b} alone on "
            f"{test['only_b']} (McNemar p {_p(test['p'])}{_holm(test, pairs)}). "
            + _verdict(a, b, test | {"value": test["only_a"] - test["only_b"]}, "accuracy")
        )
    return said


def _verdict(a: str, b: str, test: Mapping[str, Any], what: str) -> str:
    if test["p_holm"] >= ALPHA:
        return (
            f"These subjects do not show that the two differ in {what}; that is not the same as "
            "showing that they are equal."
        )
    better, worse = (a, b) if test["value"] > 0 else (b, a)
    return (
        f"On subjects of this kind, {better}'s {what} is above {worse}'s; the test speaks of these "
        "two trained models, not of other training runs of the same recipes."
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _holm(test: Mapping[str, Any], pairs: int) -> str:
    return f"; p {_p(test['p_holm'])} by Holm over {pairs} pairs" if pairs > 1 else ""
