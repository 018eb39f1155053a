"""Runs the cells of an experiment that are not finished, and keeps its table up to date."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_collections

from data_builder.errors import InputError
from data_builder.files import hold
from data_builder.pseudonyms import check_key_place
from dtvit_jax.data.shards import open_shards
from dtvit_jax.decision.predictions import Predictions
from dtvit_jax.experiments import histogram_baseline
from dtvit_jax.experiments.folder import claim, finish, finished, write_failed
from dtvit_jax.experiments.grid import (
    BASELINE,
    Cell,
    baseline_data,
    cells,
    check,
    data_fields,
    recipe_path,
)
from dtvit_jax.experiments.page import write_table
from dtvit_jax.runs.trained_run import TrainedRun

STOPPED = (130, 143)
"""Exit statuses of a training command that SIGINT or SIGTERM stopped."""

Runner = Callable[[ml_collections.ConfigDict, Cell, Path], Predictions]


def run_cell(config: ml_collections.ConfigDict, cell: Cell, out: Path) -> Predictions:
    """Trains one cell in a process of its own, and predicts its test side in this one.

    Raises:
      InputError: the baseline's data can't be read, or training failed.
      KeyboardInterrupt: training was stopped by a signal.
    """
    if cell.row == BASELINE:
        return run_baseline(config, cell)
    status = train(command(config, cell, out))
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        raise InputError(f"training ended with status {status}; its message is above")
    return TrainedRun(out / cell.folder, config.data_dir).predict("test")


def command(config: ml_collections.ConfigDict, cell: Cell, out: Path) -> list[str]:
    """Returns the training command of a cell, as words."""
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


def train(words: list[str]) -> int:
    """Runs a training command and returns its status.

    SIGINT and SIGTERM are passed on to it, and its end is waited for, since it saves first.
    """
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
    """Fits the gray histogram on the first row's data: the same slices on the same sides."""
    data = baseline_data(config)
    data.update({name.removeprefix("data."): v for name, v in data_fields(config, cell).items()})
    return histogram_baseline.predict(open_shards(data), "test", cell.fold)


def run(config: ml_collections.ConfigDict, out: Path, runner: Runner = run_cell) -> int:
    """Runs all cells that are not finished and returns the exit status.

    0: all are finished; 1: some failed; 130: stopped by a signal. The table is written after each
    cell. Raises InputError for a bad grid or a folder that another experiment or process uses.
    """
    check(config)
    check_key_place(config.key or None, {"--out": out})
    hold(out, "--out")
    claim(config, out)
    grid = list(cells(config))
    failed: list[tuple[Cell, str]] = []
    loaded = {cell: finished(out, cell) for cell in grid}
    done = {cell: predictions for cell, predictions in loaded.items() if predictions is not None}
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
            print("stopped; the same command continues", file=sys.stderr)
            return STOPPED[0]
        finish(out, cell, predictions)
        done[cell] = predictions
        write_table(config, done, len(grid), out)
    if done:
        write_table(config, done, len(grid), out)
    write_failed(out, failed, config)
    return 1 if failed else 0
