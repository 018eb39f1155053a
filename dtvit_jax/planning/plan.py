"""Plans a run: what a training step needs, and how long it takes on each of some accelerators."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ml_collections

from data_builder.errors import InputError
from dtvit_jax.planning.accelerators import Accelerator
from dtvit_jax.planning.collectives import collectives
from dtvit_jax.planning.step_cost import (
    OnAccelerator,
    compiled_step,
    on_accelerator,
    step_cost,
    ways_to_fit,
)
from dtvit_jax.runtime import MEMORY_FRACTION
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.memory import GIB
from dtvit_jax.training.sharding import make_mesh

PAPERS_MEMORY = 24 * GIB
"""Memory of the GPU of arXiv 2405.06814 (section 4.1)."""


@dataclasses.dataclass(frozen=True)
class BytesPerDevice:
    """Estimated bytes on one device."""

    state: int
    gradients: int
    activations: int  # of one part of the batch, kept for the backward pass
    needed: int
    sent_per_step: dict[str, int]  # by kind of collective


@dataclasses.dataclass(frozen=True)
class WaysToFit:
    """Flags with which the step fits into `memory` bytes, and the bytes that it then needs.

    The key '' is the config as it is; without any key no flag helps.
    """

    memory: int
    ways: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """XLA's own counts of one device's program, in bytes and TFLOP."""

    arguments: int
    temporaries: int
    tflop: float
    collectives: dict[str, int]  # bytes by kind


@dataclasses.dataclass(frozen=True)
class Plan:
    """The answer of `python -m dtvit_jax.plan`."""

    model: str
    dtype: str
    batch_size: int
    accumulation: int
    mesh: dict[str, int]
    parameters: int
    forward_gmac_per_image: float
    tflop_per_step: float  # all devices
    bytes_per_device: BytesPerDevice
    utilisation: float  # fraction of the published peak
    usable_memory: float  # fraction of an accelerator's memory
    devices: list[OnAccelerator]
    fits: WaysToFit
    compiled: Compiled | None

    def as_json(self) -> dict[str, Any]:
        """Returns plain values, under the names that --json prints."""
        values = dataclasses.asdict(self)
        values["fits"] = {"memory": self.fits.memory, "with": self.fits.ways}
        if self.compiled is None:
            del values["compiled"]
        return values


def make_plan(
    config: ml_collections.ConfigDict,
    data: int,
    fsdp: int,
    accelerators: Sequence[Accelerator],
    utilisation: float,
    compiling: bool = False,
) -> Plan:
    """Plans a run of `config` on a mesh of data x fsdp devices.

    Args:
      accelerators: those to estimate times for. With exactly one, its memory must hold the step;
        otherwise PAPERS_MEMORY must.
      utilisation: fraction of the published peak that products reach, above 0, up to 1.
      compiling: compile the step for as many CPU devices, for XLA's own counts.

    Raises:
      InputError: the config can't be trained, or not on so many devices.
    """
    check_config(config)
    n = data * fsdp
    if config.batch_size % (config.accumulation * n):
        raise InputError(
            f"config.batch_size={config.batch_size} must be a multiple of config.accumulation="
            f"{config.accumulation} times {n} devices"
        )
    if not 0 < utilisation <= 1:
        raise InputError(f"--utilisation={utilisation}: give a part of the peak, above 0 up to 1")
    config = config.copy_and_resolve_references()
    if config.dtype == "auto":
        config.dtype = "bfloat16"  # the trainer's choice on an accelerator
    cost = step_cost(config, data, fsdp)
    bfloat16 = config.dtype == "bfloat16"
    memory = accelerators[0].memory if len(accelerators) == 1 else PAPERS_MEMORY
    return Plan(
        model=config.model.name,
        dtype=config.dtype,
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        mesh={"data": data, "fsdp": fsdp},
        parameters=cost.parameters,
        forward_gmac_per_image=round(cost.forward_macs / 1e9, 3),
        tflop_per_step=round(cost.flops / 1e12, 3),
        bytes_per_device=BytesPerDevice(
            state=cost.memory.state,
            gradients=cost.memory.gradients,
            activations=cost.memory.activations_per_example * (cost.examples // cost.accumulation),
            needed=cost.total(),
            sent_per_step={kind: round(size) for kind, size in cost.sent.items()},
        ),
        utilisation=utilisation,
        usable_memory=MEMORY_FRACTION,
        devices=[on_accelerator(cost, one, utilisation, bfloat16) for one in accelerators],
        fits=WaysToFit(memory, ways_to_fit(config, cost, memory)),
        compiled=_compiled(config, data, fsdp) if compiling else None,
    )


def _compiled(config: ml_collections.ConfigDict, data: int, fsdp: int) -> Compiled:
    compiled = compiled_step(config, make_mesh({"data": data, "fsdp": fsdp}))
    memory = compiled.memory_analysis()
    text, counts = compiled.as_text(), compiled.cost_analysis()
    assert memory and text and counts  # XLA:CPU gives all three
    sizes: Counter[str] = Counter()
    for collective in collectives(text):
        sizes[collective.kind] += collective.size
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        tflop=round(counts["flops"] / 1e12, 3),
        collectives=dict(sizes),
    )
