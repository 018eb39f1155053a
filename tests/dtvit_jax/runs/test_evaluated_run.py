"""The folder of a model: the five files that answer, and what is refused before they do."""

import json
import shutil

import jax
import numpy as np
import pytest

from data_builder.cleaning import clean
from dtvit_jax.runs import evaluated_weights
from dtvit_jax.training import record as run_record
from dtvit_jax.training.checkpoint import Checkpoints
from dtvit_jax.training.setup import abstract_state, make_setup
from dtvit_jax.weights.save import save
from tests.helpers.model_folder import MODEL, save_model
from tests.helpers.run_folder import random_weights
from tests.helpers.studies import head, run, write

MODEL_FOLDER = (
    "config.json",
    "run.json",
    "decision_rule.json",
    "training_slices.json",
    "weights.safetensors",
)
"""All that a model needs to answer elsewhere (docs/runs.md)."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder)
    return folder


@pytest.fixture(scope="module")
def answered(model, tmp_path_factory):
    """A study, and where the answers of the whole run lie."""
    place = tmp_path_factory.mktemp("answered")
    source = write(place / "s", [head(i) for i in range(5)])
    assert run(source, "--workdir", model, "--out", place / "out") == 0
    return source, place / "out"


@pytest.fixture
def copy(model, tmp_path):
    """Those files alone."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in MODEL_FOLDER:
        (folder / name).write_bytes((model / name).read_bytes())
    return folder


def change_json(path, **changes):
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | changes))


def cleaned_by(path, **changes):
    record = json.loads((path / "run.json").read_text())
    record["dataset"]["cleaning"] |= changes
    (path / "run.json").write_text(json.dumps(record))


def weights_of(path, step=3, dataset="0123"):
    setup = make_setup(run_record.read_config(path), steps=1)
    abstract = abstract_state(setup)
    evaluated_weights.write(path, MODEL, random_weights(abstract), step, dataset)


def weights_alone(path):
    """As `convert --all` writes them, which says nothing of a checkpoint."""
    setup = make_setup(run_record.read_config(path), steps=1)
    abstract = abstract_state(setup)
    save(path / "weights.safetensors", MODEL, *random_weights(abstract), heads=True)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


GONE_ON = "".join(
    json.dumps({"step": step, "split": "validation", "loss": loss}) + "\n"
    for step, loss in ((3, 1.0), (4, 2.0), (5, 0.5))
)

OTHER_MODELS = {
    "version 1 of the run folder, this program": lambda m: change_json(m / "run.json", format=1),
    "version 9 of the transform": lambda m: change_json(m / "run.json", transform_version=9),
    f"cleaning version {clean.VERSION - 1}": lambda m: cleaned_by(m, version=clean.VERSION - 1),
    "decision_rule.json is missing: run python -m": lambda m: (m / "decision_rule.json").unlink(),
    "training_slices.json is missing": lambda m: (m / "training_slices.json").unlink(),
    "is another checkpoint": lambda m: change_json(m / "decision_rule.json", checkpoint_step=4),
    "weights.safetensors is missing": lambda m: (m / "weights.safetensors").unlink(),
    "data set than the run's": lambda m: weights_of(m, dataset="4567"),
    "checkpoint or data set": lambda m: weights_of(m, step=2),
    "weights.safetensors: damaged": lambda m: cut(m / "weights.safetensors"),
    "missing or no evaluated run's": lambda m: weights_alone(m),
    "again": lambda m: (m / "history.jsonl").write_text(GONE_ON),
    "holds no run": lambda m: (m / "config.json").unlink(),
    "run.json of --workdir is missing or damaged": lambda m: (m / "run.json").write_text("{"),
    "history.jsonl of --workdir is damaged": lambda m: (m / "history.jsonl").write_text("{"),
}


@pytest.mark.parametrize("says", OTHER_MODELS)
def test_a_model_folder_that_is_not_whole_or_of_another_version_is_refused(
    copy, tmp_path, capsys, says
):
    OTHER_MODELS[says](copy)
    source = write(tmp_path / "s", [head(0)])
    assert run(source, "--workdir", copy, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "out" / "studies").exists()


def test_five_files_of_a_run_answer_elsewhere(copy, answered, tmp_path):
    worse = GONE_ON.splitlines()[:2]
    (copy / "history.jsonl").write_text("\n".join(worse) + "\n")  # a history takes nothing away
    assert run(answered[0], "--workdir", copy, "--out", tmp_path / "out") == 0
    found = (tmp_path / "out" / "slices.csv").read_bytes()
    assert found == (answered[1] / "slices.csv").read_bytes()


def test_a_better_checkpoint_that_was_damaged_and_set_aside_takes_nothing_away(
    model, answered, tmp_path, capsys
):
    """An evaluation of the best checkpoint that is left is the evaluation of the run."""
    whole = shutil.copytree(model, tmp_path / "run")
    rows = [{"step": n, "split": "validation", "loss": loss} for n, loss in ((3, 1.0), (4, 0.5))]
    (whole / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (answered[0], "--workdir", whole, "--out", tmp_path / "out")
    assert run(*words) == 2 and "is another checkpoint" in capsys.readouterr().err
    (whole / "checkpoints/4/metrics/metrics").write_text("{")
    Checkpoints(whole, "loss").close()
    assert (whole / "damaged/4_0").is_dir()
    assert run(*words) == 0


def test_weights_with_a_flipped_bit_answer_nothing(copy, tmp_path, capsys):
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1000] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    source = write(tmp_path / "s", [head(0)])
    assert run(source, "--workdir", copy, "--out", tmp_path / "out") == 2
    assert "weights.safetensors is damaged" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "studies").glob("*/results.json"))


def test_weights_are_hashed_whole(model, answered):
    from dtvit_jax.runs.evaluated_weights import digest

    told = json.loads((answered[1] / "results.json").read_text())["studies"]
    written = evaluated_weights.origin(model).weights_sha256
    assert told[0]["model"]["weights_sha256"] == written

    a = {"x": {"0": np.zeros(3, np.float32)}, "y": np.ones((2, 2), np.float32)}
    same_again = jax.tree.map(np.array, a)
    assert digest((a, {})) == digest((same_again, {}))
    same_again["y"][1, 1] = 2
    assert digest((a, {})) != digest((same_again, {}))
