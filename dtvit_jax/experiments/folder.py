"""Keeps an experiment's folder: experiment.json, the cells' predictions, failed.csv."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_collections

from data_builder.errors import InputError
from data_builder.files import csv_text, write_json, write_whole
from dtvit_jax.decision.predictions import Predictions, read_csv, write_csv
from dtvit_jax.experiments.grid import Cell, baseline_data

PRIVATE = ("source", "key", "data_dir")
"""Fields that are not written to experiment.json: they name places on the user's disk."""


def claim(config: ml_collections.ConfigDict, out: Path) -> None:
    """Writes experiment.json, or checks that the experiment in `out` is this one.

    Rows may be added, since finished cells stay valid.

    Raises:
      InputError: `out` has another experiment, experiment.json is damaged, or can't be written.
    """
    values = json.loads(config.to_json_best_effort())
    for name in PRIVATE:
        values.pop(name)
    path = out / "experiment.json"
    try:
        if path.exists() and not continues(json.loads(path.read_text()), values):
            raise InputError(f"{out} holds another experiment: give another --out")
        write_json(path, values)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: remove it") from error


def continues(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Returns whether `new` is `old`, or adds rows to it and leaves the baseline's data the same.

    A changed or a missing row makes it another experiment.
    """
    if old == new:
        return True
    old_rows = {name: row for name, row in new["rows"].items() if name in old.get("rows", {})}
    if old != {**new, "rows": old_rows}:
        return False
    before, after = (baseline_data(ml_collections.ConfigDict(grid)) for grid in (old, new))
    return not new["baseline"] or before == after


def finished(out: Path, cell: Cell) -> Predictions | None:
    """Returns the predictions of a finished cell, else None."""
    path = _predictions_path(out, cell)
    return read_csv(path) if path.is_file() else None


def finish(out: Path, cell: Cell, predictions: Predictions) -> None:
    """Writes a cell's predictions.csv, which marks it as finished."""
    path = _predictions_path(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, predictions)


def _predictions_path(out: Path, cell: Cell) -> Path:
    return out / cell.folder / "predictions.csv"


def write_failed(out: Path, failed: Iterable[tuple[Cell, str]]) -> None:
    """Writes failed.csv, each cell that failed and why; removes it if none did."""
    rows = [(cell.row, cell.split, cell.seed, cell.fold, why) for cell, why in failed]
    if rows:
        columns = ("row", "split", "seed", "fold", "why")
        write_whole(out / "failed.csv", csv_text(columns, rows))
    else:
        (out / "failed.csv").unlink(missing_ok=True)
