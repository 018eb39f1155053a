"""Compares runs on the same subjects: paired tests, intervals of differences, a table in words.

A RUN is a workdir of python -m dtvit_jax.main that was evaluated, a folder with a predictions.csv,
or such a file, of any system; NAME=RUN gives it a name. comparison.html, comparison.json and
figures/ go to --out.
"""

import argparse
import json
import sys
from pathlib import Path

from data_builder.errors import InputError, run_command
from dtvit_jax.decision.aggregation import DEFAULT, Aggregation
from dtvit_jax.decision.predictions import read_csv
from dtvit_jax.evaluation.comparison import compare
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
        "--threshold", type=float, default=0.5, help="ICH is called at it or above (default 0.5)"
    )
    return top


def find_run(given: str, split: str) -> tuple[str, Path]:
    """A run's name and its predictions.csv. Raises InputError where there is none."""
    name, equals, rest = given.partition("=")
    place = Path(rest if equals else given)
    for path in (place, place / split / "predictions.csv", place / "predictions.csv"):
        if path.is_file():
            return name if equals else _name(place), path
    raise InputError(
        f"{place}: no predictions.csv for the split {split}: run python -m dtvit_jax.evaluate "
        f"--workdir {place} --split {split} first"
    )


def _name(place: Path) -> str:
    place = place.parent if place.name == "predictions.csv" else place
    return place.resolve().name if place.suffix != ".csv" else place.stem


def aggregation_beside(path: Path) -> Aggregation:
    """How that evaluation made subjects of slices; the default where it does not say."""
    try:
        how = json.loads((path.parent / "metrics.json").read_text())["aggregation"]
        return Aggregation(str(how["method"]), int(how["k"]))
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = parser().parse_args(argv)

    def command() -> int:
        if not 0 < args.threshold < 1:
            raise InputError(f"--threshold {args.threshold}: give a probability between 0 and 1")
        found = [find_run(given, args.split) for given in args.runs]
        names = [name for name, _ in found]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two runs are called {name}: give each a name, as {name}2=RUN")
        runs = {name: read_csv(path) for name, path in found}
        how = {name: aggregation_beside(path) for name, path in found}
        result = compare(runs, how, threshold=args.threshold)
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
