"""Evaluates predictions and writes the folder of an evaluation.

The folder holds predictions.csv, metrics.json, report.html, model_card.md and figures/.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_builder.errors import InputError
from data_builder.files import write_json
from dtvit_jax.decision.aggregation import DEFAULT, LEVELS, Aggregation
from dtvit_jax.decision.predictions import Predictions, write_csv
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.evaluation.fitted_rule import Choices, apply_rule
from dtvit_jax.evaluation.schema import Metrics
from dtvit_jax.evaluation.subgroups import Facts, subgroups
from dtvit_jax.evaluation.summary import evaluate_predictions
from dtvit_jax.reports.model_card import write_model_card
from dtvit_jax.reports.report import Images, write_report


def evaluate_table(
    out: Path,
    table: Predictions,
    split: str,
    choices: Choices,
    validation: Predictions | None = None,
    facts: Facts | None = None,
) -> Path:
    """Evaluates a table of any system and writes it into `out`; returns the report's path.

    A table of several splits is evaluated on `split`, and its rows of split 'validation' serve
    where `validation` is None. Without validation rows nothing is fitted.

    Raises:
      InputError: no row has the split, a subject is in both tables, or validation is to choose the
        aggregation and there is none.
    """
    evaluated = table
    if len(set(table.split.tolist())) > 1:
        evaluated = table.select(table.split == split)
        if not len(evaluated):
            raise InputError(f"no row of the predictions has split {split}: give --split")
        if validation is None:
            validation = table.select(table.split == "validation")
    rule = None
    if validation is not None and len(validation) and split != "validation":
        shared = np.intersect1d(validation.subject, evaluated.subject)
        if len(shared):
            raise InputError(
                f"{len(shared)} subject(s) are among both the validation slices and the evaluated "
                "ones: calibration and operating points are not fitted on test data; keep them "
                "apart"
            )
        rule = fitted_rule.fit(validation, choices.aggregation, choices.calibration)
    elif choices.aggregation is None:
        raise InputError("--aggregation auto is chosen on validation: give --validation FILE")
    aggregation = choices.aggregation or DEFAULT
    report = write_evaluation(out, evaluated, rule, facts, aggregation=aggregation)
    if rule:
        fitted_rule.write(out, rule)
    return report


def write_evaluation(
    out: Path,
    predictions: Predictions,
    rule: DecisionRule | None = None,
    facts: Facts | None = None,
    record: Mapping[str, Any] | None = None,
    history: Iterable[Mapping[str, Any]] = (),
    images: Images | None = None,
    of: Mapping[str, Any] | None = None,
    aggregation: Aggregation = DEFAULT,
    fitted_here: bool = False,
) -> Path:
    """Evaluates predictions and writes all files into `out`; returns the report's path.

    record: run.json with "config". history: of the training. of: what is evaluated, kept in
    metrics.json. aggregation: used without a rule. fitted_here: the rule was fitted on these
    slices, so its effect on them is not reported. Raises InputError where `out` cannot be written.
    """
    aggregation = rule.aggregation if rule else aggregation
    metrics = evaluate_predictions(predictions, aggregation=aggregation)
    if rule is not None and fitted_here:
        metrics["decision_rule"] = {
            "fitted_here": True,
            "fitted_on": rule.raw["fitted_on"],
            "aggregation": rule.raw["aggregation"],
            "calibration": rule.in_force(),
        }
    elif rule is not None:
        metrics = {**metrics, **apply_rule(rule, predictions)}
    if facts:
        metrics["subgroups"] = subgroups(predictions, facts, aggregation=aggregation)
    record = record or {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "predictions.csv", predictions)
        report = write_report(out, predictions, metrics, record, history, images, rule, facts)
        write_model_card(out, metrics, record)
        # Last: `evaluated` takes metrics.json as the sign that all files are written.
        write_json(out / "metrics.json", {**metrics, "of": of or {}})
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error
    return report


def evaluated(out: Path) -> dict[str, Any] | None:
    """What the evaluation in `out` is of; None where there is none, or it is not complete."""
    try:
        return json.loads((out / "metrics.json").read_text()).get("of")
    except (OSError, ValueError):
        return None


def headline(metrics: Metrics) -> str:
    """AUROC and macro recall by subject and by slice, a line each, with their intervals."""
    lines = []
    for level in reversed(LEVELS):
        for task, name in (("hemorrhage", "auroc"), ("location", "macro_recall")):
            entry = metrics[level][task][name]
            value, low, high = entry["value"], entry["low"], entry["high"]
            if value is None:
                text = entry["reason"]
            elif low is None or high is None:
                text = f"{value:.3f} ({entry['reason']})"
            else:
                text = f"{value:.3f} (95% interval {low:.3f} to {high:.3f})"
            lines.append(f"{level} {task} {name}: {text}")
    return "\n".join(lines)
