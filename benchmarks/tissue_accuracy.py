"""Compares ways to crop and tokenise a slice on the same folds, seeds, epochs and examples.

    python benchmarks/tissue_accuracy.py --source SRC --out OUT [--folds 5] [--epochs 6]
    python benchmarks/tissue_accuracy.py --phantoms 60 --out OUT --curves OUT/curves.png
    python benchmarks/tissue_accuracy.py --source SRC --out OUT --ways all head

SRC is a folder in the published layout; without it phantoms are made and cleaned in OUT. Each
fold trains configs/real_small.py in each way (WAYS); the test slices of all folds are joined and
the subjects compared in pairs with the first way's. Finished folds are not run again: give each
--seed, --folds and --epochs an OUT of its own. Prints a table with 95% intervals over subjects;
writes OUT/table.json. Phantom results say nothing about patients.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from real_small import FIGURES, cell  # noqa: E402

from configs import real_small  # noqa: E402
from dtvit_jax.decision.predictions import Predictions, read_csv, write_csv  # noqa: E402
from dtvit_jax.evaluation.differences import paired_difference  # noqa: E402
from dtvit_jax.evaluation.summary import evaluate_predictions  # noqa: E402
from dtvit_jax.experiments.table import joined  # noqa: E402
from dtvit_jax.runs.trained_run import TrainedRun  # noqa: E402
from dtvit_jax.runtime import keep_freed_memory  # noqa: E402
from dtvit_jax.train import train  # noqa: E402
from dtvit_jax.training.record import read_history  # noqa: E402

WAYS: dict[str, dict] = {
    "all": {},
    "tissue": {"model.tokens": "tissue"},
    "head": {"crop": "head"},
    "head_tissue": {"crop": "head", "model.tokens": "tissue"},
}


def phantoms(out: Path, subjects: int) -> Path:
    """Makes phantoms and cleans them; returns the cleaned folder."""
    scans, cleaned = out / "scans", out / "cleaned"
    if not (cleaned / "manifest.csv").exists():
        for command in (
            f"phantom --out {scans} --subjects {subjects}",
            f"clean {scans} --out {cleaned} --key public",
        ):
            run = [sys.executable, "-m", "data_builder", *command.split()]
            subprocess.run(run, check=True, cwd=ROOT)
    return cleaned


def fold(args: argparse.Namespace, source: Path, which: int, way: str) -> tuple[Predictions, float]:
    """Predictions for one fold's test slices, and the seconds that training took."""
    workdir = args.out / f"{way}_fold{which}"
    answer = workdir / "predictions.csv"
    if not answer.exists():
        config = real_small.get_config()
        config.data.key = "public"
        config.data.dir = str(args.out / "data")
        config.data.source = str(source)
        config.data.folds, config.data.fold = args.folds, which
        config.update_from_flattened_dict(WAYS[way])
        config.seed = config.data.seed = args.seed
        config.num_epochs = args.epochs
        config.eval_every_epochs = 1.0
        start = time.monotonic()
        assert train(config, workdir, f"{Path(__file__).name} {way} fold {which}") == 0
        seconds = time.monotonic() - start
        write_csv(answer, TrainedRun(workdir).predict("test"))
        (workdir / "seconds").write_text(str(seconds))
    return read_csv(answer), float((workdir / "seconds").read_text())


def curves(args: argparse.Namespace, path: Path) -> None:
    """Loss in training and validation by epoch: a thin line a fold, and the mean of all."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharex=True)
    for axis, split in zip(axes, ("train", "validation"), strict=True):
        for colour, way in enumerate(args.ways):
            lines = []
            for which in range(args.folds):
                history = read_history(args.out / f"{way}_fold{which}")
                rows = [row for row in history if row["split"] == split]
                lines.append([row["loss"] for row in rows])
                epochs = [round(row["epoch"]) for row in rows]
                axis.plot(epochs, lines[-1], color=f"C{colour}", linewidth=0.6, alpha=0.5)
            axis.plot(epochs, np.mean(lines, axis=0), color=f"C{colour}", label=way)
        axis.set_title(f"{split} loss")
        axis.set_xlabel("epoch")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--source", type=Path)
    parser.add_argument("--phantoms", type=int, default=60, help="subjects, without --source")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["all", "tissue"])
    parser.add_argument("--curves", type=Path, metavar="FILE.png", help="draw the losses")
    args = parser.parse_args()
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    source = args.source or phantoms(args.out, args.phantoms)
    parts: dict[str, list[Predictions]] = {way: [] for way in args.ways}
    seconds: dict[str, list[float]] = {way: [] for way in args.ways}
    for which in range(args.folds):
        for way in args.ways:
            predictions, taken = fold(args, source, which, way)
            parts[way].append(predictions)
            seconds[way].append(taken)
    whole = {way: joined(folds) for way, folds in parts.items()}
    table: dict = {"seconds": seconds, "subject": {}, "minus": {}}
    print(f"subject level, {args.folds} folds | ICH AUROC | location macro recall")

    def show(name: str, result: dict) -> dict:
        figures = {f"{task} {metric}": result["subject"][task][metric] for task, metric in FIGURES}
        print(" | ".join([name, *map(cell, figures.values())]))
        return figures

    for way, predictions in whole.items():
        table["subject"][way] = show(way, evaluate_predictions(predictions))
    first, *others = args.ways
    for way in others:
        name = f"{way} minus {first}"
        table["minus"][name] = show(name, paired_difference(whole[way], whole[first]))
    (args.out / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    if args.curves:
        curves(args, args.curves)


if __name__ == "__main__":
    main()
