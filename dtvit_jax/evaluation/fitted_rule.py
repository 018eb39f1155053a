"""Fits a decision rule on validation slices, writes it, and measures it on other slices.

`fit` and `write` make decision_rule.json: aggregation, calibration and operating points. Fitting on
test slices is refused. `apply_rule` computes what the rule achieves on slices that it was not
fitted on.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_builder.errors import InputError
from data_builder.files import write_json
from dtvit_jax.decision import calibration
from dtvit_jax.decision.aggregation import CANDIDATES, Aggregation, Level, by_subject, subject_index
from dtvit_jax.decision.calibration import METHODS, Calibration
from dtvit_jax.decision.predictions import UNKNOWN, Predictions
from dtvit_jax.decision.rule import FILE, VERSION, DecisionRule, OperatingPoint, both, parse, read
from dtvit_jax.evaluation import bootstrap, operating_points, ranking
from dtvit_jax.evaluation.intervals import estimate
from dtvit_jax.evaluation.metrics import log_loss, probability_scores
from dtvit_jax.evaluation.ranking import Values, Weights
from dtvit_jax.evaluation.schema import (
    CalibrationJson,
    CalibrationQuality,
    Estimates,
    JudgedPoint,
    RuleMetrics,
)
from dtvit_jax.evaluation.summary import Part, has_location, parts, rates_at

RESAMPLES = 2000
POINT_RATES = ("sensitivity", "specificity", "precision", "npv", "accuracy")


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a rule is fitted with: the aggregation (None: validation chooses) and calibration."""

    aggregation: Aggregation | None
    calibration: str


def fit(
    validation: Predictions,
    aggregation: Aggregation | None,
    method: str = "temperature",
    provenance: dict[str, Any] | None = None,
    resamples: int = operating_points.RESAMPLES,
) -> DecisionRule:
    """Fits aggregation, calibration and operating points on validation slices.

    aggregation: None chooses among CANDIDATES. method: the calibration that prediction applies.
    provenance: further fields of the file, of model and data. Raises InputError for slices of a
    test side, and where no truth is known.
    """
    if (np.char.lower(validation.split.astype(str)) == "test").any():
        raise InputError(
            "calibration and operating points are not fitted on test data: give validation slices"
        )
    validation = validation.select(validation.hemorrhage != UNKNOWN)
    if not len(validation):
        raise InputError("no validation slice has a known truth: nothing to fit on")
    if method not in METHODS:
        raise InputError(f"calibration {method!r}: give one of {', '.join(METHODS)}")
    chosen, candidates = (aggregation, []) if aggregation else _choose_aggregation(validation)
    subjects, _ = by_subject(validation, chosen)
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
        "aggregation": {
            "method": chosen.method,
            "k": chosen.k,
            "words": str(chosen),
            "chosen_on_validation": bool(candidates),
            "candidates": candidates,
        },
        "calibration": {
            "method": method,
            "slice": _fit_calibrations(validation, method),
            "subject": _fit_calibrations(subjects, method),
        },
        "operating_points": _fit_points(validation, subjects, chosen, resamples),
    }
    return parse(raw)


def _choose_aggregation(validation: Predictions) -> tuple[Aggregation, list[dict[str, Any]]]:
    """The candidate with the highest subject-level AUROC, then least log loss, then the first."""
    candidates = []
    for candidate in CANDIDATES:
        subjects, _ = by_subject(validation, candidate)
        truth, ones = subjects.hemorrhage == 1, np.ones((1, len(subjects)))
        area = float(ranking.auroc(truth, subjects.p_hemorrhage, ones)[0])
        loss = log_loss(truth.astype(int), both(subjects.p_hemorrhage), ones)
        area = area if np.isfinite(area) else 0.5
        candidates.append(
            dataclasses.asdict(candidate) | {"auroc": area, "log_loss": float(loss[0])}
        )
    # Rounded, so that the order of summation does not decide between equal areas.
    best = min(
        range(len(candidates)),
        key=lambda i: (-round(candidates[i]["auroc"], 9), candidates[i]["log_loss"]),
    )
    return CANDIDATES[best], candidates


def _fit_calibrations(table: Predictions, method: str) -> dict[str, Any]:
    """The calibration of both tasks as JSON, on the rows that count for each.

    "in_force" says what `method` does with it, and why.
    """
    known, located = table.select(table.hemorrhage != UNKNOWN), table.select(has_location(table))
    tasks = {
        "hemorrhage": (both(known.p_hemorrhage), known.hemorrhage, known.subject),
        "location": (located.p_location.astype(np.float64), located.location, located.subject),
    }
    fitted = {}
    for task, (p, truth, subject) in tasks.items():
        one = calibration.fit(p, truth.astype(int), subject)
        fitted[task] = one.as_json() | {"in_force": one.words(method, p.shape[1])}
    return fitted


def _fit_points(
    validation: Predictions, subjects: Predictions, aggregation: Aggregation, resamples: int
) -> list[OperatingPoint]:
    """The threshold of each aim at each level, and the rates that it reaches on validation."""
    strata = bootstrap.strata_of(subjects.hemorrhage, subjects.location)
    levels: tuple[tuple[Level, Predictions, np.ndarray], ...] = (
        ("subject", subjects, np.arange(len(subjects))),
        ("slice", validation, subject_index(validation, subjects)),
    )
    points = []
    for level, table, index in levels:
        score, truth = table.p_hemorrhage.astype(np.float64), table.hemorrhage == 1
        for aim in operating_points.AIMS:
            if aim.assured and level == "slice":
                continue
            choice = operating_points.choose(aim, score, truth, index, strata, resamples)
            point: OperatingPoint = {
                "name": aim.name,
                "words": aim.words,
                "level": level,
                "threshold": choice.threshold,
            }
            if choice.low is not None and choice.high is not None:
                point |= {"low": choice.low, "high": choice.high}
            if choice.threshold is None:
                point["reason"] = choice.reason
            else:
                rates = rates_at(
                    validation,
                    level,
                    choice.threshold,
                    aggregation=aggregation,
                    resamples=resamples,
                )
                point["validation"] = {name: rates[name] for name in ("sensitivity", "specificity")}
            points.append(point)
    return points


def write(folder: Path, rule: DecisionRule) -> Path:
    """Writes decision_rule.json into the model's folder, whole or not at all; returns its path."""
    write_json(folder / FILE, rule.raw)
    return folder / FILE


def find(folder: Path, provenance: Mapping[str, Any], choices: Choices) -> DecisionRule | None:
    """Reads the rule in `folder` if it was fitted with this provenance and these choices.

    A rule of an earlier version, with a threshold that did not reach its aim or a temperature that
    was not shrunk, is not taken.
    """
    try:
        rule = read(folder)
    except InputError:
        return None
    auto = choices.aggregation is None
    same = (
        all(rule.raw.get(name) == value for name, value in provenance.items())
        and (auto or choices.aggregation == rule.aggregation)
        and rule.raw["aggregation"]["chosen_on_validation"] == auto
        and rule.method == choices.calibration
        and all(fit.subjects for tasks in rule.calibrations.values() for fit in tasks.values())
    )
    return rule if same and all(map(_reaches_its_aim, rule.raw["operating_points"])) else None


def _reaches_its_aim(point: OperatingPoint) -> bool:
    """Whether the rate that the point's threshold had on validation is the one in its name."""
    aim = next((aim for aim in operating_points.AIMS if aim.name == point["name"]), None)
    rates = point.get("validation", {})
    if aim is None or aim.kind not in rates:
        return True
    value = rates[aim.kind].get("value")
    return value is None or value >= aim.value - operating_points.TOLERANCE


def apply_rule(
    rule: DecisionRule, predictions: Predictions, resamples: int = RESAMPLES
) -> RuleMetrics:
    """Computes the "decision_rule", "calibration" and "operating_points" of metrics.json.

    Calibration: Brier score, log loss and ECE by level and task before ('none') and after each
    method. Operating points: as fitted, with "here", the rates on these slices.
    """
    subjects, _ = by_subject(predictions, rule.aggregation)
    quality: CalibrationJson = {"method": rule.method}
    for part in parts(predictions, subjects):
        if part.task != "combined" and len(part.table):
            fitted = rule.calibrations[part.level][part.task]
            quality.setdefault(part.level, {})[part.task] = _quality(fitted, part, resamples)
    points = []
    for point in rule.raw["operating_points"]:
        here: Estimates = {}
        if point["threshold"] is not None:
            rates = rates_at(
                predictions,
                point["level"],
                point["threshold"],
                aggregation=rule.aggregation,
                resamples=resamples,
            )
            here = {name: rates[name] for name in POINT_RATES}
        points.append(JudgedPoint(**point, here=here))
    return {
        "decision_rule": {
            "version": rule.raw["version"],
            "fitted_on": rule.raw["fitted_on"],
            "aggregation": rule.raw["aggregation"],
            "calibration": rule.in_force(),
        },
        "calibration": quality,
        "operating_points": points,
    }


def _quality(fitted: Calibration, part: Part, resamples: int) -> CalibrationQuality:
    """Brier score, log loss and ECE of a task before and after each fitted calibration."""
    table = part.table
    if part.task == "hemorrhage":
        p, truth = both(table.p_hemorrhage), table.hemorrhage.astype(int)
    else:
        p, truth = table.p_location.astype(np.float64), table.location.astype(int)

    def after(method: str) -> Estimates:
        statistic = partial(_scores, fitted.apply(p, method), truth)
        intervals = bootstrap.bootstrap(statistic, part.subject, part.strata, resamples)
        return {name: estimate(name, interval) for name, interval in intervals.items()}

    quality: CalibrationQuality = {"fitted_temperature": fitted.as_json()["temperature"]}
    if np.isfinite(fitted.temperature):
        quality["temperature"] = after("temperature")
    if fitted.x:
        quality["isotonic"] = after("isotonic")
    quality["none"] = after("none")
    return quality


def _scores(
    p: Float[np.ndarray, "n classes"], truth: Int[np.ndarray, " n"], weights: Weights
) -> dict[str, Values]:
    scores = probability_scores(truth, p, weights)
    return {name: scores[name] for name in ("brier", "log_loss", "ece")}
