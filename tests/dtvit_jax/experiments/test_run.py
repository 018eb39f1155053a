import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from configs.experiments import table4, table4_small
from data_builder.errors import InputError
from dtvit_jax.experiments import grid as experiment_grid
from dtvit_jax.experiments import run as experiment_run
from dtvit_jax.experiments.grid import BASELINE, Cell, cells
from dtvit_jax.experiments.run import run
from tests.helpers.experiment import TINY, grid, predicted


def test_a_stopped_experiment_goes_on_and_runs_nothing_twice(tmp_path, capsys):
    config, ran = grid(), []

    def stopping(config, cell, out):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(cell)
        return predicted(config, cell, out)

    assert run(config, tmp_path, stopping) == 130
    assert "same command continues" in capsys.readouterr().err
    half = json.loads((tmp_path / "table.json").read_text())
    assert (half["done"], half["total"]) == (3, 4)
    assert "3 of 4 cells done" in (tmp_path / "table.md").read_text()

    def counting(config, cell, out):
        ran.append(cell)
        return predicted(config, cell, out)

    assert run(config, tmp_path, counting) == 0
    assert sorted(map(str, ran)) == sorted(map(str, cells(config)))
    whole = json.loads((tmp_path / "table.json").read_text())
    assert whole["done"] == 4 and not (tmp_path / "failed.csv").exists()
    assert run(grid(), tmp_path, counting) == 0 and len(ran) == 4  # nothing was left to run
    assert whole == json.loads((tmp_path / "table.json").read_text())


def test_a_cell_that_fails_is_listed_and_the_rest_is_done(tmp_path):
    def failing(config, cell, out):
        if cell == Cell("good", "subject", 0, 1):
            raise InputError("no memory")
        return predicted(config, cell, out)

    assert run(grid(), tmp_path, failing) == 1
    assert "good,subject,0,1,no memory" in (tmp_path / "failed.csv").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["done"] == 3
    assert run(grid(), tmp_path, predicted) == 0 and not (tmp_path / "failed.csv").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_passed_on_and_the_training_is_waited_for(tmp_path, number, status):
    """A child that takes a moment to save, as training does."""
    child = (
        "import pathlib, signal, sys, time\n"
        "def save(number, frame):\n"
        "    time.sleep(0.5); pathlib.Path(sys.argv[1], 'saved').touch(); sys.exit(128 + number)\n"
        "signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, save)\n"
        "pathlib.Path(sys.argv[1], 'up').touch(); time.sleep(60)\n"
    )

    def stop():
        while not (tmp_path / "up").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    assert experiment_run.train([sys.executable, "-c", child, str(tmp_path)]) == status
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"folds": 1}, "2 or more"),
        ({"seeds": ()}, "one or more"),
        ({"splits": ("person",)}, "'subject' or 'slice'"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        run(grid(**changes), tmp_path / "out", predicted)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", [table4.get_config(), table4_small.get_config()])
def test_the_experiments_of_this_project_are_grids_whose_commands_can_be_parsed(
    config, tmp_path, monkeypatch
):
    from absl import flags

    from dtvit_jax import main
    from dtvit_jax.training.config_checks import check_config

    experiment_grid.check(config)
    for cell in cells(config):
        if cell.row == BASELINE or cell.fold or cell.split == "slice":
            continue
        words = experiment_run.command(config, cell, tmp_path)
        values = flags.FlagValues()
        main.define_flags(values)
        monkeypatch.setattr(sys, "argv", ["main", *words[3:]])  # config flags look there
        values(sys.argv)
        check_config(values.config)
        assert values.config.data.folds == 5 and values.config.data.split == "subject"


def test_one_real_cell_and_the_baseline_predict_the_same_slices(published, tmp_path):
    config = grid(source=str(published), key="public", data_dir=str(tmp_path / "data"))
    config.rows = {"tiny": table4.row(TINY, num_epochs=0, num_steps=2)}
    config.splits = ("subject",)
    config.folds = 3
    cell = Cell("tiny", "subject", 0, 1)
    model = experiment_run.run_cell(config, cell, tmp_path)
    base = experiment_run.run_cell(config, Cell(BASELINE, "subject", 0, 1), tmp_path)
    np.testing.assert_array_equal(np.sort(model.key), np.sort(base.key))
    assert set(model.fold.tolist()) == {1} and np.isfinite(base.p_location).all()
    np.testing.assert_allclose(base.p_location.sum(axis=1), 1)


def test_without_a_source_or_a_data_set_nothing_is_begun(tmp_path):
    words = [f"--config={table4_small.__file__}", f"--out={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "dtvit_jax.experiment", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr.count("\n") == 1 and "--config.source=SRC" in done.stderr
