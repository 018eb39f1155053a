"""Reads weights from anywhere and writes an encoder, or a whole model, as safetensors.

    python -m dtvit_jax.convert torchvision/vit_l_16 --model vit_l16 --out vit_l16.safetensors
    python -m dtvit_jax.convert runs/phantom --all --out model.safetensors

SRC is a file, a name, or the folder of a run. The file written holds the encoder: a ViT under
timm's names, a CNN under torchvision's. With --all it holds the heads too, under this package's
own names; the trainer's config.init_from reads both, and config.init_heads takes the heads.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from data_builder.errors import InputError, run_command
from dtvit_jax import models
from dtvit_jax.models.variables import split_model
from dtvit_jax.runs.trained_run import open_weights
from dtvit_jax.runtime import quiet_libraries
from dtvit_jax.weights import hub, load
from dtvit_jax.weights.save import save

EXAMPLE = (
    "python -m dtvit_jax.convert torchvision/vit_l_16 --model vit_l16 --out vit_l16.safetensors"
)


def convert(src: str, chosen: Mapping[str, Any], out: Path, heads: bool = False) -> str:
    """Reads weights, fits them to a model and writes `out`; returns a line that describes it.

    Args:
        src: a file, a published name or the folder of a run.
        chosen: the model's options that the user gave; the others are as the weights state them,
            or the default.
        out: the safetensors file to write.
        heads: write the heads too.

    Raises:
        InputError: `src` can't be read or does not fit, or `out` can't be written.
    """
    weights = open_weights(hub.locate(src))
    model = {**load.stated_options(weights, chosen.get("name", "")), **chosen}
    if "name" not in model:
        raise InputError(f"{src}: does not state its model: add --model, such as vit_l16")
    options = {name: value for name, value in model.items() if name != "name"}
    abstract = nnx.eval_shape(
        lambda: models.create(model["name"], key=jax.random.key(0), **options)
    )
    _, params, stats = split_model(abstract)
    params, stats = load.load_into(weights, model, params, stats, heads)
    save(out, model, params, stats, heads)
    content = "all" if heads else "the encoder"
    count = models.count_parameters(abstract if heads else abstract.encoder)
    return f"{out}: {content} of {model['name']}, {count:,} parameters"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    quiet_libraries()
    parser = argparse.ArgumentParser(
        prog="python -m dtvit_jax.convert",
        description="Reads published weights, or a run's, and writes them as safetensors.",
        epilog=f"example: {EXAMPLE}",
    )
    parser.add_argument(
        "src",
        metavar="SRC",
        help="a .pth, .safetensors or .npz file, the folder of a run, or a name such as "
        "torchvision/vit_l_16, timm/NAME, hf/OWNER/NAME, google/augreg/FILE.npz",
    )
    parser.add_argument("--model", help="the model to fit, such as vit_l16; a run states its own")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--image_size", type=int, help="pixels a side (default: the run's, or 224)")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="default: the run's, or 3")
    parser.add_argument("--all", action="store_true", help="of a run: the heads too")
    args = parser.parse_args(arguments)
    given = {"name": args.model, "image_size": args.image_size, "channels": args.channels}
    chosen = {name: value for name, value in given.items() if value is not None}

    def command() -> int:
        print(convert(args.src, chosen, args.out, args.all))
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
