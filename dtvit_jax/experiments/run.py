"""Trains and predicts what an experiment still lacks, cell by cell, and keeps its table."""

import csv
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_collections

from data_builder.errors import InputError
from data_builder.files import hold
from dtvit_jax.decision.predictions import Predictions, read_csv, write_csv
from dtvit_jax.experiments.grid import (
    BASELINE,
    Cell,
    baseline_data,
    cells,
    check,
    claim,
    command,
    data_fields,
)

STOPPED = (130, 143)


def run_cell(config: ml_collections.ConfigDict, cell: Cell, out: Path) -> Predictions:
    """Trains and predicts the test side of one cell. Raises InputError where it can't."""
    if cell.row == BASELINE:
        return run_baseline(config, cell)
    status = train(command(config, cell, out))
    if status in STOPPED:
        raise KeyboardInterrupt
    if status:
        raise InputError(f"training ended with status {status}; its message is above")
    from dtvit_jax.runs.trained_run import TrainedRun

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
    from dtvit_jax.data.shards import open_shards
    from dtvit_jax.experiments import histogram_baseline

    given = {name.removeprefix("data."): v for name, v in data_fields(config, cell).items()}
    data = baseline_data(config)
    data.update(given)
    return histogram_baseline.predict(open_shards(data), "test", cell.fold)


Runner = Callable[[ml_collections.ConfigDict, Cell, Path], Predictions]


def run(config: ml_collections.ConfigDict, out: Path, runner: Runner = run_cell) -> int:
    """Runs what is not done yet and returns the exit status. Raises InputError for bad input."""
    from dtvit_jax.experiments.page import write_table

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


def write_failed(out: Path, failed: list[tuple[Cell, str]]) -> None:
    """failed.csv: each cell that could not be run, and why; none where all could."""
    path = out / "failed.csv"
    path.unlink(missing_ok=True)
    if failed:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("row", "split", "seed", "fold", "why"))
            rows.writerows((c.row, c.split, c.seed, c.fold, why) for c, why in failed)
