"""Which figures an evaluation has, drawn from its predictions and metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dtvit_jax.decision.aggregation import Aggregation
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.evaluation.metrics import reliability_bins
from dtvit_jax.evaluation.summary import TASK_CLASSES, has_location, roc_bands
from dtvit_jax.reports import figures


def draw(
    predictions: Predictions,
    subjects: Predictions,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    rule: DecisionRule | None,
) -> dict[str, Figure]:
    """Figures by name; one that the sample has no rows for is left out."""
    drawn = {}
    if history:
        drawn["curves"] = figures.training_curves(history)
    for level, tasks in metrics["confusion"].items():
        for task, matrix in tasks.items():
            if np.sum(matrix):
                title = f"{task.capitalize()}, by {level}"
                names = TASK_CLASSES[task]
                drawn[f"confusion_{task}_{level}"] = figures.confusion(
                    np.array(matrix), names, title, f"{level}s"
                )
    how = metrics["aggregation"]
    bands = roc_bands(predictions, aggregation=Aggregation(how["method"], how["k"]))
    if bands:
        drawn["roc"] = figures.roc({f"By {level}": bands[level] for level in reversed(bands)})
    tables = {"subject": subjects, "slice": predictions}
    if (subjects.hemorrhage != UNKNOWN).any():
        known = subjects.select(subjects.hemorrhage != UNKNOWN)
        drawn["subjects"] = figures.subject_scores(known, metrics["threshold"])
    panels = _reliability(tables, rule)
    for task, found in panels.items():
        if found:
            word = "that is ICH" if task == "hemorrhage" else "called rightly"
            drawn[f"reliability_{task}"] = figures.reliability(found, f"share {word}")
    return drawn


def _reliability(
    tables: Mapping[str, Predictions], rule: DecisionRule | None
) -> dict[str, dict[str, Any]]:
    """Bins by task and panel: each level, before and after the rule's calibration."""
    panels: dict[str, dict[str, Any]] = {"hemorrhage": {}, "location": {}}
    for level, table in tables.items():
        versions = {f"By {level}": table}
        if rule is not None and rule.method != "none":
            versions = {
                f"By {level}, as it is": table,
                f"By {level}, {rule.method}": rule.calibrated(table, level),
            }
        for title, version in versions.items():
            known = version.hemorrhage != UNKNOWN
            if known.any():
                truth, p = version.hemorrhage[known] == 1, version.p_hemorrhage[known]
                panels["hemorrhage"][title] = reliability_bins(truth, p)
            rows = has_location(version)
            if rows.any():
                place = version.p_location[rows]
                right = place.argmax(axis=1) == version.location[rows]
                panels["location"][title] = reliability_bins(right, place.max(axis=1))
    return panels
