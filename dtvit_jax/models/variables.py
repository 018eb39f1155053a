"""A model's values apart from its structure: nested dicts, as checkpoints and files hold them."""

from collections.abc import Callable
from typing import Any

from flax import nnx

Tree = dict[Any, Any]
"""Parameters or batch statistics: nested dicts whose leaves are arrays, or their shapes."""

Variables = tuple[Tree, Tree]
"""Parameters and batch statistics of a model; the statistics of a ViT are empty."""


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """A model's graph, its parameters and its batch statistics."""
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    return graph, params, stats


def merge_model(graph: nnx.GraphDef, params: Tree, stats: Tree) -> Any:
    """The model with these values; inside a plain `jax.jit` this costs next to nothing."""
    return nnx.merge(graph, nnx.State(params), nnx.State(stats))


def select(tree: Tree, wanted: Callable[[tuple], bool], path: tuple = ()) -> Tree:
    """The leaves of `tree` for whose path of names `wanted` is true, without empty branches."""
    kept: Tree = {}
    for name, part in tree.items():
        here = (*path, name)
        if not isinstance(part, dict):
            if wanted(here):
                kept[name] = part
        elif below := select(part, wanted, here):
            kept[name] = below
    return kept


def overlay(tree: Tree, over: Tree) -> Tree:
    """`tree` with its leaves replaced by their namesakes in `over`, which may have fewer."""
    result = dict(tree)
    for name, replacement in over.items():
        branch = isinstance(replacement, dict)
        result[name] = overlay(tree[name], replacement) if branch else replacement
    return result
