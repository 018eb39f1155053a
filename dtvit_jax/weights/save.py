"""Writes a model as safetensors under the names of a published layout, or its own."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dtvit_jax.weights import files, layouts, load


def save(
    path: Path,
    model: Mapping[str, Any],
    params: load.Tree,
    stats: load.Tree,
    heads: bool = False,
    header: Mapping[str, str] | None = None,
) -> None:
    """Writes a dual-task model's encoder, or with `heads` all of it, as safetensors.

    Args:
        path: the file to write.
        model: its config: `name`, and the options that are not the default.
        params: parameters as a pure dict of arrays; `stats` likewise.
        stats: batch statistics, empty for a ViT.
        heads: write both heads too; names and shapes are then this package's own.
        header: what else the file's header says.

    What the model computes goes into the header, so that reading it back gives the same.

    Raises:
        InputError: the file can't be written.
    """
    encoder = load.flatten(params["encoder"]) | load.flatten(stats.get("encoder", {}))
    vit = "class_token" in encoder
    layout = layouts.OWN if heads else layouts.TIMM if vit else layouts.RESNET
    patch = int(re.sub(r".*\D", "", model["name"])) if vit else 0
    arrays = {
        layout.sources(name)[0]: layout.from_ours(name, np.asarray(array, np.float32), patch)
        for name, array in encoder.items()
    }
    if heads:
        both = {name: tree for name, tree in params.items() if name != "encoder"}
        arrays |= {k: np.asarray(v, np.float32) for k, v in load.flatten(both).items()}
    known = {k: model[k] for k in load.OPTIONS if k in model}
    known = {**(load.VIT_DEFAULTS if vit else {}), **known}
    told = {"format": "pt", **{k: str(v) for k, v in known.items()}, **(header or {})}
    files.write(path, arrays, told)
