"""Describes an experiment as a grid of cells: rows of recipes by splits, seeds and folds."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

import configs
from data_builder.errors import InputError

BASELINE = "gray histogram"
"""Name of the baseline's row (`histogram_baseline`)."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of the grid, or one fit of the baseline: a row on one split and fold."""

    row: str
    split: str
    seed: int
    fold: int

    @property
    def folder(self) -> Path:
        """The cell's workdir, relative to --out."""
        return Path("runs") / self.row / f"{self.split}_seed{self.seed}_fold{self.fold}"


def cells(config: ml_collections.ConfigDict) -> Iterator[Cell]:
    """Yields all cells, fold by fold, so that the table can compare all rows early.

    The baseline has no seed: its cells have the first one.
    """
    rows = [*([BASELINE] if config.baseline else []), *config.rows]
    for seed in config.seeds:
        for fold in range(config.folds):
            for split in config.splits:
                for row in rows:
                    if row != BASELINE or seed == config.seeds[0]:
                        yield Cell(row, split, seed, fold)


def recipe_path(recipe: str) -> Path:
    """Returns the file of a recipe: configs/RECIPE.py, or `recipe` itself if it ends in .py.

    Raises InputError if it does not exist.
    """
    path = Path(recipe) if recipe.endswith(".py") else Path(configs.__path__[0]) / f"{recipe}.py"
    if not path.is_file():
        raise InputError(f"no recipe {recipe}: name a file of configs/ or a path that ends in .py")
    return path


def data_fields(config: ml_collections.ConfigDict, cell: Cell) -> dict[str, Any]:
    """Returns the fields of a run's config that name the cell's data and fold."""
    return {
        "data.source": config.source,
        "data.key": config.key,
        "data.dir": config.data_dir,
        "data.split": cell.split,
        "data.folds": config.folds,
        "data.fold": cell.fold,
    }


def baseline_data(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns config.data of the first row, which the baseline is fitted on."""
    return row_data(next(iter(config.rows.values())))


def row_data(row: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns config.data of a row."""
    data = load_recipe(row.recipe).data
    data.update({name.removeprefix("data."): v for name, v in row.fields if name == "data.size"})
    return data


def load_recipe(recipe: str) -> ml_collections.ConfigDict:
    """Returns the config of a recipe's file."""
    spec = importlib.util.spec_from_file_location("recipe", recipe_path(recipe))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def from_random_weights(config: ml_collections.ConfigDict) -> bool:
    """Returns whether any row starts from random weights."""
    initial = [
        dict(row.fields).get("init_from", load_recipe(row.recipe).init_from)
        for row in config.rows.values()
    ]
    return "scratch" in initial


def check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a grid that can't be run, before anything is written."""
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
            raise InputError(f"a row can't have the name {name!r}: take another")
        recipe_path(row.recipe)
