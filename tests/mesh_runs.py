"""The same 20 steps on several meshes of 8 devices that XLA makes of one CPU; prints JSON.

A program of its own, since the number of devices is fixed when JAX starts:

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python tests/mesh_runs.py
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import tiny
from test_steps import batch_of

from dtvit_jax.collectives import collectives
from dtvit_jax.run_setup import initial_state, make_task
from dtvit_jax.sharding import (
    batch_sharding,
    bytes_of_one,
    gather_for_use,
    is_split,
    make_mesh,
    state_sharding,
)
from dtvit_jax.step_cost import sent
from dtvit_jax.steps import train_step

MESHES = ((1, 1), (8, 1), (1, 2), (2, 4))
STEPS = 20


def run(data: int, fsdp: int) -> dict:
    config = tiny.get_config()
    mesh = make_mesh({"data": data, "fsdp": fsdp}, jax.devices()[: data * fsdp])
    task, abstract = make_task(config, steps=STEPS)
    placed = state_sharding(mesh, abstract)
    task = dataclasses.replace(task, gather=gather_for_use(placed.params))
    state = initial_state(config, task, placed, None)
    split = [is_split(part) for part in jax.tree.leaves(placed.params)]
    sizes = [x.nbytes for x in jax.tree.leaves(state.params)]
    on_each = {
        device.id: sum(
            shard.data.nbytes
            for x in jax.tree.leaves(state.params)
            for shard in x.addressable_shards
            if shard.device == device
        )
        for device in mesh.devices.flat
    }
    batches = [jax.device_put(batch_of(16, seed=i), batch_sharding(mesh)) for i in range(STEPS)]
    step = jax.jit(functools.partial(train_step, task=task), donate_argnums=0)
    compiled = step.lower(state, batches[0]).compile()
    losses = []
    for batch in batches:
        state, logged = compiled(state, batch)
        losses.append(float(logged["loss"]))
    return {
        "losses": losses,
        "bytes_on_each": sorted(set(on_each.values())),
        "bytes_by_arithmetic": bytes_of_one(abstract.params, placed.params),
        "whole": sum(n for n, parts in zip(sizes, split, strict=True) if not parts),
        "in_parts": sum(n for n, parts in zip(sizes, split, strict=True) if parts),
        "sent": sent(abstract.params, placed.params, data, fsdp),
        "collectives": [(one.kind, one.size) for one in collectives(compiled.as_text())],
    }


if __name__ == "__main__":
    print(json.dumps({f"{data}x{fsdp}": run(data, fsdp) for data, fsdp in MESHES}))
