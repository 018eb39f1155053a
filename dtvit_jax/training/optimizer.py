"""AdamW as the config asks for it, and the parameters that it trains.

Parameters are nested dicts (`models.variables`): {'encoder': {'blocks': {0: ...}, ...}, ...}.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from data_builder.errors import InputError
from dtvit_jax.models.variables import Tree, select

WHOLE_ENCODER = -1
"""config.frozen_blocks for all of the encoder."""


def layer(path: tuple, blocks: int) -> int:
    """A parameter's depth: 0 before a ViT's first block, i + 1 in block i, blocks + 1 after them.

    The heads and the last norm come after the blocks (as in BEiT, arXiv 2106.08254, and MAE).
    """
    if path[0] != "encoder" or path[1] == "norm":
        return blocks + 1
    return path[2] + 1 if path[1] == "blocks" else 0


def learning_rate_scales(params: Tree, decay: float) -> Tree:
    """`decay` to the power of each parameter's distance from the last layer.

    `params` may lack frozen blocks; the deepest must be there.
    """
    blocks = 1 + max(params.get("encoder", {}).get("blocks", {-1: None}))
    return jax.tree_util.tree_map_with_path(
        lambda path, _: decay ** (blocks + 1 - layer(_names(path), blocks)), params
    )


def trainable(params: Tree, frozen_blocks: int) -> Tree:
    """The parameters that training changes: all but the first blocks and what comes before them.

    `params` may be shapes. Raises InputError where the encoder has fewer blocks.
    """
    if frozen_blocks == 0:
        return params
    if frozen_blocks == WHOLE_ENCODER:
        return select(params, lambda path: path[0] != "encoder")
    blocks = len(params["encoder"].get("blocks", {}))
    if not 0 < frozen_blocks <= blocks:
        raise InputError(
            f"config.frozen_blocks={frozen_blocks}: "
            + (f"it is 0 to {blocks} for this model" if blocks else "a CNN has no numbered blocks")
            + f", or {WHOLE_ENCODER} for the whole encoder"
        )
    return select(params, lambda path: layer(path, blocks) > frozen_blocks)


def _names(path: tuple) -> tuple:
    return tuple(key.key for key in path)


def learning_rate(config: ml_collections.ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate at each of `steps`: linear warm-up, then constant (the paper) or cosine.

    The cosine ends at 0. Raises InputError for a bad config.warmup or config.schedule.
    """
    if not 0 <= config.warmup < 1:
        raise InputError(
            f"config.warmup={config.warmup}: give a share of all steps, from 0 to below 1"
        )
    warmup = int(config.warmup * steps)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, max(steps - warmup, 1))
    elif config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        raise InputError(f"config.schedule={config.schedule!r}: it is 'constant' or 'cosine'")
    ramp = optax.linear_schedule(
        config.learning_rate / max(warmup, 1), config.learning_rate, warmup
    )
    return optax.join_schedules([ramp, after], [warmup])


def decayed(params: Any) -> Any:
    """True for each kernel: biases, norms, class token and position embedding do not decay."""

    def is_kernel(path: tuple, leaf: Any) -> bool:
        del leaf
        return "kernel" in jax.tree_util.keystr(path)

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def make_optimizer(config: ml_collections.ConfigDict, steps: int) -> optax.GradientTransformation:
    """Clipping (if any), then AdamW with decoupled weight decay (arXiv 1711.05101).

    With config.layer_decay the learning rate, and with it the weight decay, falls by that factor
    from layer to layer towards the input. Raises InputError for a negative rate, decay or norm.
    """
    for name in ("learning_rate", "weight_decay", "clip_norm"):
        if config[name] < 0:
            raise InputError(f"config.{name}={config[name]}: it can't be negative")
    adamw = optax.adamw(
        learning_rate(config, steps), weight_decay=config.weight_decay, mask=decayed
    )
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(adamw)
    if config.layer_decay != 1:
        parts.append(_scale_by_layer(config.layer_decay))
    return optax.chain(*parts) if len(parts) > 1 else adamw


def _scale_by_layer(decay: float) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(jnp.multiply, updates, learning_rate_scales(updates, decay))

    return optax.stateless(scale)
