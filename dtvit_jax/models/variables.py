"""A model's numbers apart from its structure: nested dicts, as checkpoints and files hold them."""

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
    """The model with these numbers; inside a plain `jax.jit` this costs next to nothing."""
    return nnx.merge(graph, nnx.State(params), nnx.State(stats))
