"""Keeps an experiment's folder: experiment.json, the cells' predictions, failed.csv."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_collections

from data_builder.errors import InputError
from data_builder.files import csv_text, write_json, write_whole
from dtvit_jax.decision.predictions import Predictions, read_csv, write_csv
from dtvit_jax.experiments.grid import Cell, load_recipe, row_data
from dtvit_jax.training.record import public_config
from dtvit_jax.weights import hub

PRIVATE = ("source", "key", "data_dir")
"""Fields that are not written to experiment.json: they name places on the user's disk."""


def claim(config: ml_collections.ConfigDict, out: Path) -> None:
    """Writes experiment.json, or checks that the experiment in `out` is this one.

    Rows may be added, since finished cells stay valid.

    Raises:
      InputError: `out` has another experiment, experiment.json is damaged, or can't be written.
    """
    values = _public(json.loads(config.to_json_best_effort()))
    path = out / "experiment.json"
    try:
        earlier = _public(json.loads(path.read_text())) if path.exists() else values
        if not _continues(earlier, values, config.rows):
            raise InputError(f"{out} holds another experiment: give another --out")
        write_json(path, values)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError("experiment.json in --out is damaged: remove it") from error


def _public(values: dict[str, Any]) -> dict[str, Any]:
    """The experiment's values without PRIVATE fields and without paths in its rows.

    The path of a recipe becomes the digest of the recipe's own fields, the path of initial weights
    becomes PATH.
    """
    rows = {
        name: {
            "recipe": _recipe(row["recipe"]),
            "fields": [[field, _field(field, value)] for field, value in row["fields"]],
        }
        for name, row in values["rows"].items()
    }
    return {k: v for k, v in values.items() if k not in PRIVATE} | {"rows": rows}


def _recipe(recipe: str) -> str:
    if not recipe.endswith(".py") or not Path(recipe).is_file():
        return recipe
    fields = public_config(load_recipe(recipe))
    return "sha256:" + hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _field(name: str, value: Any) -> Any:
    private = name == "init_from" and value not in ("scratch", "PATH")
    return "PATH" if private and not hub.is_published(value) else value


def _continues(old: dict[str, Any], new: dict[str, Any], rows: ml_collections.ConfigDict) -> bool:
    """Returns whether `new` is `old`, or adds rows to it and leaves the baseline's data the same.

    A changed or a missing row makes it another experiment. `rows`: of the new one, as given.
    """
    if old == new:
        return True
    old_rows = {name: row for name, row in new["rows"].items() if name in old.get("rows", {})}
    if old != {**new, "rows": old_rows}:
        return False
    before = next(name for name in rows if name in old_rows)
    after = next(iter(rows))
    return not new["baseline"] or row_data(rows[before]) == row_data(rows[after])


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


def write_failed(
    out: Path, failed: Iterable[tuple[Cell, str]], config: ml_collections.ConfigDict
) -> None:
    """Writes failed.csv, each cell that failed and why; removes it if none did.

    The folders of the user in a message become the names of their options.
    """
    names = {config[name]: f"config.{name}" for name in PRIVATE} | {str(out): "--out"}
    places = sorted(names.keys() - {"", ".", "data", "public"}, key=len, reverse=True)
    rows = []
    for cell, why in failed:
        for place in places:
            why = why.replace(place, names[place])
        rows.append((cell.row, cell.split, cell.seed, cell.fold, why))
    if rows:
        columns = ("row", "split", "seed", "fold", "why")
        write_whole(out / "failed.csv", csv_text(columns, rows))
    else:
        (out / "failed.csv").unlink(missing_ok=True)
