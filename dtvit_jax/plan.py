"""What a run will need, before there is a device: memory, operations, traffic, a step's time.

    python -m dtvit_jax.plan --config configs/vit_l.py --device "RTX 3090"
    python -m dtvit_jax.plan --config configs/vit_h.py --mesh data=2,fsdp=4 --device H100

Any field of the config can be set: --config.batch_size=64. The step is compiled too, for this
machine's CPU, and its own counts are printed beside the arithmetic; that takes a minute or more for
a large model, and --nocompile leaves it out. Without --device every known accelerator is listed.
"""

import json
import re
import sys
from typing import Any

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from data_builder.errors import InputError, run_command
from dtvit_jax.command_line import parse
from dtvit_jax.planning import accelerators
from dtvit_jax.planning.accelerators import ACCELERATORS, Accelerator
from dtvit_jax.planning.collectives import collectives
from dtvit_jax.planning.step_cost import (
    USABLE,
    StepCost,
    compiled_step,
    fits,
    step_cost,
    step_time,
    ways_to_fit,
)
from dtvit_jax.planning.table import table
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.memory import GIB
from dtvit_jax.training.sharding import make_mesh

PAPERS_MEMORY = 24 * GIB
"""The GPU of arXiv 2405.06814 had so much (section 4.1)."""


def define_flags(values: flags.FlagValues) -> None:
    """The program's flags."""
    config_flags.DEFINE_config_file("config", None, "The recipe.", flag_values=values)
    flags.DEFINE_string("mesh", "", "Devices, such as data=8 or data=2,fsdp=4.", values)
    flags.DEFINE_string("device", "", "An accelerator's name, such as H100.", values)
    flags.DEFINE_float(
        "utilisation", 0.4, "Part of the published peak that products reach.", flag_values=values
    )
    flags.DEFINE_bool("compile", True, "Compile the step too, and print its counts.", values)
    flags.DEFINE_bool("json", False, "Print JSON instead of a table.", values)
    flags.mark_flag_as_required("config", values)


def parse_mesh(text: str, config: ml_collections.ConfigDict) -> tuple[int, int]:
    """(data, fsdp) of `--mesh`, or of the config where it is empty (-1: one device)."""
    if not text:
        return max(config.mesh.data, 1), config.mesh.fsdp
    shape = {"data": 1, "fsdp": 1}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(data|fsdp)=([1-9]\d{0,5})\s*", part)
        if not match:
            raise InputError(f"--mesh={text}: give data=N, fsdp=M, or both with a comma between")
        shape[match[1]] = int(match[2])
    return shape["data"], shape["fsdp"]


def plan(
    config: ml_collections.ConfigDict,
    data: int,
    fsdp: int,
    devices: tuple[Accelerator, ...],
    utilisation: float,
    compiling: bool = False,
) -> dict[str, Any]:
    """The whole answer, as plain values. Raises InputError for what can't be."""
    check_config(config)
    n = data * fsdp
    if config.batch_size % (config.accumulation * n):
        raise InputError(
            f"config.batch_size={config.batch_size} must be a multiple of config.accumulation="
            f"{config.accumulation} times {n} devices"
        )
    if not 0 < utilisation <= 1:
        raise InputError(f"--utilisation={utilisation}: give a part of the peak, above 0 up to 1")
    if config.dtype == "auto":
        config.dtype = "bfloat16"  # what the trainer takes on an accelerator
    cost = step_cost(config, data, fsdp)
    answer = {
        "model": config.model.name,
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "accumulation": config.accumulation,
        "mesh": {"data": data, "fsdp": fsdp},
        "parameters": cost.parameters,
        "forward_gmac_per_image": round(cost.forward_macs / 1e9, 3),
        "tflop_per_step": round(cost.flops / 1e12, 3),
        "bytes_per_device": {
            "state": cost.memory.state,
            "gradients": cost.memory.gradients,
            "activations": cost.memory.activations_per_example
            * (cost.examples // cost.accumulation),
            "needed": cost.total(),
            "sent_per_step": {kind: round(size) for kind, size in cost.sent.items()},
        },
        "utilisation": utilisation,
        "usable_memory": USABLE,
        "devices": [_on(cost, one, utilisation, config) for one in devices],
    }
    memory = devices[0].memory if len(devices) == 1 else PAPERS_MEMORY
    answer["fits"] = {"memory": memory, "with": ways_to_fit(config, cost, memory)}
    if compiling:
        answer["compiled"] = _compiled(config, data, fsdp)
    return answer


def _on(
    cost: StepCost, one: Accelerator, utilisation: float, config: ml_collections.ConfigDict
) -> dict[str, Any]:
    time = step_time(cost, one, utilisation, config.dtype == "bfloat16")
    return {
        "name": one.name,
        "memory": one.memory,
        "fits": fits(cost, one),
        "products_s": time.products,
        "memory_s": time.memory,
        "links_s": time.links,
        "step_s": time.total,
        "examples_per_s": config.batch_size / time.total,
    }


def _compiled(config: ml_collections.ConfigDict, data: int, fsdp: int) -> dict[str, Any]:
    """XLA's own counts of one device's program, compiled for CPU devices."""
    compiled = compiled_step(config, make_mesh({"data": data, "fsdp": fsdp}))
    memory = compiled.memory_analysis()
    text, counts = compiled.as_text(), compiled.cost_analysis()
    assert memory and text and counts  # a CPU gives all three
    kinds: dict[str, int] = {}
    for one in collectives(text):
        kinds[one.kind] = kinds.get(one.kind, 0) + one.size
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "tflop": round(counts["flops"] / 1e12, 3),
        "collectives": kinds,
    }


def _main(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    config = values["config"].value

    def command() -> int:
        data, fsdp = parse_mesh(values.mesh, config)
        devices = (accelerators.find(values.device),) if values.device else ACCELERATORS
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", data * fsdp)
        compiling = bool(values["compile"].value)
        if compiling:
            print("compiling the step: a minute or more for a large model", file=sys.stderr)
        answer = plan(config, data, fsdp, devices, values.utilisation, compiling)
        print(json.dumps(answer, indent=1) if values.json else table(answer))
        return 0

    sys.exit(run_command(command))


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    logging.set_verbosity(logging.WARNING)
    app.run(_main, flags_parser=parse)
