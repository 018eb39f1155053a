"""A decision rule fitted on validation slices, and written into the model's folder.

Fitting on test data is refused.

What a decision rule that was fitted on validation does on other slices.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_builder.errors import InputError
from data_builder.files import write_json
from dtvit_jax.decision import calibration
from dtvit_jax.decision.aggregation import CANDIDATES, Aggregation, by_subject, subject_index
from dtvit_jax.decision.calibration import METHODS, Calibration
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.decision.rule import FILE, VERSION, DecisionRule, both, parse
from dtvit_jax.evaluation import bootstrap, operating_points, ranking
from dtvit_jax.evaluation.metrics import expected_calibration_error, log_loss
from dtvit_jax.evaluation.ranking import ratio
from dtvit_jax.evaluation.summary import bootstrap_entries, has_location, parts, rates_at


def fit(
    validation: Predictions,
    aggregation: Aggregation | None,
    method: str = "temperature",
    provenance: dict[str, Any] | None = None,
    resamples: int = operating_points.RESAMPLES,
) -> DecisionRule:
    """Fits everything on validation slices.

    aggregation: None lets validation choose among CANDIDATES. provenance: what the file should say
    of model and data. Raises InputError for slices of a test side, and where no truth is known.
    """
    if (np.char.lower(validation.split.astype(str)) == "test").any():
        raise InputError(
            "calibration and operating points are not fitted on test data: give validation slices"
        )
    validation = validation.select(validation.hemorrhage != UNKNOWN)
    if not len(validation):
        raise InputError("no validation slice has a known truth: nothing to fit on")
    if method not in calibration.METHODS:
        raise InputError(f"calibration {method!r}: it is one of {', '.join(calibration.METHODS)}")
    chosen, tried = (aggregation, []) if aggregation else _choose_aggregation(validation)
    subjects, _ = by_subject(validation, chosen)
    tables = {"slice": validation, "subject": subjects}
    raw = {
        "version": VERSION,
        "fitted_on": {
            "split": "validation",
            "slices": len(validation),
            "subjects": len(subjects),
            "ich_subjects": int((subjects.hemorrhage == 1).sum()),
            "normal_subjects": int((subjects.hemorrhage == 0).sum()),
        },
        **(provenance or {}),
        "aggregation": dataclasses.asdict(chosen)
        | {"words": str(chosen), "chosen_on_validation": bool(tried), "candidates": tried},
        "calibration": {"method": method}
        | {level: _fit_level(table) for level, table in tables.items()},
        "operating_points": _points(validation, subjects, chosen, resamples),
    }
    return parse(raw)


def _choose_aggregation(validation: Predictions) -> tuple[Aggregation, list[dict[str, Any]]]:
    """The candidate of greatest subject-level AUROC, then least log loss, then the first."""
    tried = []
    for candidate in CANDIDATES:
        subjects, _ = by_subject(validation, candidate)
        truth, ones = subjects.hemorrhage == 1, np.ones((1, len(subjects)))
        area = float(ranking.auroc(truth, subjects.p_hemorrhage, ones)[0])
        loss = log_loss(truth.astype(int), both(subjects.p_hemorrhage), ones)
        area = area if np.isfinite(area) else 0.5
        tried.append(dataclasses.asdict(candidate) | {"auroc": area, "log_loss": float(loss[0])})
    best = min(
        range(len(tried)), key=lambda i: (-round(tried[i]["auroc"], 9), tried[i]["log_loss"])
    )
    return CANDIDATES[best], tried


def _fit_level(table: Predictions) -> dict[str, Any]:
    known, located = table.hemorrhage != UNKNOWN, has_location(table)
    return {
        "hemorrhage": calibration.fit(
            both(table.p_hemorrhage[known]), table.hemorrhage[known].astype(int)
        ).as_json(),
        "location": calibration.fit(
            table.p_location[located].astype(np.float64), table.location[located].astype(int)
        ).as_json(),
    }


def _points(
    validation: Predictions, subjects: Predictions, aggregation: Aggregation, resamples: int
) -> list[dict[str, Any]]:
    """Each aim at each level: threshold with its interval, and what it reached on validation."""
    strata = bootstrap.strata_of(subjects.hemorrhage, subjects.location)
    indices = {
        "subject": np.arange(len(subjects)),
        "slice": subject_index(validation, subjects),
    }
    found = []
    for level, table in (("subject", subjects), ("slice", validation)):
        for aim in operating_points.AIMS:
            if aim.assured and level == "slice":
                continue
            score, truth = table.p_hemorrhage.astype(np.float64), table.hemorrhage == 1
            point = operating_points.choose(aim, score, truth, indices[level], strata, resamples)
            threshold = point["threshold"]
            if threshold is not None:
                reached = rates_at(
                    validation, level, threshold, aggregation=aggregation, resamples=resamples
                )
                point["validation"] = {n: reached[n] for n in ("sensitivity", "specificity")}
            found.append({"name": aim.name, "words": aim.words, "level": level, **point})
    return found


def write(folder: Path, rule: DecisionRule) -> Path:
    """Writes decision_rule.json into the model's folder, whole or not at all."""
    write_json(folder / FILE, rule.raw)
    return folder / FILE


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
