"""The same figures by sex, year, scanner and slice thickness, and what those alone would tell."""

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from data_builder.errors import InputError
from data_builder.records import FACTS
from dtvit_jax.decision.aggregation import DEFAULT, Aggregation, by_subject, subject_index
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.evaluation import ranking
from dtvit_jax.evaluation.summary import evaluate_predictions

MOST = 8
"""Groups of a fact at most; the rarest are put together as 'other'."""
RESAMPLES = 2000
SHOWN = {
    "hemorrhage": ("auroc", "sensitivity", "specificity"),
    "location": ("accuracy", "macro_recall"),
}
STRONG = 0.75
WORDS = {"thickness_mm": "slice thickness in mm"}
Facts = Mapping[str, Mapping[str, str]]


def read_facts(path: Path) -> dict[str, dict[str, str]]:
    """For each slice key the known columns of FACTS, from a manifest.csv or the shards' splits.csv.

    Raises InputError where the file can't be read or has no column `key`.
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
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The "subgroups" of metrics.json: for each known fact its groups' figures and its confound.

    A fact that no slice, or every slice alike, has is left out. "alone": the AUROC of the fact by
    itself, a subject's score being the share of ICH among subjects of its value (in the sample:
    a little too high). "confound": a sentence where the fact and the label go together, else null.
    """
    found = {}
    for name in FACTS:
        values = np.array([facts.get(str(key), {}).get(name, "") for key in predictions.key])
        values = _merged(values)
        if len(set(values.tolist()) - {""}) == 0 or len(set(values.tolist())) < 2:
            continue
        subject_values, truth = _of_subjects(predictions, values)
        groups = []
        for value in sorted(set(values.tolist()), key=_order):
            rows = predictions.select(values == value)
            result = evaluate_predictions(
                rows, aggregation=aggregation, threshold=threshold, resamples=resamples
            )
            figures = {
                level: {
                    task: {metric: result[level][task][metric] for metric in metrics}
                    for task, metrics in SHOWN.items()
                }
                for level in ("subject", "slice")
            }
            groups.append({"value": value or "not known", "n": result["n"], **figures})
        alone = _alone(subject_values, truth)
        confound = _confound(name, subject_values, truth, alone)
        found[name] = {"confound": confound, "alone": alone, "groups": groups}
    return found


def _merged(values: Shaped[np.ndarray, " n"]) -> Shaped[np.ndarray, " n"]:
    """The values, the rarest as 'other' where there are more than MOST."""
    counts = Counter(value for value in values.tolist() if value)
    if len(counts) <= MOST:
        return values
    kept = [value for value, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[: MOST - 1]]
    return np.where(np.isin(values, [*kept, ""]), values, "other")


def _order(value: str) -> tuple[int, float, str]:
    """Numbers by size, then words, then 'other' and what is not known."""
    try:
        return 0, float(value), value
    except ValueError:
        return {"other": 2, "": 3}.get(value, 1), 0.0, value


def _of_subjects(
    predictions: Predictions, values: Shaped[np.ndarray, " n"]
) -> tuple[Shaped[np.ndarray, " subjects"], np.ndarray]:
    """Each subject's value (its values joined where slices differ) and truth, known ones only."""
    subjects, _ = by_subject(predictions)
    index = subject_index(predictions, subjects)
    joined = [
        " and ".join(sorted(set(values[index == i].tolist()), key=_order))
        for i in range(len(subjects))
    ]
    known = subjects.hemorrhage != UNKNOWN
    return np.array(joined)[known], subjects.hemorrhage[known] == 1


def _alone(values: Shaped[np.ndarray, " n"], truth: np.ndarray) -> float | None:
    share = {value: truth[values == value].mean() for value in set(values.tolist())}
    score = np.array([share[value] for value in values.tolist()])
    area = float(ranking.auroc(truth, score, np.ones((1, len(truth))))[0])
    return area if np.isfinite(area) else None


def _confound(
    name: str, values: Shaped[np.ndarray, " n"], truth: np.ndarray, alone: float | None
) -> str | None:
    """The sentence that a reader must not miss."""
    word = WORDS.get(name, name)
    ich, normal = set(values[truth].tolist()), set(values[~truth].tolist())
    if not ich or not normal:
        return None
    if not ich & normal:
        here = {
            label: ", ".join(sorted(v or "not known" for v in side))
            for label, side in (("ICH", ich), ("normal", normal))
        }
        return (
            f"No {word} holds both ICH and normal subjects (ICH: {here['ICH']}; normal: "
            f"{here['normal']}). A model that told only the {word} would reach a perfect AUROC "
            "here, and nothing in these data tells that from finding hemorrhages."
        )
    if alone is not None and alone >= STRONG:
        return (
            f"The {word} goes with the label: alone, without a look at any image, it ranks ICH "
            f"above normal subjects with an AUROC of {alone:.2f}. Read the figures within one "
            f"{word} before the figure over all."
        )
    return None
