"""Metrics by sex, year, scanner and slice thickness, and whether these are confounds."""

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from data_builder.errors import InputError
from data_builder.records import FACTS
from dtvit_jax.decision.aggregation import DEFAULT, Aggregation, by_subject, subject_index
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation import ranking
from dtvit_jax.evaluation.intervals import finite
from dtvit_jax.evaluation.schema import Estimates, Group, Metrics, Subgroups
from dtvit_jax.evaluation.summary import evaluate_predictions

MOST = 8
"""The most groups of a fact; the rarest are joined as 'other'."""
RESAMPLES = 2000
SHOWN = {
    "hemorrhage": ("auroc", "sensitivity", "specificity"),
    "location": ("accuracy", "macro_recall"),
}
STRONG = 0.75
"""The AUROC of a fact by itself from which on it is reported as a confound."""
WORDS = {"thickness_mm": "slice thickness in mm"}
Facts = Mapping[str, Mapping[str, str]]
"""For each slice key the known facts by name."""


def read_facts(path: Path) -> dict[str, dict[str, str]]:
    """Reads the known columns of FACTS by slice key, from a manifest.csv or a splits.csv.

    Raises InputError where the file cannot be read or has no column `key`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a .csv file: name a manifest.csv") from error
    if rows and "key" not in rows[0]:
        raise InputError(f"{path}, line 1: no column key: name a manifest.csv")
    return {
        row["key"]: {name: row[name].strip() for name in FACTS if (row.get(name) or "").strip()}
        for row in rows
    }


def subgroups(
    predictions: Predictions,
    facts: Facts,
    *,
    aggregation: Aggregation = DEFAULT,
    resamples: int = RESAMPLES,
) -> dict[str, Subgroups]:
    """Computes the "subgroups" of metrics.json: for each fact its groups and its confound.

    A fact without two different values is left out. "alone": the AUROC of the fact by itself, a
    subject's score being the share of ICH among subjects of its value (in the same sample, so
    slightly too high). "confound": a sentence where fact and label are associated, else null.
    """
    by_fact: dict[str, Subgroups] = {}
    for name in FACTS:
        values = _merged(
            np.array([facts.get(str(key), {}).get(name, "") for key in predictions.key])
        )
        distinct = sorted(set(values.tolist()), key=_order)
        if len(distinct) < 2:
            continue
        groups = []
        for value in distinct:
            rows = predictions.select(values == value)
            metrics = evaluate_predictions(rows, aggregation=aggregation, resamples=resamples)
            groups.append(_group(value, metrics))
        subject_values, truth = _of_subjects(predictions, values)
        alone = _alone(subject_values, truth)
        confound = _confound(name, subject_values, truth, alone)
        by_fact[name] = {"confound": confound, "alone": alone, "groups": groups}
    return by_fact


def _group(value: str, metrics: Metrics) -> Group:
    def shown(level: dict[str, Estimates]) -> dict[str, Estimates]:
        return {task: {name: level[task][name] for name in names} for task, names in SHOWN.items()}

    return {
        "value": value or "not known",
        "n": metrics["n"],
        "subject": shown(metrics["subject"]),
        "slice": shown(metrics["slice"]),
    }


def _merged(values: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """The values; where there are more than MOST, the rarest become 'other'."""
    counts = Counter(value for value in values.tolist() if value)
    if len(counts) <= MOST:
        return values
    kept = [value for value, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[: MOST - 1]]
    return np.where(np.isin(values, [*kept, ""]), values, "other")


def _order(value: str) -> tuple[int, float, str]:
    """Sorts numbers by size, then words, then 'other', then unknown values."""
    try:
        return 0, float(value), value
    except ValueError:
        return {"other": 2, "": 3}.get(value, 1), 0.0, value


def _of_subjects(
    predictions: Predictions, values: Shaped[np.ndarray, " n"]
) -> tuple[Shaped[np.ndarray, " subjects"], Bool[np.ndarray, " subjects"]]:
    """Value and truth of each subject of known truth; the values of its slices are joined."""
    subjects, _ = by_subject(predictions)
    index = subject_index(predictions, subjects)
    joined = [
        " and ".join(sorted(set(values[index == i].tolist()), key=_order))
        for i in range(len(subjects))
    ]
    known = subjects.hemorrhage != UNKNOWN
    return np.array(joined)[known], subjects.hemorrhage[known] == 1


def _alone(values: Shaped[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float | None:
    """The AUROC of the share of ICH among subjects of the same value; None with one class."""
    share = {value: truth[values == value].mean() for value in set(values.tolist())}
    score = np.array([share[value] for value in values.tolist()])
    return finite(float(ranking.auroc(truth, score, np.ones((1, len(truth))))[0]))


def _confound(
    name: str, values: Shaped[np.ndarray, " n"], truth: Bool[np.ndarray, " n"], alone: float | None
) -> str | None:
    """A sentence where no value has both classes, or the fact alone ranks them (STRONG)."""
    word = WORDS.get(name, name)
    ich, normal = set(values[truth].tolist()), set(values[~truth].tolist())
    if not ich or not normal:
        return None
    if not ich & normal:
        of_ich, of_normal = (
            ", ".join(sorted(v or "not known" for v in side)) for side in (ich, normal)
        )
        return (
            f"No {word} has both ICH and normal subjects (ICH: {of_ich}; normal: {of_normal}). A "
            f"model that recognised only the {word} would reach a perfect AUROC here, and these "
            "data cannot distinguish it from one that detects hemorrhage."
        )
    if alone is not None and alone >= STRONG:
        return (
            f"The {word} is associated with the label: by itself, without any image, it ranks ICH "
            f"above normal subjects with an AUROC of {alone:.2f}. Read the metrics within each "
            f"{word} before those over all subjects."
        )
    return None
