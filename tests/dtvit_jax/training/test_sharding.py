"""Meshes of 1, 2 and 8 devices that XLA makes of one CPU, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from data_builder.errors import InputError
from dtvit_jax.training.sharding import make_mesh
from tests.helpers import ROOT

MESHES = ("8x1", "1x2", "2x4")
# The CPU's code is not optimised: the same collectives and shapes, compiled in 0.6 of the time.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


@pytest.fixture(scope="module")
def runs():
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.mesh_runs"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": FLAGS},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", MESHES)
def test_losses_are_the_same_on_any_mesh(runs, mesh):
    alone = runs["1x1"]["losses"]
    assert len(alone) == 20 and alone[-1] < alone[0]
    assert runs[mesh]["losses"] == pytest.approx(alone, abs=1e-5)


def test_packed_batches_are_the_same_in_parts_on_two_devices(runs):
    """config.model.tokens='tissue': each device packs its own slices, and only sums are sent."""
    alone, parts = runs["tissue"]["1x1"], runs["tissue"]["2x1 in parts"]
    assert parts["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert parts["kinds"] == ["all-reduce"]


@pytest.mark.parametrize("mesh", ("1x1", *MESHES))
def test_parameters_lie_in_equal_parts_over_fsdp(runs, mesh):
    run, fsdp = runs[mesh], int(mesh[-1])
    if fsdp == 1:
        assert run["in_parts"] == 0
    else:
        assert run["in_parts"] > 2 * run["whole"]
    assert run["bytes_on_each"] == [run["whole"] + run["in_parts"] / fsdp]
    assert run["bytes_by_arithmetic"] == run["bytes_on_each"][0]


def by_kind(run):
    total = {}
    for kind, size in run["collectives"]:
        total[kind] = total.get(kind, 0) + size
    return total


def test_data_parallel_steps_only_sum(runs):
    """Gradients, each once, and some scalars: no parameter and no activation is sent."""
    assert runs["1x1"]["collectives"] == []
    found = by_kind(runs["8x1"])
    assert set(found) == {"all-reduce"}
    assert found["all-reduce"] == pytest.approx(runs["8x1"]["whole"], abs=256)


@pytest.mark.parametrize("mesh", ("1x2", "2x4"))
def test_fully_sharded_steps_gather_parameters_and_sum_gradients(runs, mesh):
    """Each split parameter is gathered once; activations stay where they are.

    XLA's CPU compiler makes no reduce-scatter: each gradient is summed whole, once over all
    devices, and a slice of it kept.
    """
    run = runs[mesh]
    found = by_kind(run)
    assert set(found) == {"all-gather", "all-reduce"}
    assert found["all-gather"] == pytest.approx(run["in_parts"], abs=256)
    assert found["all-reduce"] == pytest.approx(run["whole"] + run["in_parts"], abs=256)


def test_bytes_sent_by_hand(runs):
    """Rings: 2 (n - 1) / n of what is summed, (n - 1) / n of what is gathered or scattered."""
    whole = runs["8x1"]["whole"]
    assert runs["8x1"]["sent"]["all-reduce"] == pytest.approx(2 * 7 / 8 * whole)
    run = runs["2x4"]
    assert run["sent"]["all-gather"] == pytest.approx(3 / 4 * run["in_parts"])
    assert run["sent"]["reduce-scatter"] == pytest.approx(3 / 4 * run["in_parts"])
    summed = 2 * 7 / 8 * run["whole"] + 2 * 1 / 2 * run["in_parts"] / 4
    assert run["sent"]["all-reduce"] == pytest.approx(summed)


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (-1, 2), (0, 1), (-2, 1), (1, 0)])
def test_a_mesh_that_does_not_use_each_device_once(data, fsdp):
    import jax

    with pytest.raises(InputError, match=r"config\.mesh"):
        make_mesh({"data": data, "fsdp": fsdp}, jax.devices()[:1])
