"""A decision rule fitted on validation slices, and written into the model's folder.

Fitting on test data is refused.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data_builder.errors import InputError
from dtvit_jax import calibration, operating_points, ranking, stats
from dtvit_jax.aggregation import CANDIDATES, Aggregation, by_subject, subject_index
from dtvit_jax.decision_rule import FILE, VERSION, DecisionRule, both, parse
from dtvit_jax.evidence import has_location, rates_at, write_metrics
from dtvit_jax.metrics import log_loss
from dtvit_jax.predictions import UNKNOWN, Predictions


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


def write(folder: Path, rule: DecisionRule) -> Path:
    """Writes decision_rule.json into the model's folder, whole or not at all."""
    write_metrics(folder / FILE, rule.raw)
    return folder / FILE
