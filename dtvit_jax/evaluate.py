"""Evaluates a trained run, or any predictions.csv, into numbers with intervals and a report.

metrics.json, predictions.csv, figures/ and report.html go to WORKDIR/SPLIT unless --out says so.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_builder.errors import InputError
from dtvit_jax.evidence import evaluate_predictions, write_metrics
from dtvit_jax.predictions import Predictions, read_csv, write_csv
from dtvit_jax.report import write_report

EXAMPLE = "python -m dtvit_jax.evaluate --workdir runs/phantom --split test"


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
    return top


def evaluate_run(workdir: Path, split: str, out: Path, data_dir: str) -> Path:
    """Evaluates the best checkpoint of a run; returns the report's path at once if it is done."""
    from dtvit_jax.inference import TrainedRun

    run = TrainedRun(workdir, data_dir)
    of = {"step": run.step, "split": split, "dataset": run.record["dataset"]["digest"]}
    report = out / "report.html"
    if report.is_file() and _evaluated(out / "metrics.json") == of:
        return report
    predictions = run.predict(split)
    source = run.shards.source(split)
    place = {source.describe(i)["key"]: i for i in range(len(source))}

    def image(key: str) -> np.ndarray | None:
        return source[place[key]]["image"] if key in place else None

    record = {**run.record, "checkpoint_step": run.step}
    return _write(out, predictions, record, run.history, image, of)


def evaluate_file(path: Path, out: Path) -> Path:
    """Evaluates a predictions.csv that some system made."""
    return _write(out, read_csv(path), {}, [], None, {})


def _evaluated(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text()).get("of")
    except (OSError, ValueError):
        return None


def _write(
    out: Path,
    predictions: Predictions,
    record: dict,
    history: list,
    image: Callable[[str], np.ndarray | None] | None,
    of: dict,
) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "predictions.csv", predictions)
        metrics = evaluate_predictions(predictions)
        report = write_report(out, predictions, metrics, record, history, image)
        write_metrics(out / "metrics.json", {**metrics, "of": of})  # last: it says that all is done
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
                said += f" (no interval: {figure.get('reason', 'not known')})"
            parts.append(f"{level} {task} {name}: {said}")
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Bad input is one line and status 2."""
    args = parser().parse_args(argv)
    try:
        if args.workdir:
            out = args.out or args.workdir / args.split
            report = evaluate_run(args.workdir, args.split, out, args.data_dir)
        else:
            out = args.out or args.predictions.parent / "evaluation"
            report = evaluate_file(args.predictions, out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(in_words(json.loads((out / "metrics.json").read_text())))
    print(f"report: {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
