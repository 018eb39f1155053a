"""What a decision rule that was fitted on validation does on other slices."""

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dtvit_jax.aggregation import by_subject
from dtvit_jax.calibration import METHODS, Calibration
from dtvit_jax.decision_rule import DecisionRule, both
from dtvit_jax.evidence import bootstrap_entries, parts, rates_at
from dtvit_jax.metrics import expected_calibration_error, log_loss
from dtvit_jax.predictions import Predictions
from dtvit_jax.ranking import ratio

RESAMPLES = 2000
POINT_RATES = ("sensitivity", "specificity", "precision", "npv", "accuracy")


def apply_rule(
    rule: DecisionRule, predictions: Predictions, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """The "decision_rule", "calibration" and "operating_points" of metrics.json.

    Calibration: Brier score, log loss and ECE by level and task before ('none') and after each
    method. Operating points: as fitted, with "here": the rates on these slices.
    """
    subjects, _ = by_subject(predictions, rule.aggregation)
    calibrated: dict[str, Any] = {"method": rule.method}
    for level, task, part, index, strata in parts(predictions, subjects):
        if task == "combined" or not len(part):
            continue
        first = task == "hemorrhage"
        p = both(part.p_hemorrhage) if first else part.p_location.astype(np.float64)
        truth = (part.hemorrhage if first else part.location).astype(int)
        fitted = rule.calibrations[level][task]
        calibrated.setdefault(level, {})[task] = {
            "fitted_temperature": fitted.as_json()["temperature"],
            **{
                method: bootstrap_entries(
                    partial(_quality, fitted.apply(p, method), truth), index, strata, resamples, 0
                )
                for method in METHODS
                if _fitted(fitted, method)
            },
        }
    points = []
    for point in rule.raw["operating_points"]:
        here = {}
        if point["threshold"] is not None:
            rates = rates_at(
                predictions,
                point["level"],
                point["threshold"],
                aggregation=rule.aggregation,
                resamples=resamples,
            )
            here = {name: rates[name] for name in POINT_RATES}
        points.append({**point, "here": here})
    keep = ("version", "fitted_on", "aggregation")
    return {
        "decision_rule": {name: rule.raw[name] for name in keep},
        "calibration": calibrated,
        "operating_points": points,
    }


def _fitted(fitted: Calibration, method: str) -> bool:
    return {
        "none": True,
        "temperature": bool(np.isfinite(fitted.temperature)),
        "isotonic": bool(fitted.x),
    }[method]


def _quality(
    p: Float[np.ndarray, "n classes"],
    truth: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, "r n"],
) -> dict[str, Float[np.ndarray, " r"]]:
    """Brier score (of ICH; the sum over locations), log loss and ECE."""
    if p.shape[1] == 2:
        errors = (p[:, 1] - truth) ** 2
        gap = expected_calibration_error(truth == 1, p[:, 1], weights)
    else:
        errors = ((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1)
        gap = expected_calibration_error(p.argmax(axis=1) == truth, p.max(axis=1), weights)
    return {
        "brier": ratio(weights @ errors, weights.sum(axis=1)),
        "log_loss": log_loss(truth, p, weights),
        "ece": gap,
    }
