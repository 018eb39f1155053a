"""AdamW as the config asks for it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from data_builder.errors import InputError
from dtvit_jax.parameter_groups import learning_rate_scales


def learning_rate(config: Any, steps: int) -> optax.Schedule:
    """The rate at each of `steps`: linear warm-up, then constant (the paper) or cosine to 0."""
    if not 0 <= config.warmup < 1:
        raise InputError(f"config.warmup={config.warmup}: give a part of all steps, 0 up to 1")
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
    """True for kernels: no bias, norm, class token or position embedding is decayed."""

    def is_kernel(path: tuple, leaf: Any) -> bool:
        del leaf
        return "kernel" in jax.tree_util.keystr(path)

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def make_optimizer(config: Any, steps: int) -> optax.GradientTransformation:
    """Clipping (if any), then AdamW with decoupled weight decay (arXiv 1711.05101).

    With config.layer_decay the rate, and with it the decay of weights, falls by that factor from
    layer to layer towards the input.
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
