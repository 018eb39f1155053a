"""What one training step costs, by arithmetic on shapes: no device, nothing compiled."""

import dataclasses
import functools
import math
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
from dtvit_jax.training.memory import Estimate
from dtvit_jax.training.network import Network
from dtvit_jax.training.setup import abstract_state, gathering, make_task, step_memory
from dtvit_jax.training.sharding import (
    batch_sharding,
    held_by_one,
    is_split,
    placed_shapes,
    state_sharding,
)
from dtvit_jax.training.steps import Task, train_step

USABLE = 0.92
"""Part of an accelerator's memory that arrays get; its driver and fragments take the rest."""


@dataclasses.dataclass(frozen=True)
class StepCost:
    """One training step. Bytes are one device's, operations those of all devices together."""

    parameters: int
    forward_macs: int
    """Multiply-adds of one image's forward pass, as this program computes it."""
    flops: int
    """Operations of products in the whole step, two a multiply-add."""
    memory: Estimate
    examples: int
    """One device's part of the batch."""
    accumulation: int
    devices: int
    sent: dict[str, float]
    """Bytes that one device sends, by kind of collective; a ring's, and at most."""

    def total(self) -> int:
        """Bytes that a device needs."""
        return self.memory.total(self.examples // self.accumulation, self.accumulation)


def abstract_mesh(data: int, fsdp: int) -> AbstractMesh:
    """A mesh of no devices, for shapes."""
    return AbstractMesh((data, fsdp), ("data", "fsdp"))


def step_cost(config: ml_collections.ConfigDict, data: int = 1, fsdp: int = 1) -> StepCost:
    """Counts a step of `config` on data x fsdp devices. Raises InputError for a bad config."""
    mesh = abstract_mesh(data, fsdp)
    task = make_task(config, steps=1)  # what is counted does not depend on the number of steps
    abstract = abstract_state(task)
    placed = state_sharding(mesh, abstract)
    whole = needed(config, task)
    return StepCost(
        parameters=sum(x.size for x in jax.tree.leaves(abstract.params)),
        forward_macs=forward_macs(config, task.network),
        flops=flops.count(
            functools.partial(train_step, task=task), abstract, abstract_batch(config)
        ),
        memory=dataclasses.replace(whole, state=held_by_one(abstract, placed)),
        examples=config.batch_size // mesh.size,
        accumulation=config.accumulation,
        devices=mesh.size,
        sent=sent(abstract.params, placed.params, data, fsdp, config.accumulation),
    )


def needed(
    config: ml_collections.ConfigDict,
    task: Task,
    plain: Estimate | None = None,
) -> Estimate:
    """As `step_memory`; where blocks are recomputed, one block's activations lie there besides.

    `plain` is the estimate without recomputing, where it is known.
    """
    need = step_memory(config, task)
    if not config.model.get("remat"):
        return need
    if plain is None:
        kept = ml_collections.ConfigDict(config.to_dict())
        kept.model.remat = False
        plain = step_memory(kept, make_task(kept, steps=1))
    block = plain.activations_per_example // len(task.network.params["encoder"]["blocks"])
    again = need.activations_per_example + block
    return dataclasses.replace(need, activations_per_example=again)


def abstract_batch(
    config: ml_collections.ConfigDict, placed: NamedSharding | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a training batch."""
    n, size = config.batch_size, config.data.size

    def shape(*dimensions: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, *dimensions), dtype, sharding=placed)

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
    """Multiply-adds of the model on one image."""
    side = config.model.image_size
    images = jax.ShapeDtypeStruct((1, side, side, config.model.channels), jnp.float32)

    def forward(params: Any, stats: Any, images: jax.Array) -> Any:
        return network.model(params, stats)(images)

    return flops.count(forward, network.params, network.stats, images) // 2


def sent(params: Any, placed: Any, data: int, fsdp: int, accumulation: int = 1) -> dict[str, float]:
    """Bytes that one device sends in a step for `params` as `placed`, by kind.

    A whole parameter: its gradient is summed over all devices. One in parts: it is gathered for the
    forward pass, its gradient is summed and scattered over 'fsdp', and the parts summed over
    'data'. Each part of an accumulated batch does so again.
    """
    total = {"all-reduce": 0.0, "all-gather": 0.0, "reduce-scatter": 0.0}
    for x, part in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True):
        size = math.prod(x.shape) * x.dtype.itemsize
        if is_split(part):
            total["all-gather"] += sent_by_all_gather(size, fsdp)
            total["reduce-scatter"] += sent_by_all_gather(size, fsdp)
            total["all-reduce"] += sent_by_all_reduce(size / fsdp, data)
        else:
            total["all-reduce"] += sent_by_all_reduce(size, data * fsdp)
    return {kind: accumulation * size for kind, size in total.items()}


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step on an accelerator."""

    products: float
    """At the stated part of the peak."""
    memory: float
    """The least that must pass between chip and memory, at its full bandwidth."""
    links: float
    """The collectives, at the link's full rate, after all else."""

    @property
    def total(self) -> float:
        return max(self.products, self.memory) + self.links


def step_time(cost: StepCost, on: Accelerator, utilisation: float, bfloat16: bool) -> StepTime:
    """An expectation, not a measurement: a roofline with `utilisation` of the peak in products.

    Memory: state read and written, gradients and what the backward pass keeps written and read.
    """
    peak = on.bfloat16_flops if bfloat16 else on.float32_flops
    kept = cost.memory.activations_per_example * cost.examples
    traffic = 2 * (cost.memory.state + cost.memory.gradients + kept)
    return StepTime(
        products=cost.flops / cost.devices / (peak * utilisation),
        memory=traffic / on.bandwidth,
        links=sum(cost.sent.values()) / on.link,
    )


def fits(cost: StepCost, on: Accelerator) -> bool:
    """Whether a device of this kind holds the step."""
    return cost.total() <= USABLE * on.memory


def ways_to_fit(config: ml_collections.ConfigDict, cost: StepCost, memory: int) -> dict[str, int]:
    """What makes the step fit into `memory` bytes, and the bytes it then needs.

    The config as it is, else its least accumulation, else the same with each block recomputed
    (`remat`, ViTs); empty where nothing does.
    """
    found = {}
    options = [("", cost.memory)]
    if config.model.name.startswith("vit") and not config.model.remat:
        again = ml_collections.ConfigDict(config.to_dict())
        again.model.remat = True
        need = needed(again, make_task(again, steps=1), plain=cost.memory)
        options.append(
            ("--config.model.remat=True", dataclasses.replace(need, state=cost.memory.state))
        )
    for option, need in options:
        for parts in range(cost.accumulation, cost.examples + 1):
            total = need.total(cost.examples // parts, parts)
            if cost.examples % parts == 0 and total <= USABLE * memory:
                words = [option] if option else []
                if parts > cost.accumulation:
                    words.append(f"--config.accumulation={parts}")
                found[" ".join(words)] = total
                break
    return found


def compiled_step(config: ml_collections.ConfigDict, mesh: Any) -> jax.stages.Compiled:
    """The step compiled for `mesh` (of this machine's devices), on shapes alone."""
    task = make_task(config, steps=1)
    abstract = abstract_state(task)
    placed = state_sharding(mesh, abstract)
    task = gathering(task, placed)
    abstract = placed_shapes(abstract, placed)
    step = jax.jit(functools.partial(train_step, task=task), donate_argnums=0)
    return step.lower(abstract, abstract_batch(config, batch_sharding(mesh))).compile()
