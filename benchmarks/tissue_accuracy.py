"""config.model.tokens='tissue' beside 'all': the same folds, seeds, epochs and examples.

    python benchmarks/tissue_accuracy.py --source SRC --out OUT [--folds 5] [--epochs 6]
    python benchmarks/tissue_accuracy.py --phantoms 60 --out OUT

SRC is a folder in the published layout; without it made-up heads are made and cleaned in OUT. Each
fold trains configs/real_small.py with either choice; the test slices of all folds are joined and
the subjects compared in pairs. Finished folds are not run again. Prints a table with 95% intervals
over subjects; writes OUT/table.json. Phantom results say nothing about patients.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from real_small import FIGURES, cell, joined  # noqa: E402

from configs import real_small  # noqa: E402
from dtvit_jax.allocator import keep_freed_memory  # noqa: E402
from dtvit_jax.evidence import evaluate_predictions, paired_difference  # noqa: E402
from dtvit_jax.inference import TrainedRun  # noqa: E402
from dtvit_jax.predictions import Predictions, read_csv, write_csv  # noqa: E402
from dtvit_jax.train import train  # noqa: E402

TOKENS = ("all", "tissue")


def phantoms(out: Path, subjects: int) -> Path:
    """A folder of made-up heads, cleaned."""
    scans, cleaned = out / "scans", out / "cleaned"
    if not (cleaned / "manifest.csv").exists():
        for command in (
            f"phantom --out {scans} --subjects {subjects}",
            f"clean {scans} --out {cleaned} --key public",
        ):
            run = [sys.executable, "-m", "data_builder", *command.split()]
            subprocess.run(run, check=True, cwd=ROOT)
    return cleaned


def fold(
    args: argparse.Namespace, source: Path, which: int, tokens: str
) -> tuple[Predictions, float]:
    """Predictions for one fold's test slices, and the seconds that training took."""
    workdir = args.out / f"{tokens}_fold{which}"
    answer = workdir / "predictions.csv"
    if not answer.exists():
        config = real_small.get_config()
        config.data.key = "public"
        config.data.dir = str(args.out / "data")
        config.data.source = str(source)
        config.data.folds, config.data.fold = args.folds, which
        config.model.tokens = tokens
        config.seed = config.data.seed = args.seed
        config.num_epochs = args.epochs
        config.eval_every_epochs = args.epochs / 3
        start = time.monotonic()
        assert train(config, workdir, f"{Path(__file__).name} {tokens} fold {which}") == 0
        seconds = time.monotonic() - start
        write_csv(answer, TrainedRun(workdir).predict("test"))
        (workdir / "seconds").write_text(str(seconds))
    return read_csv(answer), float((workdir / "seconds").read_text())


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
    args = parser.parse_args()
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    source = args.source or phantoms(args.out, args.phantoms)
    parts: dict[str, list[Predictions]] = {tokens: [] for tokens in TOKENS}
    seconds: dict[str, list[float]] = {tokens: [] for tokens in TOKENS}
    for which in range(args.folds):
        for tokens in TOKENS:
            found, taken = fold(args, source, which, tokens)
            parts[tokens].append(found)
            seconds[tokens].append(taken)
    whole = {tokens: joined(found) for tokens, found in parts.items()}
    table: dict = {"seconds": seconds, "subject": {}}
    print(f"subject level, {args.folds} folds | ICH AUROC | location macro recall")
    for tokens, predictions in whole.items():
        result = evaluate_predictions(predictions)["subject"]
        figures = {f"{task} {metric}": result[task][metric] for task, metric in FIGURES}
        table["subject"][tokens] = figures
        print(" | ".join([tokens, *map(cell, figures.values())]))
    difference = paired_difference(whole["tissue"], whole["all"])["subject"]
    figures = {f"{task} {metric}": difference[task][metric] for task, metric in FIGURES}
    table["tissue minus all"] = figures
    print(" | ".join(["tissue minus all", *map(cell, figures.values())]))
    (args.out / "table.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
