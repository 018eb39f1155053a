"""Puts weights into a model: published ones in any known layout, or those of a run."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from data_builder.errors import InputError
from dtvit_jax.models.variables import Tree, Variables
from dtvit_jax.weights import layouts
from dtvit_jax.weights.files import Arrays, Weights

Options = dict[str, Any]
"""Options of a model, among those of `OPTIONS`."""

VIT_DEFAULTS: dict[str, str | float] = {"gelu": "exact", "norm_epsilon": 1e-6, "pooling": "cls"}
"""A ViT's options where its config does not set them."""

_FIRST_KERNELS = (
    "patch_embedding.kernel",
    "conv1.kernel",
    "convolutions.0.kernel",
    "convolutions.conv0.kernel",
)
"""The kernels applied to the image: their 3 channels are summed for a gray model."""

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
"""The model's options in the header of this program's files, and in a run's config."""


def stated_options(weights: Weights, name: str = "") -> Options:
    """The model's options that the weights' layout and header state.

    Published layouts state `gelu` and `norm_epsilon` of a ViT and nothing of a CNN; files and runs
    of this program state all of OPTIONS.

    Raises:
        InputError: the layout is unknown, the header is damaged, or the model `name` (if given) is
            of another kind.
    """
    layout, options = _recognise(weights)
    if name:
        _check_kind(weights, name, layout)
    return options


def model_options(weights: Weights, name: str, heads: bool = False) -> dict[str, str | float]:
    """The options that the model `name` needs to compute what these weights were trained for.

    That is `gelu` and `norm_epsilon` of a ViT, with the heads `pooling` too; nothing of a CNN.
    """
    return _needed(stated_options(weights, name), heads)


def load_into(
    weights: Weights, model: Mapping[str, Any], params: Tree, stats: Tree, heads: bool = False
) -> Variables:
    """The parameters and statistics of a dual-task model, with `weights` in place of its own.

    Position embeddings are resampled to the model's grid; a 3-channel kernel is summed for 1
    channel. Apart from the heads, weights and model must have the same parameters.

    Args:
        weights: in any known layout.
        model: the model's config: its name, and `gelu`, `norm_epsilon` and `pooling` where not
            the default.
        params: the model's parameters (arrays or shapes); the encoder's are replaced by float32
            NumPy arrays, the heads' are returned as they are.
        stats: its batch statistics, likewise; empty for a ViT.
        heads: replace both heads too, by those of a run or of a file that `convert --all` wrote.

    Raises:
        InputError: a parameter is missing, left over or of another shape (it is named), or the
            weights were trained with other options.
    """
    path, arrays, _ = weights
    layout, stated = _recognise(weights)
    _check_kind(weights, model["name"], layout)
    for option, value in _needed(stated, heads).items():
        if model.get(option, VIT_DEFAULTS[option]) != value:
            raise InputError(
                f"{path.name}: these weights were made with {option}={value}: set "
                f"--config.model.{option}={value}"
            )
    if heads and layout is not layouts.OWN:
        raise InputError(
            f"{path.name}: has no heads of this program: give a run, or a file that convert --all "
            "wrote, or leave --config.init_heads at False"
        )
    shapes = _shapes(params["encoder"]) | _shapes(stats.get("encoder", {}))
    encoder = fit(arrays, layout, shapes, path.name)
    params = {**params, "encoder": _fill(params["encoder"], encoder)}
    if stats:
        stats = {**stats, "encoder": _fill(stats["encoder"], encoder)}
    if heads:
        both = {name: tree for name, tree in params.items() if name != "encoder"}
        params |= _fill(both, fit(arrays, layouts.OWN_HEADS, _shapes(both), path.name))
    return params, stats


def fit(
    arrays: Arrays, layout: layouts.Layout, shapes: Mapping[str, tuple[int, ...]], source: str
) -> Arrays:
    """The model's parameters from a file's arrays, each used once; float32.

    Args:
        arrays: by the file's names.
        layout: of the file.
        shapes: by the model's names (`blocks.0.norm1.scale`).
        source: the file's name, for messages.
    """
    remaining = layout.clean(arrays)
    fitted = {}
    for ours, shape in shapes.items():
        names = layout.sources(ours)
        if missing := [name for name in names if name not in remaining]:
            raise InputError(
                f"{source}: has no {missing[0]!r}, which the model's {ours} needs; is it the "
                "file of another model?"
            )
        array = layout.to_ours(ours, [remaining.pop(name) for name in names])
        fitted[ours] = _reshaped(array.astype(np.float32, copy=False), ours, shape, source)
    if remaining:
        raise InputError(
            f"{source}: holds {min(remaining)!r}, for which the model has no place "
            f"({len(remaining)} such in all); is it the file of another model?"
        )
    return fitted


def _reshaped(array: np.ndarray, ours: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    """`array` in `shape`: positions resampled, patches flattened, channels summed."""
    original = array.shape
    if ours == "position_embedding" and array.shape[1:2] != shape[1:2]:
        array = resample_positions(array, shape[1])
    if ours == "patch_embedding.kernel" and array.ndim == 4:
        array = array.reshape(-1, array.shape[-1])
    of_colour = (*shape[:-2], 3 * shape[-2], shape[-1]) if len(shape) > 1 else ()
    if array.shape == of_colour and ours in _FIRST_KERNELS:
        # channels are the fastest axis of a patch: three rows of the kernel belong to one pixel
        array = array.reshape(*shape[:-1], 3, shape[-1]).sum(axis=-2)
    if array.shape != shape:
        raise InputError(
            f"{source}: {ours} is {original} there and {shape} in the model; is it the file of "
            "another model?"
        )
    return array


def resample_positions(
    embedding: Float[np.ndarray, "1 tokens width"], tokens: int
) -> Float[np.ndarray, "1 new_tokens width"]:
    """Position embeddings for another image size: bicubic with antialiasing, as timm does.

    The first token is the class token's and is kept; the others form a square grid.

    Raises:
        InputError: the old or the new grid is not square.
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


def _needed(stated: Options, heads: bool) -> dict[str, str | float]:
    names = ("gelu", "norm_epsilon", "pooling") if heads else ("gelu", "norm_epsilon")
    return {option: stated[option] for option in names if option in stated}


def _check_kind(weights: Weights, name: str, layout: layouts.Layout) -> None:
    is_vit = bool(layout.names) or "encoder.class_token" in weights.arrays
    if is_vit != name.startswith("vit"):
        raise InputError(
            f"{weights.path.name}: weights of a {'ViT' if is_vit else 'CNN'}, and {name} is "
            "another kind of model: check --config.model.name (--model)"
        )


def _recognise(weights: Weights) -> tuple[layouts.Layout, Options]:
    """The layout of the weights, and the options that it and the header state."""
    path, arrays, header = weights
    layout = layouts.recognise(arrays)
    if layout is None:
        raise InputError(
            f"{path}: its {len(arrays)} arrays have names of no known layout; there are "
            "torchvision, timm, Hugging Face, Google and this program's own"
        )
    try:
        of_header = {k: kind(header[k]) for k, kind in OPTIONS.items() if k in header}
    except ValueError as error:
        raise InputError(f"{path}: its header is damaged: {error}") from error
    return layout, {**layout.options, **of_header}


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(leaf) for name, leaf in flatten(tree).items()}


def flatten(tree: Tree) -> dict[str, Any]:
    """A nested dict as {'blocks.0.norm1.scale': leaf}."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in flat}


def _fill(tree: Tree, arrays: Arrays) -> Tree:
    """`tree` with each leaf replaced by the array of its name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], tree)


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(key.key) for key in path)
