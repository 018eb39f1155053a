"""Draws the figures of an evaluation from its predictions and metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dtvit_jax.decision.aggregation import Aggregation
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.evaluation.metrics import reliability_bins
from dtvit_jax.evaluation.schema import Metrics
from dtvit_jax.evaluation.summary import TASK_CLASSES, has_location, roc_bands
from dtvit_jax.reports import figures
from dtvit_jax.reports.figures import Bins


def draw(
    predictions: Predictions,
    subjects: Predictions,
    metrics: Metrics,
    history: Sequence[Mapping[str, Any]],
    rule: DecisionRule | None,
) -> dict[str, Figure]:
    """Draws figures by name; those without rows in the sample are left out."""
    drawn: dict[str, Figure] = {}
    if history:
        drawn["curves"] = figures.training_curves(history)
    for level, tasks in metrics["confusion"].items():
        for task, matrix in tasks.items():
            if np.sum(matrix):
                title = f"{task.capitalize()}, by {level}"
                drawn[f"confusion_{task}_{level}"] = figures.confusion(
                    np.array(matrix), TASK_CLASSES[task], title, f"{level}s"
                )
    aggregation = Aggregation(metrics["aggregation"]["method"], metrics["aggregation"]["k"])
    bands = roc_bands(predictions, aggregation)
    if bands:
        drawn["roc"] = figures.roc({f"By {level}": bands[level] for level in reversed(bands)})
    known = subjects.select(subjects.hemorrhage != UNKNOWN)
    if len(known):
        drawn["subjects"] = figures.subject_scores(known, metrics["threshold"])
    panels = _reliability({"subject": subjects, "slice": predictions}, rule)
    for task, share in (
        ("hemorrhage", "share that is ICH"),
        ("location", "share predicted correctly"),
    ):
        if panels[task]:
            drawn[f"reliability_{task}"] = figures.reliability(panels[task], share)
    return drawn


def _reliability(
    tables: Mapping[str, Predictions], rule: DecisionRule | None
) -> dict[str, dict[str, Bins]]:
    """Reliability bins by task and panel: each level, before and after the rule's calibration."""
    panels: dict[str, dict[str, Bins]] = {"hemorrhage": {}, "location": {}}
    for level, table in tables.items():
        versions = {f"By {level}": table}
        if rule is not None and rule.method != "none":
            versions = {
                f"By {level}, uncalibrated": table,
                f"By {level}, {rule.method}": rule.calibrated(table, level),
            }
        for title, version in versions.items():
            known = version.hemorrhage != UNKNOWN
            if known.any():
                truth, p = version.hemorrhage[known] == 1, version.p_hemorrhage[known]
                panels["hemorrhage"][title] = reliability_bins(truth, p)
            located = has_location(version)
            if located.any():
                p_location = version.p_location[located]
                correct = p_location.argmax(axis=1) == version.location[located]
                panels["location"][title] = reliability_bins(correct, p_location.max(axis=1))
    return panels
