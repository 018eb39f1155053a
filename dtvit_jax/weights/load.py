"""Weights from anywhere into a model: published ones in any known layout, or a run of ours."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from data_builder.errors import InputError
from dtvit_jax.weights import layouts
from dtvit_jax.weights.files import Arrays, Weights

Tree = dict[str, Any]

VIT_DEFAULTS: dict[str, str | float] = {"gelu": "exact", "norm_epsilon": 1e-6, "pooling": "cls"}
"""What a ViT computes where its config is silent."""

_FIRST_KERNELS = (
    "patch_embedding.kernel",
    "conv1.kernel",
    "convolutions.0.kernel",
    "convolutions.conv0.kernel",
)
"""The kernels that see the image: of 3 channels in a file, they are folded for a gray model."""

OPTIONS: dict[str, type] = {
    "name": str,
    "image_size": int,
    "channels": int,
    "pooling": str,
    "gelu": str,
    "norm_epsilon": float,
    "head": str,
    "location_classes": int,
}
"""What a file of ours says of its model in its header, and a run in its config."""


def about(weights: Weights, name: str = "") -> dict[str, Any]:
    """What a file or a run tells of its model, as the model's options.

    Published layouts tell `gelu` and `norm_epsilon` of a ViT and nothing of a CNN; files and runs
    of ours tell all that makes the model. Raises InputError where the
    weights can't be those of the model called `name`.
    """
    layout, told = _recognise(weights)
    if name:
        _check_kind(weights, name, layout)
    return told


def model_options(weights: Weights, name: str, heads: bool = False) -> dict[str, str | float]:
    """What the model `name` must be told to compute as the one these weights were trained in.

    That is `gelu` and `norm_epsilon` of a ViT, and with the heads `pooling`; nothing of a CNN.
    """
    return _computing(about(weights, name), heads)


def load_into(
    weights: Weights, model: Mapping[str, Any], params: Tree, stats: Tree, heads: bool = False
) -> tuple[Tree, Tree]:
    """The parameters and statistics of a dual-task model with `weights` in place.

    Args:
        weights: in any known layout.
        model: the model's config: its name, and `gelu`, `norm_epsilon` and `pooling` where not
            the default.
        params: the model's parameters as a pure dict (arrays or shapes); the encoder's are
            replaced by float32 NumPy arrays, the heads' are returned as they are.
        stats: its batch statistics, likewise; empty for a ViT.
        heads: replace both heads too, by those of a run or of `convert --all`.

    The one difference that the file may have is its heads, which are else left out. Position
    embeddings are resampled to the model's grid; a 3-channel kernel is folded for 1 channel.

    Raises:
        InputError: a parameter is missing or left over or of another
            shape (it is named), or the model computes otherwise than the file's.
    """
    path, arrays, _ = weights
    layout, told = _recognise(weights)
    _check_kind(weights, model["name"], layout)
    for option, value in _computing(told, heads).items():
        if model.get(option, VIT_DEFAULTS[option]) != value:
            raise InputError(
                f"{path.name}: these weights were made with {option}={value}: set "
                f"--config.model.{option}={value}"
            )
    if heads and layout is not layouts.OWN:
        raise InputError(
            f"{path.name}: has no heads of this program: take a run, or a file that convert --all "
            "wrote, or leave --config.init_heads at False"
        )
    wanted = _shapes(params["encoder"]) | _shapes(stats.get("encoder", {}))
    filled = fit(arrays, layout, wanted, path.name)
    params = {**params, "encoder": _fill(params["encoder"], filled)}
    if stats:
        stats = {**stats, "encoder": _fill(stats["encoder"], filled)}
    if heads:
        both = {name: tree for name, tree in params.items() if name != "encoder"}
        params |= _fill(both, fit(arrays, layouts.OWN_HEADS, _shapes(both), path.name))
    return params, stats


def fit(
    arrays: Arrays, layout: layouts.Layout, shapes: Mapping[str, tuple[int, ...]], source: str
) -> Arrays:
    """Our parameters of `shapes` from a file's arrays, each used once; `source` is for messages."""
    left = layout.clean(arrays)
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
    if ours == "patch_embedding.kernel" and array.ndim == 4:
        array = array.reshape(-1, array.shape[-1])
    gray = (*shape[:-2], 3 * shape[-2], shape[-1]) if len(shape) > 1 else ()
    if array.shape == gray and ours in _FIRST_KERNELS:
        # channels come last in a patch, so that three rows of a kernel are one pixel's
        array = array.reshape(*shape[:-1], 3, shape[-1]).sum(axis=-2)
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


def _computing(told: dict[str, Any], heads: bool) -> dict[str, str | float]:
    names = ("gelu", "norm_epsilon", "pooling") if heads else ("gelu", "norm_epsilon")
    return {option: told[option] for option in names if option in told}


def _check_kind(weights: Weights, name: str, layout: layouts.Layout) -> None:
    theirs = bool(layout.names) or "encoder.class_token" in weights.arrays
    if theirs != name.startswith("vit"):
        raise InputError(
            f"{weights.path.name}: weights of a {'ViT' if theirs else 'CNN'}, and {name} is "
            "another kind of model: check --config.model.name (--model)"
        )


def _recognise(weights: Weights) -> tuple[layouts.Layout, dict[str, Any]]:
    """The layout of the weights, and the model's options by that layout and by their header."""
    path, arrays, header = weights
    layout = layouts.recognise(arrays)
    if layout is None:
        raise InputError(
            f"{path}: its {len(arrays)} arrays have names of no known layout; there are "
            "torchvision, timm, Hugging Face, Google and this program's own"
        )
    try:
        said = {k: kind(header[k]) for k, kind in OPTIONS.items() if k in header}
    except ValueError as error:
        raise InputError(f"{path}: its header is damaged: {error}") from error
    return layout, {**layout.options, **said}


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(leaf) for name, leaf in flatten(tree).items()}


def flatten(tree: Tree) -> dict[str, Any]:
    """A nested dict as {'blocks.0.norm1.scale': leaf}."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(str(key.key) for key in path): leaf for path, leaf in flat}


def _fill(tree: Tree, filled: Arrays) -> Tree:
    """`tree` with each leaf taken from `filled`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: filled[".".join(str(key.key) for key in path)], tree
    )
