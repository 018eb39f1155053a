"""Trains a grid of recipes, splits, folds and seeds, and keeps a table of what is done.

    python -m dtvit_jax.experiment --config configs/experiments/table4_small.py \
        --config.source=SRC --out experiments/table4_small

A run that was killed goes on when the same command is given again; finished cells are not run
again, nor when the grid has got new rows beside the old ones. --out gets table.md, table.html and
table.json, anew after each cell, figures of the curves and confusion matrices, runs/ with a workdir
a cell, and failed.csv where a cell could not be run.
Exit status 1: some cells failed; the table has the rest.
"""

import csv
import dataclasses
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

import configs
from data_builder.errors import InputError
from data_builder.shards import data_sets
from dtvit_jax.main import parse
from dtvit_jax.predictions import Predictions, read_csv, write_csv
from dtvit_jax.sole_use import hold

BASELINE = "gray histogram"
STOPPED = (130, 143)


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


def run_cell(config: ml_collections.ConfigDict, cell: Cell, out: Path) -> Predictions:
    """Trains and predicts the test side of one cell. Raises InputError where it can't."""
    if cell.row == BASELINE:
        return run_baseline(config, cell)
    status = train(command(config, cell, out))
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        raise InputError(f"training ended with status {status}; its message is above")
    from dtvit_jax.inference import TrainedRun

    return TrainedRun(out / cell.folder).predict("test")


def train(words: list[str]) -> int:
    """Runs a training command and returns its status; passes signals on, so that it can save."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    process.send_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGTERM, before)


def run_baseline(config: ml_collections.ConfigDict, cell: Cell) -> Predictions:
    """The histogram on the shards of the first recipe: same slices, same sides."""
    from dtvit_jax import histogram
    from dtvit_jax.input_pipeline import open_shards

    given = {name.removeprefix("data."): v for name, v in data_fields(config, cell).items()}
    data = baseline_data(config)
    data.update(given)
    return histogram.predict(open_shards(data), "test", cell.fold)


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


Runner = Callable[[ml_collections.ConfigDict, Cell, Path], Predictions]


def run(config: ml_collections.ConfigDict, out: Path, runner: Runner = run_cell) -> int:
    """Runs what is not done yet and returns the exit status. Raises InputError for bad input."""
    from dtvit_jax.experiment_page import write_table

    check(config)
    hold(out, "--out")
    claim(config, out)
    grid, failed = list(cells(config)), []
    done = {cell: found for cell in grid if (found := finished(out, cell)) is not None}
    for number, cell in enumerate(grid, start=1):
        if cell in done:
            continue
        print(f"{number}/{len(grid)}: {cell.folder.relative_to('runs')}", file=sys.stderr)
        try:
            predictions = runner(config, cell, out)
        except InputError as error:
            failed.append((cell, str(error)))
            print(f"error: {cell.folder}: {error}", file=sys.stderr)
            continue
        except KeyboardInterrupt:
            print("stopped; the same command goes on", file=sys.stderr)
            return STOPPED[0]
        (out / cell.folder).mkdir(parents=True, exist_ok=True)
        write_csv(out / cell.folder / "predictions.csv", predictions)  # it says the cell is done
        done[cell] = predictions
        write_table(config, done, len(grid), out)
    if done:
        write_table(config, done, len(grid), out)
    write_failed(out, failed)
    return 1 if failed else 0


def finished(out: Path, cell: Cell) -> Predictions | None:
    """The predictions of a cell that is done."""
    path = out / cell.folder / "predictions.csv"
    return read_csv(path) if path.is_file() else None


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


def write_failed(out: Path, failed: list[tuple[Cell, str]]) -> None:
    """failed.csv: each cell that could not be run, and why; none where all could."""
    path = out / "failed.csv"
    path.unlink(missing_ok=True)
    if failed:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("row", "split", "seed", "fold", "why"))
            rows.writerows((c.row, c.split, c.seed, c.fold, why) for c, why in failed)


def define_flags(values: flags.FlagValues) -> None:
    """The program's two flags, --config and --out."""
    config_flags.DEFINE_config_file("config", None, "The experiment.", flag_values=values)
    flags.DEFINE_string("out", None, "The experiment's folder.", values)
    flags.mark_flags_as_required(["config", "out"], values)


def _main(argv: list[str]) -> None:
    del argv
    config = flags.FLAGS.config
    try:
        if not config.source and not data_sets(Path(config.data_dir)):
            raise InputError(
                f"config.source is empty and {config.data_dir} holds no data set: give "
                "--config.source=SRC"
            )
        sys.exit(run(config, Path(flags.FLAGS.out)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    logging.set_verbosity(logging.ERROR)
    app.run(_main, flags_parser=parse)
