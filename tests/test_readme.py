"""Commands of the README run (the steps, at a tiny size) or parse."""

import re
import shlex
import subprocess
import sys

import pytest
from absl import flags

import data_builder.__main__ as builder
from dtvit_jax import evaluate, main, predict
from tests.helpers import ROOT

BLOCKS = re.findall(r"```sh( steps)?\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
STEPS = [line for kind, block in BLOCKS if kind for line in block.splitlines()]
OTHERS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]

TINY = {
    "phantom": ["--subjects", "20"],
    "clean": [],
    "build": ["--size", "36"],
    "dtvit_jax.main": [
        "--config.data.size=36",
        "--config.model.name=vit_nano8",
        "--config.model.image_size=32",
        "--config.num_epochs=1",
    ],
    "dtvit_jax.evaluate": [],
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The folder in which the README's steps ran, and {step: completed process}."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "configs").symlink_to(ROOT / "configs")
    done = {}
    for line in STEPS:
        words = shlex.split(line)
        name = words[3] if words[2] == "data_builder" else words[2]
        command = [sys.executable, *words[1:], *TINY[name]]
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert process.returncode == 0, f"{line}: {process.stderr}"
        done[name] = process
    return folder, done


def test_the_steps_end_in_a_report(chain):
    folder, done = chain
    out = folder / "runs" / "phantom" / "test"
    for name in ("metrics.json", "predictions.csv", "report.html"):
        assert (out / name).stat().st_size > 100
    assert "report: runs/phantom/test/report.html" in done["dtvit_jax.evaluate"].stdout
    text = (out / "report.html").read_text()
    assert "say nothing about patients" in text
    assert not re.search(r"""(src|href)=["']https?:""", text)


def test_no_phantoms_name_is_in_what_was_written_after_cleaning(chain):
    folder, done = chain
    written = [p for p in folder.rglob("*") if p.is_file() and "scans" not in p.parts]
    assert len(written) > 100
    for path in written:
        data = path.read_bytes() + str(path.relative_to(folder)).encode()
        assert b"PHANTOM^" not in data and b"PHANTOM-00" not in data and b"phantom-00" not in data
    for name in ("clean", "build", "dtvit_jax.main", "dtvit_jax.evaluate"):
        assert "phantom-00" not in (done[name].stdout + done[name].stderr).lower()


def test_each_step_skips_what_is_done(chain):
    folder, _ = chain
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    for line in STEPS:
        words = shlex.split(line)
        name = words[3] if words[2] == "data_builder" else words[2]
        command = [sys.executable, *words[1:], *TINY[name]]
        assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 0
    rewritten = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert rewritten <= {"config.json", "run.json", ".journal.jsonl"}


@pytest.mark.parametrize("line", OTHERS)
def test_the_other_commands_are_commands(line, monkeypatch):
    words = shlex.split(line)
    if words[0] == "./launch.sh":
        assert words[1:2] in ([], ["test"], ["parity"], ["train"])
        if words[1:2] != ["train"]:
            return
        words = ["python", "-m", "dtvit_jax.main", *words[2:]]
    assert words[:2] == ["python", "-m"]
    if words[2] == "dtvit_jax.main":
        values = flags.FlagValues()
        monkeypatch.setattr("sys.argv", ["main", *words[3:]])
        main.define_flags(values)
        values(["main", *words[3:]])
        assert values.config.batch_size > 0
    elif words[2] == "dtvit_jax.evaluate":
        assert evaluate.parser().parse_args(words[3:])
    elif words[2] == "dtvit_jax.predict":
        assert predict.parser().parse_args(words[3:])
    else:
        assert words[2] == "data_builder"
        assert builder.parser().parse_args(words[3:])


def test_launch_lists_its_commands():
    assert subprocess.run(["bash", "-n", ROOT / "launch.sh"]).returncode == 0
    done = subprocess.run([ROOT / "launch.sh", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and "./launch.sh test" in done.stderr
    assert len((ROOT / "launch.sh").read_text().splitlines()) < 60
