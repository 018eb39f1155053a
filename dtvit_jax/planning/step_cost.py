"""Estimates what one training step costs, by arithmetic on shapes: no device, no compilation."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding

from dtvit_jax.data.augment import PARAMETERS
from dtvit_jax.planning import flops
from dtvit_jax.planning.accelerators import Accelerator
from dtvit_jax.planning.collectives import sent_by_all_gather, sent_by_all_reduce
from dtvit_jax.runtime import MEMORY_FRACTION
from dtvit_jax.training.memory import Estimate, tree_bytes
from dtvit_jax.training.network import Network
from dtvit_jax.training.setup import abstract_state, make_setup, step_memory, with_gathering
from dtvit_jax.training.sharding import batch_sharding, held_by_one, is_split, placed_on
from dtvit_jax.training.steps import Setup, train_step


@dataclasses.dataclass(frozen=True)
class StepCost:
    """The cost of one training step.

    Attributes:
      parameters: of the model.
      forward_macs: multiply-adds of one image's forward pass, as this program computes it.
      flops: operations of products in the step, two a multiply-add, on all devices together.
      memory: of one device.
      examples: of one device's part of the batch.
      accumulation: parts that these are computed in.
      devices: of the mesh.
      sent: upper bound of the bytes that one device sends, by kind of collective, in rings.
    """

    parameters: int
    forward_macs: int
    flops: int
    memory: Estimate
    examples: int
    accumulation: int
    devices: int
    sent: dict[str, float]

    def total(self) -> int:
        """Returns the bytes that a device needs."""
        return self.memory.total(self.examples, self.accumulation)


def step_cost(config: ml_collections.ConfigDict, data: int = 1, fsdp: int = 1) -> StepCost:
    """Estimates a step of `config` on data x fsdp devices. Raises InputError for a bad config."""
    mesh = AbstractMesh((data, fsdp), ("data", "fsdp"))  # no devices: arithmetic on shapes
    setup = make_setup(config, steps=1)  # what is counted does not depend on the number of steps
    abstract = abstract_state(setup)
    placed = placed_on(mesh, abstract)
    return StepCost(
        parameters=sum(x.size for x in jax.tree.leaves(abstract.params)),
        forward_macs=forward_macs(config, setup.network),
        flops=flops.count(
            functools.partial(train_step, setup=setup), abstract, abstract_batch(config)
        ),
        memory=needed(config, setup, held_by_one(placed)),
        examples=config.batch_size // mesh.size,
        accumulation=config.accumulation,
        devices=mesh.size,
        sent=sent(placed.params, data, fsdp, config.accumulation),
    )


def needed(
    config: ml_collections.ConfigDict, setup: Setup, state: int, plain: Estimate | None = None
) -> Estimate:
    """Estimates a step's memory as `step_memory`, plus one block's activations under remat.

    `step_memory` counts what the backward pass keeps; a recomputed block's own activations are
    there besides. `state` as in `step_memory`; `plain`: the estimate without remat, if known.
    """
    need = step_memory(config, setup, state)
    if not config.model.get("remat"):  # a CNN has no such option
        return need
    if plain is None:
        kept = ml_collections.ConfigDict(config.to_dict())
        kept.model.remat = False
        plain = step_memory(kept, make_setup(kept, steps=1), state)
    block = plain.activations_per_example // len(setup.network.params["encoder"]["blocks"])
    with_block = need.activations_per_example + block
    return dataclasses.replace(need, activations_per_example=with_block)


def abstract_batch(
    config: ml_collections.ConfigDict, sharding: NamedSharding | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch (`data.loader.Batch`)."""
    n, size = config.batch_size, config.data.size

    def shape(*dimensions: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, *dimensions), dtype, sharding=sharding)

    batch = {
        "image": shape(size, size, dtype=np.uint8),
        "hemorrhage": shape(dtype=np.int32),
        "location": shape(dtype=np.int32),
        "augmentation": shape(len(PARAMETERS), dtype=np.float32),
    }
    if config.data.balance == "weights":
        batch["class_weight"] = shape(2, dtype=np.float32)
    return batch


def forward_macs(config: ml_collections.ConfigDict, network: Network) -> int:
    """Counts the multiply-adds of the model's forward pass on one image."""
    side = config.model.image_size
    images = jax.ShapeDtypeStruct((1, side, side, config.model.channels), jnp.float32)

    def forward(params: Any, stats: Any, images: jax.Array) -> Any:
        return network.model(params, stats)(images)

    return flops.count(forward, network.params, network.stats, images) // 2


def sent(params: Any, data: int, fsdp: int, accumulation: int = 1) -> dict[str, float]:
    """Returns the bytes that one device sends in a step, by kind of collective.

    A replicated parameter's gradient is summed over all devices. A sharded parameter is gathered
    for the forward pass, its gradient is reduced and scattered over 'fsdp', and its shards are
    summed over 'data'. Each part of an accumulated batch repeats this. `params` are shapes in their
    places (`sharding.placed_on`).
    """
    total = {"all-reduce": 0.0, "all-gather": 0.0, "reduce-scatter": 0.0}
    for leaf in jax.tree.leaves(params):
        size = tree_bytes(leaf)
        if is_split(leaf):
            total["all-gather"] += sent_by_all_gather(size, fsdp)
            total["reduce-scatter"] += sent_by_all_gather(size, fsdp)
            total["all-reduce"] += sent_by_all_reduce(size / fsdp, data)
        else:
            total["all-reduce"] += sent_by_all_reduce(size, data * fsdp)
    return {kind: accumulation * size for kind, size in total.items()}


@dataclasses.dataclass(frozen=True)
class OnAccelerator:
    """The step on one kind of accelerator; times are seconds a step.

    Attributes:
      memory: bytes of a device, all of them.
      fits: whether a device's usable memory holds the step.
      products_s: at the given fraction of the peak.
      memory_s: the least traffic between chip and memory, at its full bandwidth.
      links_s: the collectives, at the link's full rate, not overlapped with anything.
      step_s: the larger of products and memory, plus the links.
    """

    name: str
    memory: int
    fits: bool
    products_s: float
    memory_s: float
    links_s: float
    step_s: float
    examples_per_s: float


def on_accelerator(
    cost: StepCost, accelerator: Accelerator, utilisation: float, bfloat16: bool
) -> OnAccelerator:
    """Estimates a step by a roofline, with products at `utilisation` (0 to 1) of the peak.

    Memory traffic: the state, the gradients and the activations kept for the backward pass, each
    read and written once.
    """
    peak = accelerator.bfloat16_flops if bfloat16 else accelerator.float32_flops
    kept = cost.memory.activations_per_example * cost.examples
    traffic = 2 * (cost.memory.state + cost.memory.gradients + kept)
    products = cost.flops / cost.devices / (peak * utilisation)
    memory = traffic / accelerator.bandwidth
    links = sum(cost.sent.values()) / accelerator.link
    step = max(products, memory) + links
    return OnAccelerator(
        name=accelerator.name,
        memory=accelerator.memory,
        fits=cost.total() <= MEMORY_FRACTION * accelerator.memory,
        products_s=products,
        memory_s=memory,
        links_s=links,
        step_s=step,
        examples_per_s=cost.examples * cost.devices / step,
    )


def ways_to_fit(config: ml_collections.ConfigDict, cost: StepCost, memory: int) -> dict[str, int]:
    """Returns flags with which the step fits into `memory` bytes, and the bytes it then needs.

    For the config as it is, and for a ViT with remat too: the smallest accumulation that fits.
    The key '' is the config without any change. Empty if nothing helps.
    """
    ways = {}
    options = [("", cost.memory)]
    if config.model.name.startswith("vit") and not config.model.remat:
        again = ml_collections.ConfigDict(config.to_dict())
        again.model.remat = True
        need = needed(again, make_setup(again, steps=1), cost.memory.state, plain=cost.memory)
        options.append(("--config.model.remat=True", need))
    for option, need in options:
        parts = need.fitting_accumulation(
            cost.examples, cost.accumulation, MEMORY_FRACTION * memory
        )
        if parts is None:
            continue
        flags = [option] if option else []
        if parts > cost.accumulation:
            flags.append(f"--config.accumulation={parts}")
        ways[" ".join(flags)] = need.total(cost.examples, parts)
    return ways


def compiled_step(config: ml_collections.ConfigDict, mesh: Any) -> jax.stages.Compiled:
    """Compiles the step for a mesh of this machine's devices, from shapes alone."""
    setup = make_setup(config, steps=1)
    placed = placed_on(mesh, abstract_state(setup))
    setup = with_gathering(setup, placed)
    step = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
    return step.lower(placed, abstract_batch(config, batch_sharding(mesh))).compile()
