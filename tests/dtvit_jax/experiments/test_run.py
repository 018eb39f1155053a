import json
import os
import signal
import subprocess
import sys
import threading
import time

import ml_collections
import numpy as np
import pytest
import sklearn.metrics

from configs.experiments import table4, table4_small
from data_builder.errors import InputError
from dtvit_jax.experiments import grid as experiment_grid
from dtvit_jax.experiments import page
from dtvit_jax.experiments import run as experiment_run
from dtvit_jax.experiments.grid import BASELINE, Cell, cells
from dtvit_jax.experiments.run import run
from dtvit_jax.experiments.table import difference_of, joined, row_of
from tests.helpers import ROOT
from tests.helpers.predictions import make, replaced

TINY = str(ROOT / "tests/helpers/tiny.py")
WHOLE = make(subjects=40, slices=5, skill=1.0)
DRAW = page.draw
FOLD = np.array([int(s[-3:]) // 10 % 2 for s in WHOLE.subject])
HALVES = {fold: WHOLE.select(fold == FOLD) for fold in (0, 1)}


def grid(**changes):
    """Two folds by subject, one row and the baseline."""
    config = table4.get_config()
    config.title = "A small table"
    config.folds = 2
    config.splits = ("subject",)
    config.rows = ml_collections.ConfigDict({"good": table4.row(TINY)})
    config.update(changes)
    return config


def predicted(config, cell, out):
    """Predictions without training: skill by row and split."""
    skill = {"good": 2.0, "bad": 0.2, BASELINE: 0.4}[cell.row] + (cell.split == "slice")
    p = make(subjects=40, slices=5, skill=skill, seed=3)
    return p.select(cell.fold == FOLD)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Few resamples, and no figures, which have a test of their own."""
    monkeypatch.setattr(page, "RESAMPLES", 60)
    monkeypatch.setattr(page, "RESAMPLES_ON_THE_WAY", 20)
    monkeypatch.setattr(page, "draw", lambda done, out: {})


def test_a_row_is_the_pooled_folds_and_the_mean_of_its_seeds():
    row = row_of({0: HALVES}, "slice", resamples=50)
    area = sklearn.metrics.roc_auc_score(WHOLE.hemorrhage, WHOLE.p_hemorrhage)
    assert row["ICH AUROC"]["value"] == pytest.approx(area)
    assert row["folds"] == [0, 1] and row["slices"] == len(WHOLE)
    worse = {
        fold: replaced(p, p_hemorrhage=np.sqrt(p.p_hemorrhage * 0.25)) for fold, p in HALVES.items()
    }
    both = row_of({0: HALVES, 1: worse}, "slice", resamples=50)["ICH accuracy"]
    assert both["value"] == pytest.approx(np.mean(both["seeds"])) and len(both["seeds"]) == 2
    assert both["low"] <= both["value"] <= both["high"]


def test_only_folds_that_every_seed_has_are_counted():
    row = row_of({0: HALVES, 1: {1: HALVES[1]}}, "subject", resamples=50)
    assert row["folds"] == [1] and row["slices"] == len(HALVES[1])


def test_a_difference_is_paired_on_the_slices_that_both_have():
    other = {1: replaced(HALVES[1], p_hemorrhage=HALVES[1].p_hemorrhage * 0.5)}
    difference = difference_of({0: HALVES}, {0: other}, "slice", resamples=50)
    assert difference["slices"] == len(HALVES[1])
    a, b = row_of({0: {1: HALVES[1]}}, "slice"), row_of({0: other}, "slice")
    expected = a["ICH accuracy"]["value"] - b["ICH accuracy"]["value"]
    assert difference["ICH accuracy"]["value"] == pytest.approx(expected)
    assert len(joined(list(HALVES.values()))) == len(WHOLE)


def test_the_grid_has_every_cell_once_and_the_baseline_one_seed():
    config = grid(seeds=(0, 1), splits=("slice", "subject"))
    grid_cells = list(cells(config))
    assert len(grid_cells) == len(set(grid_cells)) == 2 * 2 * (2 * 1 + 1)
    assert {c.seed for c in grid_cells if c.row == BASELINE} == {0}


def test_a_stopped_experiment_continues_and_runs_nothing_twice(tmp_path, capsys):
    config, ran = grid(), []

    def stopping(config, cell, out):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(cell)
        return predicted(config, cell, out)

    assert run(config, tmp_path, stopping) == 130
    assert "goes on" in capsys.readouterr().err
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


def test_the_table_names_what_beats_the_baseline_what_leaks_and_random_weights(tmp_path):
    rows = ml_collections.ConfigDict({"good": table4.row(TINY), "bad": table4.row(TINY)})
    config = grid(splits=("slice", "subject"), rows=rows)
    done = {cell: predicted(config, cell, tmp_path) for cell in cells(config)}
    page.write_table(config, done, len(done), tmp_path)
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["title"].endswith("(from random weights; not a replication)")  # tiny.py's
    against = table["splits"]["subject"]["against"]
    assert against["good"]["verdict"] == "above acquisition and slice selection"
    assert against["bad"]["verdict"].startswith("not distinguishable")
    lower = {"ICH AUROC": {"value": -0.2, "low": -0.3, "high": -0.1}}
    assert page.verdict(lower).endswith("and below them")
    even = {"ICH AUROC": {"value": 0.0, "low": None, "high": None}}
    assert page.verdict(even) == "no paired interval"
    leak = table["leak"]["bad"]["slice"]["ICH AUROC"]
    assert leak["value"] > 0 and leak["low"] > 0
    area = table["splits"]["subject"]["rows"]["good"]["subject"]["ICH AUROC"]
    for name in ("table.md", "table.html"):
        text = (tmp_path / name).read_text()
        assert "not a replication" in text and "not distinguishable" in text
        assert f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})" in text


def test_matrices_and_mean_curves_of_each_row_are_drawn(tmp_path):
    config = grid(baseline=False)
    done = {cell: predicted(config, cell, tmp_path) for cell in cells(config)}
    for cell in done:
        (tmp_path / cell.folder).mkdir(parents=True)
        row = {"epoch": 1, "split": "train", "loss": 0.5 + cell.fold}
        (tmp_path / cell.folder / "history.jsonl").write_text(json.dumps(row) + "\n")
    drawn = DRAW(done, tmp_path)
    assert list(drawn) == [
        "curves_00_subject",
        "matrix_hemorrhage_00_subject",
        "matrix_location_00_subject",
    ]
    assert drawn["curves_00_subject"].axes[0].lines[0].get_ydata().tolist() == [1.0]
    shown = {text.get_text() for text in drawn["matrix_hemorrhage_00_subject"].axes[0].texts}
    whole = joined(list(done.values()))
    assert str(int(((whole.p_hemorrhage >= 0.5) & (whole.hemorrhage == 1)).sum())) in shown


def test_a_failing_cell_is_listed_and_the_others_are_run(tmp_path):
    def failing(config, cell, out):
        if cell == Cell("good", "subject", 0, 1):
            raise InputError("no memory")
        return predicted(config, cell, out)

    assert run(grid(), tmp_path, failing) == 1
    assert "good,subject,0,1,no memory" in (tmp_path / "failed.csv").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["done"] == 3
    assert run(grid(), tmp_path, predicted) == 0 and not (tmp_path / "failed.csv").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_training_which_is_waited_for(tmp_path, number, status):
    """The child process takes a moment to save, as training does."""
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
    ("changes", "message"),
    [
        ({"folds": 1}, "2 or more"),
        ({"seeds": ()}, "one or more"),
        ({"splits": ("person",)}, "'subject' or 'slice'"),
    ],
)
def test_an_invalid_grid_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(grid(**changes), tmp_path / "out", predicted)
    assert not (tmp_path / "out").exists()


def test_another_grid_in_the_same_folder_is_refused(tmp_path):
    run(grid(baseline=False), tmp_path, predicted)
    with pytest.raises(InputError, match="another experiment"):
        run(grid(), tmp_path, predicted)


def test_rows_may_be_added_but_neither_changed_nor_removed(tmp_path):
    ran = []

    def counting(config, cell, out):
        ran.append(cell.row)
        return predicted(config, cell, out)

    def rows(**sizes):
        fields = {name: {"data__size": size} if size else {} for name, size in sizes.items()}
        return ml_collections.ConfigDict({n: table4.row(TINY, **f) for n, f in fields.items()})

    run(grid(rows=rows(good=0)), tmp_path, counting)
    with pytest.raises(InputError, match="another experiment"):  # "bad" would be the first row
        run(grid(rows=rows(bad=40, good=0)), tmp_path, counting)
    assert run(grid(rows=rows(bad=0, good=0)), tmp_path, counting) == 0
    assert sorted(ran) == sorted(2 * [BASELINE] + 2 * ["good"] + 2 * ["bad"])
    for changed in (rows(good=0), rows(bad=0, good=40)):
        with pytest.raises(InputError, match="another experiment"):
            run(grid(rows=changed), tmp_path, counting)


@pytest.mark.parametrize("config", [table4.get_config(), table4_small.get_config()])
def test_commands_of_the_experiments_in_configs_parse(config, tmp_path, monkeypatch):
    from absl import flags

    from dtvit_jax import main
    from dtvit_jax.training.config_checks import check_config

    experiment_grid.check(config)
    for cell in cells(config):
        if cell.row == BASELINE or cell.fold or cell.split == "slice":
            continue
        words = experiment_grid.command(config, cell, tmp_path)
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


def test_an_experiment_without_source_and_data_set_is_refused(tmp_path):
    words = [f"--config={table4_small.__file__}", f"--out={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "dtvit_jax.experiment", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr.count("\n") == 1 and "--config.source=SRC" in done.stderr
