"""Evaluates a trained run, or any predictions.csv, into numbers with intervals and a report.

metrics.json, predictions.csv, figures/, report.html and model_card.md go to WORKDIR/SPLIT, or to
--out. Aggregation, calibration and operating points are fitted on validation and kept in
WORKDIR/decision_rule.json; WORKDIR/training_slices.json describes the training slices, and
WORKDIR/weights.safetensors holds the evaluated weights. Prediction reads all three. A
predictions.csv of another system needs no model: its validation slices are its own rows with split
'validation', or the file of --validation; without any, nothing is fitted.
"""

import argparse
import json
import sys
from pathlib import Path

from data_builder.errors import InputError, run_command
from dtvit_jax.decision import calibration
from dtvit_jax.decision.aggregation import DEFAULT, METHODS, Aggregation
from dtvit_jax.decision.predictions import read_csv
from dtvit_jax.evaluation.fitted_rule import Choices
from dtvit_jax.evaluation.subgroups import read_facts
from dtvit_jax.reports.evaluation import evaluate_table, headline

EXAMPLE = "python -m dtvit_jax.evaluate --workdir runs/phantom --split test"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m dtvit_jax.evaluate", description=__doc__, epilog=f"example: {EXAMPLE}"
    )
    source = top.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", type=Path, help="a run of python -m dtvit_jax.main")
    source.add_argument("--predictions", type=Path, help="a predictions.csv of any system")
    top.add_argument("--split", choices=("train", "validation", "test"), default="test")
    top.add_argument("--out", type=Path, help="folder to write (default: WORKDIR/SPLIT)")
    top.add_argument("--data_dir", default="", help="folder of the shards, if they were moved")
    top.add_argument(
        "--validation",
        type=Path,
        help="with --predictions: that system's predictions.csv of validation slices",
    )
    top.add_argument(
        "--facts", type=Path, help="a manifest.csv with sex, year, scanner, thickness_mm by key"
    )
    top.add_argument(
        "--aggregation",
        default="",
        help=f"from slices to subjects: {' or '.join(METHODS)} with :K slices (0: all), or auto: "
        "chosen on validation (default: the run's config; mean:3 for a file)",
    )
    top.add_argument(
        "--calibration",
        choices=calibration.METHODS,
        help="the calibration that prediction applies (default: the run's config, or temperature)",
    )
    return top


def choices_of(
    args: argparse.Namespace,
    method: str = DEFAULT.method,
    k: int = DEFAULT.k,
    calibration: str = "temperature",
) -> Choices:
    """The choices of the command line, else those given. Raises InputError."""
    if args.aggregation:
        method, _, number = args.aggregation.partition(":")
        if number and not number.isdecimal():
            raise InputError(f"--aggregation {args.aggregation}: give it as mean:3, or auto")
        k = int(number) if number else DEFAULT.k
    aggregation = None if method == "auto" else Aggregation(method, k)
    return Choices(aggregation, args.calibration or calibration)


def _evaluate_run(args: argparse.Namespace, out: Path) -> Path:
    # A predictions.csv is evaluated without JAX, whose import takes seconds.
    from dtvit_jax.runs.evaluation import evaluate_run
    from dtvit_jax.runs.trained_run import TrainedRun

    if args.validation:
        raise InputError("--validation goes with --predictions: a run has its own validation side")
    run = TrainedRun(args.workdir, args.data_dir)
    config = run.config
    choices = choices_of(args, config.aggregation.method, config.aggregation.k, config.calibration)
    return evaluate_run(run, args.workdir, args.split, out, choices, args.facts)


def _evaluate_file(args: argparse.Namespace, out: Path) -> Path:
    choices = choices_of(args)
    table = read_csv(args.predictions)
    validation = read_csv(args.validation) if args.validation else None
    facts = read_facts(args.facts) if args.facts else {}
    return evaluate_table(out, table, args.split, choices, validation, facts)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parser().parse_args(argv)

    def command() -> int:
        if args.workdir:
            out = args.out or args.workdir / args.split
            report = _evaluate_run(args, out)
        else:
            out = args.out or args.predictions.parent / "evaluation"
            report = _evaluate_file(args, out)
        print(headline(json.loads((out / "metrics.json").read_text())))
        print(f"report: {report}")
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
