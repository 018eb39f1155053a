"""Compares runs on the same subjects: paired tests, intervals of differences, and conclusions.

A RUN is a workdir of python -m dtvit_jax.main that was evaluated, a folder with a predictions.csv,
or such a file, of any system; NAME=RUN gives it a name. comparison.html, comparison.json and
figures/ go to --out.
"""

import argparse
import sys
from pathlib import Path

from data_builder.errors import InputError, run_command
from dtvit_jax.decision.predictions import read_csv
from dtvit_jax.evaluation.comparison import compare
from dtvit_jax.evaluation.evaluated_predictions import aggregation_of, find_all
from dtvit_jax.reports.comparison_page import write_comparison

EXAMPLE = "python -m dtvit_jax.compare vit=runs/vit_b cnn=runs/resnet18 --out runs/vit_or_cnn"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m dtvit_jax.compare", description=__doc__, epilog=f"example: {EXAMPLE}"
    )
    top.add_argument("runs", nargs="+", metavar="RUN", help="workdir, folder or predictions.csv")
    top.add_argument("--out", type=Path, required=True, help="folder to write")
    top.add_argument("--split", choices=("train", "validation", "test"), default="test")
    top.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="ICH is predicted at this probability or above (default 0.5)",
    )
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parser().parse_args(argv)

    def command() -> int:
        if not 0 < args.threshold < 1:
            raise InputError(f"--threshold {args.threshold}: give a probability between 0 and 1")
        paths = find_all(args.runs, args.split)
        tables = {name: read_csv(path) for name, path in paths.items()}
        aggregations = {name: aggregation_of(path) for name, path in paths.items()}
        result = compare(tables, aggregations, threshold=args.threshold)
        page = write_comparison(args.out, result)
        for pair in result["pairs"]:
            print(f"{pair['a']} and {pair['b']}:")
            for sentence in pair["sentences"]:
                print(f"  {sentence}")
        print(f"comparison: {page}")
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
