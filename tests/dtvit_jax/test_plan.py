import json
import subprocess
import sys

import pytest

from data_builder.errors import InputError
from dtvit_jax.data.augment import PARAMETERS
from dtvit_jax.plan import parse_mesh
from tests.helpers import ROOT, tiny

TINY = str(ROOT / "tests/helpers/tiny.py")


def test_forms_of_a_mesh():
    config = tiny.get_config()
    assert parse_mesh("", config) == (1, 1)
    assert parse_mesh("data=2,fsdp=4", config) == (2, 4)
    assert parse_mesh("fsdp=4", config) == (1, 4)
    for text in ("data", "data=0", "model=2", "data=-1", "8"):
        with pytest.raises(InputError, match="give data=N"):
            parse_mesh(text, config)


def run_plan(*arguments):
    command = [sys.executable, "-m", "dtvit_jax.plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_agrees_with_the_compiled_step():
    """XLA's own counts of what it compiled for 4 devices, against the arithmetic."""
    mesh = "--mesh=data=2,fsdp=2"
    done = run_plan(f"--config={TINY}", mesh, "--device=h100", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    compiled, device = answer["compiled"], answer["bytes_per_device"]
    config = tiny.get_config()
    batch = config.batch_size // 4 * (36 * 36 + 4 + 4 + len(PARAMETERS) * 4)
    gathered = compiled["collectives"]["all-gather"]
    assert compiled["arguments"] == pytest.approx(device["state"] - gathered + batch, abs=512)
    assert 4 * compiled["tflop"] == pytest.approx(answer["tflop_per_step"], rel=0.2)
    assert [d["name"] for d in answer["devices"]] == ["H100"]


def test_a_bad_command_is_one_line_and_status_2():
    done = run_plan(f"--config={TINY}", "--device=abacus", "--nocompile")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: --device=abacus")
