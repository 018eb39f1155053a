"""The cells of an experiment: recipes by splits, seeds and folds, and the command of each."""

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

import configs
from data_builder.errors import InputError

BASELINE = "gray histogram"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of the grid, or one fit of the baseline."""

    row: str
    split: str
    seed: int
    fold: int

    @property
    def folder(self) -> Path:
        """Its workdir inside --out."""
        return Path("runs") / self.row / f"{self.split}_seed{self.seed}_fold{self.fold}"


def cells(config: ml_collections.ConfigDict) -> Iterator[Cell]:
    """Fold by fold, so that every row of the table has something to compare early."""
    rows = [*([BASELINE] if config.baseline else []), *config.rows]
    for seed in config.seeds:
        for fold in range(config.folds):
            for split in config.splits:
                for row in rows:
                    if row != BASELINE or seed == config.seeds[0]:  # it has no seed
                        yield Cell(row, split, seed, fold)


def recipe_path(recipe: str) -> Path:
    """configs/RECIPE.py, or the file itself. Raises InputError where there is none."""
    path = Path(recipe) if recipe.endswith(".py") else Path(configs.__path__[0]) / f"{recipe}.py"
    if not path.is_file():
        raise InputError(f"no recipe {recipe}: name a file of configs/ or a path that ends in .py")
    return path


def data_fields(config: ml_collections.ConfigDict, cell: Cell) -> dict[str, Any]:
    """Where a cell's shards come from and which of their sides it takes."""
    return {
        "data.source": config.source,
        "data.key": config.key,
        "data.dir": config.data_dir,
        "data.split": cell.split,
        "data.folds": config.folds,
        "data.fold": cell.fold,
    }


def command(config: ml_collections.ConfigDict, cell: Cell, out: Path) -> list[str]:
    """The training command of a cell."""
    row = config.rows[cell.row]
    fields = dict(row.fields) | data_fields(config, cell) | {"seed": cell.seed}
    return [
        sys.executable,
        "-m",
        "dtvit_jax.main",
        f"--config={recipe_path(row.recipe)}",
        f"--workdir={out / cell.folder}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


def baseline_data(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The first recipe's data, at its row's size."""
    row = next(iter(config.rows.values()))
    data = load_recipe(row.recipe).data
    data.update({name.removeprefix("data."): v for name, v in row.fields if name == "data.size"})
    return data


def load_recipe(recipe: str) -> ml_collections.ConfigDict:
    """The config that a recipe's file makes."""
    spec = importlib.util.spec_from_file_location("recipe", recipe_path(recipe))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def from_random_weights(config: ml_collections.ConfigDict) -> bool:
    """Whether any row starts from random weights."""
    starts = [
        dict(row.fields).get("init_from", load_recipe(row.recipe).init_from)
        for row in config.rows.values()
    ]
    return "scratch" in starts


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a grid that can't be run."""
    if not config.rows:
        raise InputError("config.rows is empty: name a recipe")
    if config.folds < 2:
        raise InputError(f"config.folds={config.folds}: give 2 or more")
    if not config.seeds:
        raise InputError("config.seeds is empty: give one or more, such as (0,)")
    for split in config.splits:
        if split not in ("subject", "slice"):
            raise InputError(f"config.splits has {split!r}: it is 'subject' or 'slice'")
    for name, row in config.rows.items():
        if name == BASELINE or "/" in name:
            raise InputError(f"a row can't be called {name!r}: take another name")
        recipe_path(row.recipe)


def claim(config: ml_collections.ConfigDict, out: Path) -> None:
    """Writes experiment.json, or checks that the experiment in `out` is this one.

    Rows may be added: what is done stays true. A changed row, or one that is gone, is refused.
    """
    values = json.loads(config.to_json_best_effort())
    for private in ("source", "key", "data_dir"):
        values.pop(private)
    path = out / "experiment.json"
    try:
        if path.exists() and not continues(json.loads(path.read_text()), values):
            raise InputError(f"{out} holds another experiment: give another --out")
        path.write_text(json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}: give another --out") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: remove it") from error


def continues(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether `new` is `old`, or has rows beside it and the same data for the baseline."""
    if old == new:
        return True
    kept = {name: row for name, row in new["rows"].items() if name in old.get("rows", {})}
    if old != {**new, "rows": kept}:
        return False
    before, after = (baseline_data(ml_collections.ConfigDict(grid)) for grid in (old, new))
    return not new["baseline"] or before == after
