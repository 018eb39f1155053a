"""Writes a model as safetensors: an encoder under published names, or all under its own."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dtvit_jax.models.variables import Tree
from dtvit_jax.weights import files, layouts, load


def save(
    path: Path,
    model: Mapping[str, Any],
    params: Tree,
    stats: Tree,
    heads: bool = False,
    header: Mapping[str, str] | None = None,
) -> None:
    """Writes a dual-task model's encoder, or with `heads` all of the model, as safetensors.

    The header states the model's options, so that reading the file back gives the same model.

    Args:
        path: the file to write.
        model: the model's config: `name`, and the options that are not the default.
        params: parameters, nested dicts of arrays.
        stats: batch statistics, likewise; empty for a ViT.
        heads: write both heads too. Names and shapes are then this package's own; else a ViT has
            timm's and a CNN torchvision's.
        header: further entries of the header.

    Raises:
        InputError: the file can't be written.
    """
    encoder = load.flatten(params["encoder"]) | load.flatten(stats.get("encoder", {}))
    is_vit = "class_token" in encoder
    layout = layouts.OWN if heads else layouts.TIMM if is_vit else layouts.RESNET
    patch = int(re.sub(r".*\D", "", model["name"])) if is_vit else 0
    arrays = {
        layout.sources(name)[0]: layout.from_ours(name, np.asarray(array, np.float32), patch)
        for name, array in encoder.items()
    }
    if heads:
        both = {name: tree for name, tree in params.items() if name != "encoder"}
        arrays |= {k: np.asarray(v, np.float32) for k, v in load.flatten(both).items()}
    options = {k: model[k] for k in load.OPTIONS if k in model}
    options = {**(load.VIT_DEFAULTS if is_vit else {}), **options}
    entries = {"format": "pt", **{k: str(v) for k, v in options.items()}, **(header or {})}
    files.write(path, arrays, entries)
