"""The rows behind a report's numbers: every subject and slice, grouped by outcome."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_builder.records import CLASSES, FACTS, LOCATIONS
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation.subgroups import Facts
from dtvit_jax.evaluation.summary import has_location

MOST_SLICES = 20_000
"""With more slices, the page lists the wrong ones only; predictions.csv has them all."""

TITLES = {
    "false-negative": "ICH, predicted normal (false negatives)",
    "true-positive": "ICH, predicted ICH (true positives)",
    "false-positive": "Normal, predicted ICH (false positives)",
    "true-negative": "Normal, predicted normal (true negatives)",
    "unknown": "Truth unknown",
}
"""Outcomes and their titles."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A subject or slice of a report.

    Attributes:
      key, subject: pseudonyms.
      slices: number of slices, of a subject; None of a slice.
      p: probability of ICH.
      true_location, predicted_location: one of LOCATIONS; empty where there is none.
      p_predicted: probability of the predicted location; None without one.
      wrong: both locations are known and differ.
      facts: values of FACTS in their order, empty where unknown.
    """

    key: str
    subject: str
    slices: int | None
    p: float
    true_location: str
    predicted_location: str
    p_predicted: float | None
    wrong: bool
    facts: tuple[str, ...]


def anchor(level: str, task: str, name: str) -> str:
    """The HTML id of the rows that a number of metrics.json is computed from."""
    if task == "location":
        kind, _, location = name.rpartition("_")
        return f"{level}-in-{location}" if kind == "recall" else f"{level}-locations"
    groups = {
        "sensitivity": "ich",
        "recall": "ich",
        "specificity": "normal",
        "precision": "true-positive",
    }
    return f"{level}-{groups.get(name, 'rows') if task == 'hemorrhage' else 'rows'}"


def class_anchor(level: str, name: str) -> str:
    """The HTML id of the rows of one class of CLASSES, or of unknown truth."""
    if name in LOCATIONS:
        return f"{level}-in-{name}"
    return f"{level}-normal" if name == CLASSES[0] else f"{level}-unknown"


def outcome_rows(
    table: Predictions, threshold: float, slices: dict[str, int], facts: Facts
) -> dict[str, list[Row]]:
    """Groups rows by outcome, the least expected first; of more than MOST_SLICES the wrong ones.

    slices: number of slices by subject. facts: by key of the table.
    """
    groups: dict[str, list[Row]] = {outcome: [] for outcome in TITLES}
    outcomes = {
        (1, False): "false-negative",
        (1, True): "true-positive",
        (0, True): "false-positive",
        (0, False): "true-negative",
    }
    wrong_only = len(table) > MOST_SLICES
    predicted = table.p_hemorrhage >= threshold
    for i, row in enumerate(_rows(table, slices, facts)):
        outcome = outcomes.get((int(table.hemorrhage[i]), bool(predicted[i])), "unknown")
        if not wrong_only or outcome in ("false-negative", "false-positive"):
            groups[outcome].append(row)
    for outcome, rows in groups.items():
        sign = 1 if outcome in ("false-negative", "true-positive") else -1
        rows.sort(key=lambda row: (sign * row.p, row.key))
    return groups


def location_rows(table: Predictions, slices: dict[str, int], facts: Facts) -> dict[str, list[Row]]:
    """Groups the location task's rows by true location, the most confident errors first."""
    groups: dict[str, list[Row]] = {name: [] for name in LOCATIONS}
    located = table.select(has_location(table))
    wrong_only = len(located) > MOST_SLICES
    for row in _rows(located, slices, facts):
        if not wrong_only or row.wrong:
            groups[row.true_location].append(row)
    for rows in groups.values():
        rows.sort(key=lambda row: (not row.wrong, -(row.p_predicted or 0), row.key))
    return groups


def _rows(table: Predictions, slices: dict[str, int], facts: Facts) -> Iterator[Row]:
    for i in range(len(table)):
        truth, p_location = int(table.location[i]), table.p_location[i]
        predicted = int(np.argmax(p_location)) if np.isfinite(p_location).all() else UNKNOWN
        key = str(table.key[i])
        yield Row(
            key=key,
            subject=str(table.subject[i]),
            slices=slices.get(key),
            p=float(table.p_hemorrhage[i]),
            true_location="" if truth == UNKNOWN else LOCATIONS[truth],
            predicted_location="" if predicted == UNKNOWN else LOCATIONS[predicted],
            p_predicted=None if predicted == UNKNOWN else float(p_location[predicted]),
            wrong=predicted not in (UNKNOWN, truth) and truth != UNKNOWN,
            facts=tuple(facts.get(key, {}).get(name, "") for name in FACTS),
        )


def subject_facts(predictions: Predictions, facts: Facts) -> dict[str, dict[str, str]]:
    """Facts by subject; values that differ between its slices are joined."""
    values: dict[str, dict[str, set[str]]] = {}
    for key, subject in zip(predictions.key.tolist(), predictions.subject.tolist(), strict=True):
        for name, value in facts.get(str(key), {}).items():
            values.setdefault(str(subject), {}).setdefault(name, set()).add(value)
    return {
        subject: {name: ", ".join(sorted(distinct)) for name, distinct in by_name.items()}
        for subject, by_name in values.items()
    }
