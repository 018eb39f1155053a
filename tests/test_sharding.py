"""On 8 devices that XLA makes of one CPU, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import functools, json, sys
import jax, numpy as np
sys.path.insert(0, 'tests')
import tiny
from test_steps import batch_of
from dtvit_jax.run_setup import make_task
from dtvit_jax.sharding import batch_sharding, make_mesh, state_sharding
from dtvit_jax.steps import train_step
from dtvit_jax.run_setup import initial_state
out = {}
for data, fsdp in ((8, 1), (2, 4)):
    config = tiny.get_config()
    mesh = make_mesh({'data': data, 'fsdp': fsdp})
    task, abstract = make_task(config, steps=20)
    placed = state_sharding(mesh, abstract)
    state = initial_state(config, task, placed, None)
    step = jax.jit(functools.partial(train_step, task=task), donate_argnums=0)
    losses = []
    for i in range(20):
        batch = jax.device_put(batch_of(16, seed=i), batch_sharding(mesh))
        state, logged = step(state, batch)
        losses.append(float(logged['loss']))
    bytes_here = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state.params))
    large = sum(x.size * 4 for x in jax.tree.leaves(state.params) if x.size >= 2**14)
    whole = sum(x.size * 4 for x in jax.tree.leaves(state.params))
    out[f'{data}x{fsdp}'] = [losses, bytes_here, large, whole]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def runs():
    results = {}
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        code = CODE if devices == 8 else CODE.replace("((8, 1), (2, 4))", "((1, 1),)")
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        results |= json.loads(done.stdout.splitlines()[-1])
    return results


def test_losses_are_the_same_on_any_mesh(runs):
    for mesh in ("8x1", "2x4"):
        assert runs[mesh][0] == pytest.approx(runs["1x1"][0], abs=1e-5)


def test_large_parameters_are_split_over_fsdp(runs):
    _, here, large, whole = runs["2x4"]
    assert here == whole - large + large / 4
    assert runs["8x1"][1] == whole
