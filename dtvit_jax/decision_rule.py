"""From a model's probabilities to a decision: aggregation, calibration and operating points.

All of it is fitted on validation and kept with the model in decision_rule.json, which evaluation
and prediction read. Fitting on test data is refused.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data_builder.errors import InputError
from dtvit_jax import calibration, operating_points, ranking, stats
from dtvit_jax.aggregation import CANDIDATES, Aggregation, by_subject, subject_index
from dtvit_jax.calibration import Calibration
from dtvit_jax.evidence import LEVELS, has_location, rates_at, write_metrics
from dtvit_jax.metrics import log_loss
from dtvit_jax.predictions import UNKNOWN, Predictions

FILE = "decision_rule.json"
VERSION = 1
TASKS = ("hemorrhage", "location")


@dataclasses.dataclass(frozen=True)
class DecisionRule:
    """What decision_rule.json holds, read.

    method: which of calibration.METHODS is applied. calibrations: by level and task. points: by
    level, each operating point's name and threshold (on the model's own probabilities for slices,
    on the aggregated score for subjects; calibration moves neither order nor decision). raw: the
    file's content.
    """

    aggregation: Aggregation
    method: str
    calibrations: dict[str, dict[str, Calibration]]
    points: dict[str, dict[str, float]]
    raw: dict[str, Any] = dataclasses.field(repr=False)

    def calibrated(
        self, predictions: Predictions, level: str, method: str | None = None
    ) -> Predictions:
        """The table with calibrated probabilities. level: 'slice', or 'subject' for scores."""
        fitted, method = self.calibrations[level], method or self.method
        p = fitted["hemorrhage"].apply(both(predictions.p_hemorrhage), method)[:, 1]
        place = fitted["location"].apply(predictions.p_location, method)
        return dataclasses.replace(predictions, p_hemorrhage=p, p_location=place)


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
    strata = stats.strata_of(subjects.hemorrhage, subjects.location)
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


def both(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Probabilities of normal and ICH."""
    return np.stack([1 - p.astype(np.float64), p.astype(np.float64)], axis=1)


def write(folder: Path, rule: DecisionRule) -> Path:
    """Writes decision_rule.json into the model's folder, whole or not at all."""
    write_metrics(folder / FILE, rule.raw)
    return folder / FILE


def read(folder: Path) -> DecisionRule:
    """The rule of the model in `folder`.

    Raises:
      InputError: there is none, or it is damaged or of another version.
    """
    path = folder / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} is missing: run python -m dtvit_jax.evaluate --workdir {folder} first"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: remove it and evaluate the run again") from error
    if not isinstance(raw, dict) or raw.get("version") != VERSION:
        raise InputError(f"{path} is not of version {VERSION}: remove it and evaluate again")
    try:
        return parse(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: remove it and evaluate the run again") from error


def parse(raw: dict[str, Any]) -> DecisionRule:
    """The rule in a file's content. Raises KeyError, TypeError or ValueError for a damaged one."""
    fitted = raw["calibration"]
    points: dict[str, dict[str, float]] = {level: {} for level in LEVELS}
    for point in raw["operating_points"]:
        if point["threshold"] is not None:
            points[point["level"]][point["name"]] = float(point["threshold"])
    how = raw["aggregation"]
    return DecisionRule(
        aggregation=Aggregation(str(how["method"]), int(how["k"])),
        method=str(fitted["method"]),
        calibrations={
            level: {task: Calibration.from_json(fitted[level][task]) for task in TASKS}
            for level in LEVELS
        },
        points=points,
        raw=raw,
    )
