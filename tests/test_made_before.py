"""Folders that the program wrote before its modules became packages open and continue as then.

tests/made_before/README.md says how they were made.
"""

import csv
import itertools
import json
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import flags

from data_builder.records import CLASSES
from data_builder.shards.build import prepare
from data_builder.shards.files import data_sets, open_data_set
from data_builder.shards.splits import SPLITS, SplitPlan
from dtvit_jax import evaluate, main
from dtvit_jax.data.shards import Shards
from dtvit_jax.decision.predictions import read_csv
from dtvit_jax.experiments import run as experiment_run
from dtvit_jax.experiments.grid import load_recipe
from dtvit_jax.runs import evaluated_run
from dtvit_jax.runs.trained_run import TrainedRun
from dtvit_jax.train import train
from tests.helpers import ROOT

ARCHIVE = ROOT / "tests/made_before/2026-11-28.tar.xz"


@pytest.fixture
def before(tmp_path, monkeypatch) -> Path:
    """The archive's folders, which is also the working folder: its configs name relative paths."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(value, path=()):
    """{path: number} of nested JSON, with None for a number that is not defined."""
    if isinstance(value, dict):
        value = value.items()
    elif isinstance(value, list):
        value = enumerate(value)
    elif value is None or isinstance(value, int | float):
        return {path: value}
    else:
        return {}
    return {k: v for name, part in value for k, v in numbers(part, (*path, name)).items()}


def assert_same_numbers(actual, expected, tolerance, least=50):
    actual, expected = numbers(actual), numbers(expected)
    assert actual.keys() == expected.keys() and len(expected) > least
    undefined = {path for path, value in expected.items() if value is None}
    assert {path for path, value in actual.items() if value is None} == undefined
    for path in expected.keys() - undefined:
        assert actual[path] == pytest.approx(expected[path], abs=tolerance), path


def state_of(step):
    path = Path("run/checkpoints") / str(step) / "state"
    return ocp.StandardCheckpointer().restore(path.absolute())


def records_of(folder, side):
    """{key: record} of one side, every feature decoded."""
    records = open_data_set(folder).as_data_source(side)
    return {record["key"].decode(): record for record in records}


def test_shards_open_and_hold_the_slices_of_their_split_file(before, published, tmp_path_factory):
    """The same source, built today into another folder, gives the same records."""
    tested = []
    for fold in (0, 1):
        plan = SplitPlan("subject", 2, fold, 0)
        (old,) = data_sets(before / "data", f"size36_{plan.name}_*")
        stamps = {path: path.stat().st_mtime_ns for path in old.iterdir()}
        assert prepare(published, before / "data", plan, 36, "public") == old  # not built again
        assert {path: path.stat().st_mtime_ns for path in old.iterdir()} == stamps
        new = prepare(published, tmp_path_factory.mktemp("data"), plan, 36, "public")
        rows = rows_of(old / "splits.csv")
        assert rows_of(new / "splits.csv") == rows
        shards = Shards(old)
        for side in SPLITS:
            digests = {row["key"]: row["digest"] for row in rows if row["split"] == side}
            records, rebuilt = records_of(old, side), records_of(new, side)
            assert {key: r["digest"].decode() for key, r in records.items()} == digests
            for key, record in records.items():
                for name in ("image", "hemorrhage", "location", "subject", "study", "digest"):
                    np.testing.assert_array_equal(record[name], rebuilt[key][name])
            counts = shards.metadata["counts"][side]["slices"]
            strata = np.bincount(shards.source(side).strata, minlength=len(CLASSES))
            assert strata.tolist() == [counts[name] for name in CLASSES]
            assert strata.sum() == len(digests)
        tested += [row["key"] for row in rows if row["split"] == "test"]
    assert len(tested) == len(set(tested)) == 60


def test_a_run_predicts_and_evaluates_to_the_same_numbers(before):
    stored = before / "run/test"
    earlier = read_csv(stored / "predictions.csv")
    assert evaluate.main(["--workdir", "run", "--out", "again"]) == 0
    again = read_csv(before / "again/predictions.csv")
    for name in ("key", "subject", "split", "study", "hemorrhage", "location", "fold"):
        np.testing.assert_array_equal(getattr(again, name), getattr(earlier, name))
    np.testing.assert_allclose(again.p_hemorrhage, earlier.p_hemorrhage, atol=1e-4)
    np.testing.assert_allclose(again.p_location, earlier.p_location, atol=1e-4)
    metrics, expected = (
        json.loads((folder / "metrics.json").read_text()) for folder in (before / "again", stored)
    )
    calibration, earlier_calibration = metrics.pop("calibration"), expected.pop("calibration")
    assert_same_numbers(metrics, expected, tolerance=1e-3)
    for level, task in itertools.product(("slice", "subject"), ("hemorrhage", "location")):
        # Before any calibration; a temperature is shrunk now.
        after, before = calibration[level][task], earlier_calibration[level][task]
        assert_same_numbers(after["none"], before["none"], tolerance=1e-3, least=5)


def test_a_run_is_open_to_prediction(before):
    """Its rule, weights and training slices are those of its checkpoint, and the weights fit."""
    folder = evaluated_run.open_model(Path("run"))
    run = TrainedRun(Path("run"))
    assert folder.origin.checkpoint_step == run.step == 4
    expected = run.weights()
    weights = folder.weights(*expected)
    assert folder.check(weights) == folder.origin.weights_sha256
    jax.tree.map(np.testing.assert_array_equal, weights, expected)


def test_a_stopped_run_continues_to_the_same_parameters(before, monkeypatch):
    """From its checkpoint of step 2, under the command in its run.json."""
    expected, history = state_of(4), Path("run/history.jsonl").read_text()
    shutil.rmtree("run/checkpoints/4")
    words = shlex.split(json.loads(Path("run/run.json").read_text())["command"])[3:]
    words = [w.replace("configs/", f"{ROOT}/configs/") for w in words if not w.endswith("=PATH")]
    values = flags.FlagValues()
    main.define_flags(values)
    monkeypatch.setattr(sys, "argv", ["main", *words])  # config flags look there
    values(sys.argv)
    assert train(values.config, Path(values.workdir), "the same command") == 0
    actual = state_of(4)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(
        Path("run/history.jsonl").read_text().splitlines(), history.splitlines(), strict=True
    ):
        assert json.loads(one) == pytest.approx(json.loads(other), abs=1e-3)


def test_a_finished_experiment_trains_nothing_and_writes_its_table_again(before):
    def never(config, cell, out):
        raise AssertionError(f"{cell} was run again")

    config = load_recipe(str(before / "grid.py"))
    expected = json.loads(Path("experiment/table.json").read_text())
    for name in ("table.json", "table.md", "table.html"):
        Path("experiment", name).unlink()
    assert experiment_run.run(config, Path("experiment"), never) == 0
    for name in ("table.md", "table.html"):
        assert Path("experiment", name).stat().st_size > 1000
    assert_same_numbers(json.loads(Path("experiment/table.json").read_text()), expected, 1e-6)
