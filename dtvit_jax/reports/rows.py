"""The rows behind the report's numbers: every subject and slice, grouped by outcome."""

from typing import Any

import numpy as np

from data_builder.records import CLASSES, FACTS, LOCATIONS
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation.subgroups import Facts
from dtvit_jax.evaluation.summary import has_location

MOST_SLICES = 20_000
"""Above it the page lists the wrong slices alone; predictions.csv has them all."""

OUTCOMES = ("missed", "found", "alarm", "alone", "unknown")
"""False negatives, true positives, false positives, true negatives, rows of unknown truth."""
TITLES = {
    "missed": "ICH, missed",
    "found": "ICH, found",
    "alarm": "Normal, called ICH",
    "alone": "Normal, left alone",
    "unknown": "Truth unknown",
}


def anchor(level: str, task: str, name: str) -> str:
    """The id of the rows that a number of metrics.json was computed from."""
    if task == "location":
        place = name.rpartition("_")[2]
        kind = name.rpartition("_")[0]
        return f"{level}-in-{place}" if kind == "recall" else f"{level}-places"
    of = {"sensitivity": "ich", "recall": "ich", "specificity": "normal", "precision": "found"}
    return f"{level}-{of.get(name, 'rows') if task == 'hemorrhage' else 'rows'}"


def class_anchor(level: str, name: str) -> str:
    """The id of the rows of one class of CLASSES, or of unknown truth."""
    if name in LOCATIONS:
        return f"{level}-in-{name}"
    return f"{level}-normal" if name == CLASSES[0] else f"{level}-unknown"


def outcome_rows(
    table: Predictions, threshold: float, slices: dict[str, int], facts: Facts
) -> dict[str, list[dict[str, Any]]]:
    """Every row by outcome, the most surprising first; of very many slices the wrong ones."""
    groups: dict[str, list[dict[str, Any]]] = {outcome: [] for outcome in OUTCOMES}
    short = len(table) > MOST_SLICES
    for row in _rows(table, slices, facts):
        i = row["row"]
        called, truth = bool(table.p_hemorrhage[i] >= threshold), int(table.hemorrhage[i])
        outcome = {
            (1, False): "missed",
            (1, True): "found",
            (0, True): "alarm",
            (0, False): "alone",
        }.get((truth, called), "unknown")
        if not short or outcome in ("missed", "alarm"):
            groups[outcome].append(row)
    for outcome, rows in groups.items():
        up = outcome in ("missed", "found")
        rows.sort(key=lambda r: (r["p"] if up else -r["p"], r["key"]))
    return groups


def location_rows(
    table: Predictions, slices: dict[str, int], facts: Facts
) -> dict[str, list[dict[str, Any]]]:
    """Rows that count for the location task by true location, wrong and confident ones first."""
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in LOCATIONS}
    counts = table.select(has_location(table))
    short = len(counts) > MOST_SLICES
    for row in _rows(counts, slices, facts):
        if not short or row["wrong"]:
            groups[row["truth"]].append(row)
    for rows in groups.values():
        rows.sort(key=lambda r: (not r["wrong"], -r["p_called"], r["key"]))
    return groups


def _rows(table: Predictions, slices: dict[str, int], facts: Facts) -> list[dict[str, Any]]:
    found = []
    for i in range(len(table)):
        location, place = int(table.location[i]), table.p_location[i]
        guess = int(np.argmax(place)) if np.isfinite(place).all() else UNKNOWN
        known = facts.get(str(table.key[i]), {})
        found.append(
            {
                "row": i,
                "key": str(table.key[i]),
                "subject": str(table.subject[i]),
                "slices": slices.get(str(table.key[i])),
                "p": float(table.p_hemorrhage[i]),
                "truth": "" if location == UNKNOWN else LOCATIONS[location],
                "called": "" if guess == UNKNOWN else LOCATIONS[guess],
                "p_called": None if guess == UNKNOWN else float(place[guess]),
                "wrong": guess not in (UNKNOWN, location) and location != UNKNOWN,
                "facts": [known.get(name, "") for name in FACTS],
            }
        )
    return found


def subject_facts(predictions: Predictions, facts: Facts) -> dict[str, dict[str, str]]:
    """Facts of each subject: what its slices say, joined where they differ."""
    values: dict[str, dict[str, set[str]]] = {}
    for key, subject in zip(predictions.key.tolist(), predictions.subject.tolist(), strict=True):
        for name, value in facts.get(str(key), {}).items():
            values.setdefault(str(subject), {}).setdefault(name, set()).add(value)
    return {s: {n: ", ".join(sorted(v)) for n, v in found.items()} for s, found in values.items()}
