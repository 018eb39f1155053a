"""The same 20 steps on several meshes of 8 devices that XLA makes of one CPU; prints JSON.

A program of its own, since the number of devices is fixed when JAX starts:

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.helpers.mesh_runs
"""

import functools
import json

import jax
import ml_collections
import numpy as np

from dtvit_jax.data.packing import Level, Packer
from dtvit_jax.planning.collectives import collectives
from dtvit_jax.planning.step_cost import sent
from dtvit_jax.training.network import make_tissue
from dtvit_jax.training.setup import abstract_state, initial_state, make_setup, with_gathering
from dtvit_jax.training.sharding import (
    batch_sharding,
    bytes_of_one,
    is_split,
    make_mesh,
    placed_on,
)
from dtvit_jax.training.steps import train_step
from tests.helpers import tiny
from tests.helpers.batches import batch_of

MESHES = ((1, 1), (8, 1), (1, 2), (2, 4))
STEPS = 20


def start(config: ml_collections.ConfigDict, data: int, fsdp: int) -> tuple:
    """The mesh, the setup, and the first state: its shapes in their places, and its values."""
    mesh = make_mesh({"data": data, "fsdp": fsdp}, jax.devices()[: data * fsdp])
    setup = make_setup(config, steps=STEPS)
    placed = placed_on(mesh, abstract_state(setup))
    setup = with_gathering(setup, placed)
    return mesh, setup, placed, initial_state(config, setup, placed)


def run(data: int, fsdp: int) -> dict:
    config = tiny.get_config()
    mesh, setup, placed, state = start(config, data, fsdp)
    split = [is_split(leaf) for leaf in jax.tree.leaves(placed.params)]
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
    step = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
    compiled = step.lower(state, batches[0]).compile()
    losses = []
    for batch in batches:
        state, logged = compiled(state, batch)
        losses.append(float(logged["loss"]))
    return {
        "losses": losses,
        "bytes_on_each": sorted(set(on_each.values())),
        "bytes_by_arithmetic": bytes_of_one(placed.params),
        "whole": sum(n for n, parts in zip(sizes, split, strict=True) if not parts),
        "in_parts": sum(n for n, parts in zip(sizes, split, strict=True) if parts),
        "sent": sent(placed.params, data, fsdp),
        "collectives": [(one.kind, one.size) for one in collectives(compiled.as_text())],
    }


def run_on_tissue(data: int, fsdp: int, accumulation: int) -> dict:
    """Four steps on slices with tissue in part of them, packed for the mesh."""
    config = tiny.get_config()
    config.model.tokens, config.model.head_dropout = "tissue", 0.0
    config.accumulation, config.batch_size = accumulation, 16
    mesh, setup, _, state = start(config, data, fsdp)
    rule, groups = make_tissue(config), data * fsdp * accumulation
    each = 16 // groups
    packer = Packer(rule, (Level(16 * each, (17,)),), 16, groups, accumulation)
    step = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
    compiled, losses = None, []
    for i in range(4):
        batch = batch_of(16, seed=i)
        for place, image in enumerate(batch["image"]):
            image[2 * place :] = 0
        batch = jax.device_put(packer(batch, np.arange(16), lambda row: {}), batch_sharding(mesh))
        compiled = compiled or step.lower(state, batch).compile()  # all four have one shape
        state, logged = compiled(state, batch)
        losses.append(float(logged["loss"]))
    kinds = {one.kind for one in collectives(compiled.as_text())}
    return {"losses": losses, "kinds": sorted(kinds)}


if __name__ == "__main__":
    found = {f"{data}x{fsdp}": run(data, fsdp) for data, fsdp in MESHES}
    tissue = {"1x1": run_on_tissue(1, 1, 1), "2x1 in parts": run_on_tissue(2, 1, 2)}
    print(json.dumps({**found, "tissue": tissue}))
