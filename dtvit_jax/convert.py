"""ImageNet weights in, a trained encoder out.

    python -m dtvit_jax.convert vit_l_16-852ce7e3.pth --model vit_l16 --out vit_l16.safetensors

The file written holds the encoder: a ViT under timm's names, a CNN under torchvision's.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from data_builder.errors import InputError
from dtvit_jax import layouts, models, weight_files, weights
from dtvit_jax.weight_files import Arrays

Tree = dict[str, Any]


def model_options(path: Path) -> dict[str, str | float]:
    """What a model must be told to compute as the publisher of `path` did: gelu, norm_epsilon.

    Empty for a CNN. `load_into` refuses a model that was told otherwise.
    """
    return _open(path)[2]


def load_into(path: Path, model: Mapping[str, Any], params: Tree, stats: Tree) -> tuple[Tree, Tree]:
    """The parameters and statistics of a dual-task model with the encoder of the file in place.

    Args:
        path: a file of weights in any known layout.
        model: the model's config: its name, and `gelu` and `norm_epsilon` where not the default.
        params: the model's parameters as a pure dict (arrays or shapes); the encoder's are
            replaced by float32 NumPy arrays, the heads' are returned as they are.
        stats: its batch statistics, likewise; empty for a ViT.

    The one difference that the file may have is its classifier, which is left out. Position
    embeddings are resampled to the model's grid; a 3-channel kernel is folded for 1 channel.

    Raises:
        InputError: the file can't be read, a parameter is missing or left over or of another
            shape (it is named), or the model's GELU or epsilon is not the file's.
    """
    arrays, layout, options = _open(path)
    defaults = {"gelu": "exact", "norm_epsilon": 1e-6}
    for option, value in options.items():
        if model.get(option, defaults[option]) != value:
            raise InputError(
                f"{path.name}: these weights were made with {option}={value}: set "
                f"--config.model.{option}={value}"
            )
    shapes = _flatten(params["encoder"]) | _flatten(stats.get("encoder", {}))
    filled = fit(arrays, layout, {name: np.shape(x) for name, x in shapes.items()}, path.name)
    return (
        {**params, "encoder": _fill(params["encoder"], filled)},
        {**stats, "encoder": _fill(stats["encoder"], filled)} if "encoder" in stats else stats,
    )


def fit(
    arrays: Arrays, layout: layouts.Layout, shapes: Mapping[str, tuple[int, ...]], source: str
) -> Arrays:
    """Our parameters of `shapes` from a file's arrays, each used once; `source` is for messages."""
    left = layout.clean(arrays)
    if bool(layout.names) != ("class_token" in shapes):
        raise InputError(f"{source}: weights of another kind of model; check --config.model.name")
    filled = {}
    for ours, shape in shapes.items():
        names = layout.sources(ours)
        if missing := [name for name in names if name not in left]:
            raise InputError(
                f"{source}: has no {missing[0]!r}, which the model's {ours} needs; is it the "
                "file of another model?"
            )
        array = layout.to_ours(ours, [left.pop(name) for name in names])
        filled[ours] = _shaped(array.astype(np.float32, copy=False), ours, shape, source)
    if left:
        raise InputError(
            f"{source}: holds {min(left)!r}, for which the model has no place ({len(left)} such "
            "in all); is it the file of another model?"
        )
    return filled


def _shaped(array: np.ndarray, ours: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    """`array` in `shape`: channels folded, patches flattened, positions resampled."""
    was = array.shape
    if ours == "position_embedding" and array.shape[1:2] != shape[1:2]:
        array = resample_positions(array, shape[1])
    if array.ndim == 4 and array.shape[2] == 3:
        rows, columns, _, width = array.shape
        if shape in ((rows * columns, width), (rows, columns, 1, width)):
            array = array.sum(axis=2, keepdims=True)
    if ours == "patch_embedding.kernel":
        array = array.reshape(-1, array.shape[-1])
    if array.shape != shape:
        raise InputError(
            f"{source}: {ours} is {was} there and {shape} in the model; is it the file of "
            "another model?"
        )
    return array


def resample_positions(
    embedding: Float[np.ndarray, "1 tokens width"], tokens: int
) -> Float[np.ndarray, "1 new_tokens width"]:
    """Position embeddings for another image size: bicubic with antialiasing, as timm.

    The first token is the class's and is kept; the others form a square grid.

    Raises:
        InputError: one of the grids is not a square.
    """
    old, new = round((embedding.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    if old * old + 1 != embedding.shape[1] or new * new + 1 != tokens:
        raise InputError(
            f"position embeddings of {embedding.shape[1]} tokens can't become {tokens}: "
            "both grids must be squares with one class token"
        )
    grid = embedding[:, 1:].reshape(1, old, old, -1)
    grid = jax.image.resize(grid, (1, new, new, grid.shape[-1]), "cubic", antialias=True)
    return np.concatenate([embedding[:, :1], np.asarray(grid).reshape(1, new * new, -1)], axis=1)


def save_encoder(path: Path, model: Mapping[str, Any], params: Tree, stats: Tree) -> None:
    """Writes a dual-task model's encoder as safetensors, under timm's or torchvision's names.

    GELU and epsilon go into the header, so that reading it back gives the same model.
    """
    own = _flatten(params["encoder"]) | _flatten(stats.get("encoder", {}))
    vit = "class_token" in own
    layout = layouts.TIMM if vit else layouts.RESNET
    patch = int(re.sub(r".*\D", "", model["name"])) if vit else 0
    arrays = {
        layout.sources(name)[0]: layout.from_ours(name, np.asarray(array, np.float32), patch)
        for name, array in own.items()
    }
    options = {k: str(model.get(k, v)) for k, v in layout.options.items()}
    weight_files.write(path, arrays, {"format": "pt", "model": model["name"], **options})


def _open(path: Path) -> tuple[Arrays, layouts.Layout, dict[str, str | float]]:
    arrays, metadata = weight_files.read(path)
    layout = layouts.recognise(arrays)
    if layout is None:
        raise InputError(
            f"{path}: its {len(arrays)} arrays have names of no known layout; there are "
            "torchvision, timm, Hugging Face and Google"
        )
    own = {k: type(v)(metadata[k]) for k, v in layout.options.items() if k in metadata}
    return arrays, layout, {**layout.options, **own}


def _flatten(tree: Tree) -> dict[str, Any]:
    """A nested dict as {'blocks.0.norm1.scale': leaf}."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(str(key.key) for key in path): leaf for path, leaf in flat}


def _fill(tree: Tree, filled: Arrays) -> Tree:
    """`tree` with each leaf taken from `filled`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: filled[".".join(str(key.key) for key in path)], tree
    )


def convert(src: str, name: str, out: Path, options: Mapping[str, Any]) -> str:
    """Reads SRC (a file or a name), fits it to the model and writes `out`; says what it did."""
    path = weights.locate(src)
    model = {**options, **model_options(path)}
    abstract = nnx.eval_shape(lambda: models.create(name, key=jax.random.key(0), **model))
    params = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
    stats = nnx.to_pure_dict(nnx.state(abstract, nnx.BatchStat))
    model["name"] = name
    params, stats = load_into(path, model, params, stats)
    save_encoder(out, model, params, stats)
    return f"{out}: the encoder of {name}, {models.count_parameters(abstract.encoder):,} parameters"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dtvit_jax.convert",
        description="Reads published weights and writes the encoder as safetensors.",
        epilog="example: python -m dtvit_jax.convert torchvision/vit_l_16 --model vit_l16 "
        "--out vit_l16.safetensors",
    )
    parser.add_argument("src", metavar="SRC", help="a .pth, .safetensors or .npz file, or a name")
    parser.add_argument("--model", required=True, help="the model to fit, such as vit_l16")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--image_size", type=int, default=224, help="pixels a side (default 224)")
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3), help="default 3")
    given = parser.parse_args(arguments)
    try:
        options = {"image_size": given.image_size, "channels": given.channels}
        print(convert(given.src, given.model, given.out, options))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
