"""Estimates what a run needs, without a device: memory, operations, traffic, time of a step.

    python -m dtvit_jax.plan --config configs/vit_l.py --device "RTX 3090"
    python -m dtvit_jax.plan --config configs/vit_h.py --mesh data=2,fsdp=4 --device H100

Any field of the config can be set: --config.batch_size=64. The step is also compiled, for this
machine's CPU, and XLA's own counts are printed with the estimates; that takes a minute or more for
a large model, and --nocompile leaves it out. Without --device every known accelerator is listed.
"""

import json
import re
import sys

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from data_builder.errors import InputError, run_command
from dtvit_jax.command_line import parse
from dtvit_jax.planning.accelerators import ACCELERATORS, find
from dtvit_jax.planning.plan import make_plan
from dtvit_jax.planning.table import table


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
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
    """Parses --mesh into (data, fsdp); an empty one is config.mesh, with one device for -1.

    Raises InputError for any other form.
    """
    if not text:
        return max(config.mesh.data, 1), config.mesh.fsdp
    shape = {"data": 1, "fsdp": 1}
    for axis in text.split(","):
        match = re.fullmatch(r"\s*(data|fsdp)=([1-9]\d{0,5})\s*", axis)
        if not match:
            raise InputError(f"--mesh={text}: give data=N, fsdp=M, or both with a comma between")
        shape[match[1]] = int(match[2])
    return shape["data"], shape["fsdp"]


def _main(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    config = values["config"].value

    def command() -> int:
        data, fsdp = parse_mesh(values.mesh, config)
        accelerators = (find(values.device),) if values.device else ACCELERATORS
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", data * fsdp)
        compiling = bool(values["compile"].value)
        if compiling:
            print("compiling the step: a minute or more for a large model", file=sys.stderr)
        plan = make_plan(config, data, fsdp, accelerators, values.utilisation, compiling)
        print(json.dumps(plan.as_json(), indent=1) if values.json else table(plan))
        return 0

    sys.exit(run_command(command))


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    logging.set_verbosity(logging.WARNING)
    app.run(_main, flags_parser=parse)
