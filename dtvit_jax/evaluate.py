"""Evaluates a trained run, or any predictions.csv, into numbers with intervals and a report.

metrics.json, predictions.csv, figures/, report.html and model_card.md go to WORKDIR/SPLIT unless
--out says so. What is fitted (aggregation, calibration, operating points) is fitted on validation
and kept in WORKDIR/decision_rule.json; WORKDIR/training_slices.json says what the training slices
look like, WORKDIR/weights.safetensors holds the weights that were evaluated. Prediction reads all
three. A predictions.csv of another system needs no model: its validation slices come from its own
rows with split 'validation', or from --validation; without any, nothing is fitted and the rest is
there.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from data_builder.errors import InputError, run_command
from data_builder.files import write_json
from dtvit_jax.decision import calibration, outlier
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.decision.aggregation import DEFAULT, METHODS, Aggregation
from dtvit_jax.decision.predictions import Predictions, read_csv, write_csv
from dtvit_jax.decision.rule import DecisionRule
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.evaluation.fitted_rule import apply_rule
from dtvit_jax.evaluation.subgroups import Facts, read_facts, subgroups
from dtvit_jax.evaluation.summary import evaluate_predictions
from dtvit_jax.reports.model_card import write_model_card
from dtvit_jax.reports.report import Images, write_report

EXAMPLE = "python -m dtvit_jax.evaluate --workdir runs/phantom --split test"
FORM = 4
"""Of what is written: a run evaluated in another form is evaluated again."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m dtvit_jax.evaluate", description=__doc__, epilog=f"example: {EXAMPLE}"
    )
    what = top.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", type=Path, help="a run of python -m dtvit_jax.main")
    what.add_argument("--predictions", type=Path, help="a predictions.csv of any system")
    top.add_argument("--split", choices=("train", "validation", "test"), default="test")
    top.add_argument("--out", type=Path, help="folder to write (default: WORKDIR/SPLIT)")
    top.add_argument("--data_dir", default="", help="where the shards lie now, if they moved")
    top.add_argument(
        "--validation",
        type=Path,
        help="with --predictions: that system's predictions.csv of other, validation slices",
    )
    top.add_argument(
        "--facts", type=Path, help="a manifest.csv with sex, year, scanner, thickness_mm by key"
    )
    top.add_argument(
        "--aggregation",
        default="",
        help=f"of slices to subjects: {' or '.join(METHODS)} with :K slices (0: all), or auto: "
        "chosen on validation (default: the run's config; mean:3 for a file)",
    )
    top.add_argument(
        "--calibration",
        choices=calibration.METHODS,
        help="which calibration prediction applies (default: the run's config, or temperature)",
    )
    return top


@dataclasses.dataclass(frozen=True)
class Choices:
    """How subjects are made of slices (None: validation chooses) and what calibrates."""

    aggregation: Aggregation | None
    calibration: str

    @staticmethod
    def of(args: argparse.Namespace, config: Any = None) -> "Choices":
        """The command line's, else the config's, else the defaults. Raises InputError."""
        config = config or {}
        how = config.get("aggregation") or dataclasses.asdict(DEFAULT)
        method, k = str(how["method"]), int(how["k"])
        if args.aggregation:
            method, _, number = args.aggregation.partition(":")
            if number and not number.isdecimal():
                raise InputError(f"--aggregation {args.aggregation}: give it as mean:3, or auto")
            k = int(number) if number else DEFAULT.k
        aggregation = None if method == "auto" else Aggregation(method, k)
        return Choices(aggregation, args.calibration or config.get("calibration", "temperature"))


def evaluate_run(args: argparse.Namespace, out: Path) -> Path:
    """Evaluates the best checkpoint of a run; returns the report's path at once if it is done."""
    from dtvit_jax.runs.trained_run import TrainedRun

    if args.validation:
        raise InputError("--validation goes with --predictions: a run has its own validation side")
    run = TrainedRun(args.workdir, args.data_dir)
    choices = Choices.of(args, run.config)
    model = {"checkpoint_step": run.step, "dataset_digest": run.record["dataset"]["digest"]}
    of = {"form": FORM, "split": args.split, **model, "choices": repr(choices)}
    if args.facts:
        of |= {"facts": zlib.crc32(args.facts.read_bytes()) if args.facts.is_file() else None}
    _put_weights(args.workdir, run)
    report = out / "report.html"
    if report.is_file() and _evaluated(out / "metrics.json") == of:
        return report
    validation = None if args.split != "validation" else run.predict("validation")
    rule = _rule_of(args.workdir, model, choices)
    if rule is None:
        validation = validation or run.predict("validation")
        rule = fitted_rule.fit(validation, choices.aggregation, choices.calibration, model)
        fitted_rule.write(args.workdir, rule)
    _fit_outlier(args.workdir, run)
    predictions = validation if args.split == "validation" else run.predict(args.split)
    assert predictions is not None
    source = run.shards.source(args.split)
    place = {source.describe(i)["key"]: i for i in range(len(source))}

    def image(key: str) -> np.ndarray | None:
        return source[place[key]]["image"] if key in place else None

    known = args.facts or run.shards.folder / "splits.csv"
    facts = read_facts(known) if known.exists() or args.facts else {}
    record = {**run.record, "checkpoint_step": run.step, "config": run.config.to_dict()}
    fitted_here = args.split == "validation"
    return write_evaluation(
        out, predictions, rule, facts, record, run.history, image, of, fitted_here=fitted_here
    )


def _put_weights(workdir: Path, run: Any) -> None:
    """Puts the weights that are evaluated beside the rule, unless they are there."""
    from dtvit_jax.runs import evaluated_weights

    step, digest = run.step, run.record["dataset"]["digest"]
    with contextlib.suppress(InputError):
        found = evaluated_weights.origin(workdir)
        if (found.checkpoint_step, found.dataset_digest) == (step, digest):
            return
    evaluated_weights.write(workdir, run.config.model.to_dict(), run.weights(), step, digest)


def _fit_outlier(workdir: Path, run: Any) -> None:
    """Puts what the training slices look like beside the rule, unless it is there."""
    digest = run.record["dataset"]["digest"]
    with contextlib.suppress(InputError):
        if outlier.read(workdir).dataset == digest:
            return
    training, validation = run.shards.source("train"), run.shards.source("validation")
    outlier.write(workdir, outlier.fit(training, validation, digest))


def _rule_of(workdir: Path, model: dict[str, Any], choices: Choices) -> DecisionRule | None:
    """The rule in the workdir, if it is of this model and these choices."""
    try:
        rule = decision_rule.read(workdir)
    except InputError:
        return None
    same = {name: rule.raw.get(name) for name in model} == model
    alike = choices.aggregation == rule.aggregation or choices.aggregation is None
    chosen = rule.raw["aggregation"]["chosen_on_validation"] == (choices.aggregation is None)
    return rule if same and alike and chosen and rule.method == choices.calibration else None


def evaluate_file(args: argparse.Namespace, out: Path) -> Path:
    """Evaluates a predictions.csv that some system made."""
    choices = Choices.of(args)
    table = read_csv(args.predictions)
    judged, validation = table, None
    if len(set(table.split.tolist())) > 1:
        judged = table.select(table.split == args.split)
        if not len(judged):
            raise InputError(
                f"{args.predictions.name}: no row has split {args.split}: give --split"
            )
        validation = table.select(table.split == "validation")
    if args.validation:
        validation = read_csv(args.validation)
    rule = None
    if validation is not None and len(validation) and args.split != "validation":
        shared = np.intersect1d(validation.subject, judged.subject)
        if len(shared):
            raise InputError(
                f"{len(shared)} subject(s) are among the validation slices and among those judged: "
                "calibration and operating points are not fitted on test data; keep them apart"
            )
        rule = fitted_rule.fit(validation, choices.aggregation, choices.calibration)
    elif choices.aggregation is None:
        raise InputError("--aggregation auto is chosen on validation: give --validation FILE")
    facts = read_facts(args.facts) if args.facts else {}
    aggregation = choices.aggregation or DEFAULT
    path = write_evaluation(out, judged, rule, facts, aggregation=aggregation)
    if rule:
        fitted_rule.write(out, rule)
    return path


def _evaluated(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text()).get("of")
    except (OSError, ValueError):
        return None


def write_evaluation(
    out: Path,
    predictions: Predictions,
    rule: DecisionRule | None = None,
    facts: Facts | None = None,
    record: dict | None = None,
    history: list | None = None,
    image: Images | None = None,
    of: dict | None = None,
    aggregation: Aggregation = DEFAULT,
    fitted_here: bool = False,
) -> Path:
    """Computes and writes all of it into `out`; returns the report's path.

    aggregation: where there is no rule. fitted_here: the rule was fitted on these very slices, so
    they are not judged by it. Raises InputError where `out` cannot be written.
    """
    how = rule.aggregation if rule else aggregation
    metrics = evaluate_predictions(predictions, aggregation=how)
    if rule is not None and fitted_here:
        metrics["decision_rule"] = {"fitted_here": True, "fitted_on": rule.raw["fitted_on"]}
        metrics["decision_rule"]["aggregation"] = rule.raw["aggregation"]
    elif rule is not None:
        metrics |= apply_rule(rule, predictions)
    if facts:
        metrics["subgroups"] = subgroups(predictions, facts, aggregation=how)
    record = record or {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "predictions.csv", predictions)
        report = write_report(out, predictions, metrics, record, history or [], image, rule, facts)
        write_model_card(out, metrics, record)
        write_json(out / "metrics.json", {**metrics, "of": of or {}})  # last: all is done
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error
    return report


def in_words(metrics: dict) -> str:
    """The figures that people look for first, each with its interval."""
    parts = []
    for level in ("subject", "slice"):
        for task, name in (("hemorrhage", "auroc"), ("location", "macro_recall")):
            figure = metrics[level][task][name]
            low, value, high = figure["low"], figure["value"], figure["high"]
            said = figure.get("reason", "") if value is None else f"{value:.3f}"
            if low is not None and high is not None:
                said += f" (95% interval {low:.3f} to {high:.3f})"
            elif value is not None:
                said += f" ({figure.get('reason', 'no interval')})"
            parts.append(f"{level} {task} {name}: {said}")
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = parser().parse_args(argv)

    def command() -> int:
        if args.workdir:
            out = args.out or args.workdir / args.split
            report = evaluate_run(args, out)
        else:
            out = args.out or args.predictions.parent / "evaluation"
            report = evaluate_file(args, out)
        print(in_words(json.loads((out / "metrics.json").read_text())))
        print(f"report: {report}")
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
