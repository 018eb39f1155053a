"""Exported models: read without this package, and equal to the run they came from."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import packaging.requirements
import packaging.utils
import pytest

from data_builder.errors import InputError
from dtvit_jax import export
from dtvit_jax.decision import rule
from dtvit_jax.decision.rule import both
from dtvit_jax.runs import export_folder, portable
from dtvit_jax.runs.trained_run import TrainedRun
from tests.helpers import ROOT
from tests.helpers.model_folder import MODEL, save_model

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 36, 36), dtype=np.uint8)
MODELS = {"vit_nano8": "temperature", "squeezenet1_1": "isotonic"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two evaluated runs of random weights."""
    folders = {}
    for name, method in MODELS.items():
        folders[name] = workdir = tmp_path_factory.mktemp("runs") / name
        save_model(workdir, None, {**MODEL, "name": name, "location_classes": 4}, method)
        of = {"checkpoint_step": 3, "dataset_digest": "0123"}
        (workdir / "test").mkdir()
        (workdir / "test" / "metrics.json").write_text(json.dumps({"of": of}))
        (workdir / "test" / "model_card.md").write_text("# Model card\n")
    return folders


@pytest.fixture(scope="module")
def exported(runs):
    """Each run in both formats, in one folder a run."""
    for workdir in runs.values():
        for form in ("stablehlo", "onnx"):
            arguments = ["--workdir", str(workdir), "--out", str(workdir / "out")]
            assert export.main([*arguments, "--format", form]) == 0
    return {name: workdir / "out" for name, workdir in runs.items()}


@pytest.fixture(scope="module")
def wanted(runs):
    """What each run itself answers: its model, then the rule's calibration as evaluation has it."""
    answers = {}
    for name, workdir in runs.items():
        network, params, stats = TrainedRun(workdir).model()
        model = network.model(params, stats)
        hemorrhage, location = model(network.transform(jnp.asarray(IMAGES), None))
        raw = np.asarray(jax.nn.softmax(hemorrhage)[:, 1]), jax.nn.softmax(location[:, :3])
        fitted = rule.read(workdir).calibrations["slice"]
        method = MODELS[name]
        answers[name] = {
            "p_hemorrhage": fitted["hemorrhage"].apply(both(raw[0]), method)[:, 1],
            "p_location": fitted["location"].apply(np.asarray(raw[1]), method),
            "raw_p_hemorrhage": raw[0],
            "raw_p_location": np.asarray(raw[1]),
        }
        assert np.abs(answers[name]["p_hemorrhage"] - raw[0]).max() > 1e-3  # it does something
    return answers


def assert_answers(found, want, n):
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert np.asarray(found[name]).dtype == np.float32
        np.testing.assert_allclose(found[name], value[:n], atol=1e-4, err_msg=name)


def test_stablehlo_in_a_process_without_this_package(exported, wanted, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    code = """
import sys
sys.modules["dtvit_jax"] = sys.modules["data_builder"] = sys.modules["flax"] = None
import numpy as np
from jax import export
images = np.load("images.npy")
for name in sys.argv[1:]:
    with open(f"{name}/model.stablehlo", "rb") as file:
        model = export.deserialize(bytearray(file.read()))
    assert model.platforms == ("cpu", "cuda", "tpu")
    for n in (1, 3):
        np.savez(f"{name}/../answer{n}.npz", **model.call(images[:n]))
"""
    folders = [str(folder) for folder in exported.values()]
    subprocess.run([sys.executable, "-c", code, *folders], check=True, cwd=tmp_path, timeout=120)
    for name, folder in exported.items():
        for n in (1, 3):
            assert_answers(dict(np.load(folder.parent / f"answer{n}.npz")), wanted[name], n)


def test_onnx_in_onnxruntime(exported, wanted):
    onnxruntime = pytest.importorskip("onnxruntime")
    for name, folder in exported.items():
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        names = [output.name for output in session.get_outputs()]
        for n in (1, 3):
            found = session.run(None, {"images": IMAGES[:n]})
            assert_answers(dict(zip(names, found, strict=True)), wanted[name], n)


def test_what_the_folder_says(exported, runs):
    for name, folder in exported.items():
        index = json.loads((folder / "index.json").read_text())
        files = {path.name for path in folder.iterdir()}
        assert files == {*index["files"], "index.json"}
        assert files >= {"model.stablehlo", "model.onnx", "model_card.md", "decision_rule.json"}
        for file, facts in index["files"].items():
            content = (folder / file).read_bytes()
            assert hashlib.sha256(content).hexdigest() == facts["sha256"]
            assert len(content) == facts["bytes"]
        assert index["files"]["model.onnx"]["largest_difference"] <= 1e-4
        assert index["model"]["name"] == name and index["model"]["phantom"]
        assert index["notice"][1].startswith("The model was trained on synthetic phantoms. It has")
        assert index["input"]["shape"] == ["batch", 36, 36]
        assert index["cleaning"]["mode"] == "robust" and index["cleaning"]["window_hu"] == [0, 80]
        assert index["calibration"]["applied"]["hemorrhage"] == MODELS[name]
        assert index["calibration"]["in_force"]["hemorrhage"].startswith(MODELS[name])
        assert index["operating_points"][0]["name"] == "sensitivity_0.95"
        for path in folder.iterdir():  # no place on this disk
            content = path.read_bytes()
            for place in (runs[name], Path(export.__file__).parent):
                assert str(place).encode() not in content


def test_a_second_call_does_nothing_and_another_model_is_not_overwritten(exported, runs, capsys):
    one, other = exported.values()
    before = {path.name: path.stat().st_mtime_ns for path in one.iterdir()}
    assert export.main(["--workdir", str(one.parent), "--out", str(one)]) == 0
    assert "there already" in capsys.readouterr().out
    assert export.main(["--workdir", str(other.parent), "--out", str(one)]) == 2
    assert "something else" in capsys.readouterr().err
    assert before == {path.name: path.stat().st_mtime_ns for path in one.iterdir()}


def test_bad_input_is_one_line_and_writes_nothing(runs, tmp_path, monkeypatch, capsys):
    workdir = runs["vit_nano8"]

    def refused(arguments, word):
        before = sorted(tmp_path.rglob("*"))
        assert export.main(["--out", str(tmp_path / "out"), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and word in said
        assert sorted(tmp_path.rglob("*")) == before

    of_run = ["--workdir", str(workdir)]
    refused(["--workdir", str(tmp_path)], "holds no run")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jax2onnx", None)
        refused([*of_run, "--format", "onnx"], "extra onnx")
    with monkeypatch.context() as patch:
        patch.setattr(export_folder, "TOLERANCE", -1.0)
        refused(of_run, "differ from the run's")
    with monkeypatch.context() as patch:
        patch.setattr(portable, "LARGEST", 1000)
        refused(of_run, "GB of weights")
    with monkeypatch.context() as patch:
        patch.setattr(export_folder, "CARD", "missing.md")
        refused(of_run, "dtvit_jax.evaluate")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.json").write_text("{}")
    refused(of_run, "something else")


def test_a_damaged_file_is_not_called_done(runs, exported, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for path in exported["vit_nano8"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "model.onnx").write_bytes(b"half")
    with pytest.raises(InputError, match=r"model\.onnx is damaged"):
        export.export(runs["vit_nano8"], folder, "stablehlo")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(runs, tmp_path, monkeypatch, capsys, number):
    def stopped(answer, size):
        assert list(tmp_path.iterdir())  # the draft
        os.kill(os.getpid(), number)
        return b""

    stopping = dataclasses.replace(portable.FORMATS["stablehlo"], write=stopped)
    monkeypatch.setitem(portable.FORMATS, "stablehlo", stopping)
    arguments = ["--workdir", str(runs["vit_nano8"]), "--out", str(tmp_path / "out")]
    if number == signal.SIGTERM:
        with pytest.raises(SystemExit) as ended:
            export.main(arguments)
        assert ended.value.code == 143
    else:
        assert export.main(arguments) == 130
        assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def required(names):
    """The distributions that these need without extras, with all that those need in turn."""
    closure, left = set(), [packaging.requirements.Requirement(name) for name in names]
    while left:
        requirement = left.pop()
        name = packaging.utils.canonicalize_name(requirement.name)
        if name in closure or (requirement.marker and not requirement.marker.evaluate()):
            continue
        closure.add(name)
        left += map(packaging.requirements.Requirement, importlib.metadata.requires(name) or ())
    return closure


def test_the_base_install_has_what_jax_export_writes_with():
    """JAX imports flatbuffers to serialise StableHLO, and does not require it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = required(project["dependencies"])
    assert {"jax", "jaxlib", "flatbuffers"} <= base and "jax2onnx" not in base
