"""Finds the predictions of runs that are to be compared, and how their subjects were scored."""

import json
from collections.abc import Sequence
from pathlib import Path

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import DEFAULT, Aggregation


def find_all(arguments: Sequence[str], split: str) -> dict[str, Path]:
    """Finds the predictions.csv of each RUN or NAME=RUN, by name.

    RUN is a run's workdir, an evaluation's folder or a file; without NAME it is named after its
    folder or file. Raises InputError where there is no file, or two runs have the same name.
    """
    paths: dict[str, Path] = {}
    for argument in arguments:
        name, path = _find(argument, split)
        if name in paths:
            raise InputError(f"two runs are named {name}: give each a name, as {name}2=RUN")
        paths[name] = path
    return paths


def _find(argument: str, split: str) -> tuple[str, Path]:
    name, equals, rest = argument.partition("=")
    run = Path(rest if equals else argument)
    for path in (run, run / split / "predictions.csv", run / "predictions.csv"):
        if path.is_file():
            return name if equals else _name(run), path
    raise InputError(
        f"{run}: no predictions.csv for the split {split}: run python -m dtvit_jax.evaluate "
        f"--workdir {run} --split {split} first"
    )


def _name(run: Path) -> str:
    run = run.parent if run.name == "predictions.csv" else run
    return run.resolve().name if run.suffix != ".csv" else run.stem


def aggregation_of(path: Path) -> Aggregation:
    """The aggregation in the metrics.json of the same folder; the default without such a file."""
    try:
        aggregation = json.loads((path.parent / "metrics.json").read_text())["aggregation"]
        return Aggregation(str(aggregation["method"]), int(aggregation["k"]))
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT
