"""Layers that more than one model is made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zeroes each value with probability `rate` and scales the rest; without a key, nothing."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def drop_path(
    x: Float[Array, "batch *rest"],
    rate: Float[Array, ""] | float,
    key: Key[Array, ""] | None,
) -> Float[Array, "batch *rest"]:
    """Stochastic depth (arXiv 1603.09382): dropout of an example's whole branch."""
    if key is None or (isinstance(rate, float) and rate == 0):
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (len(x),) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), 0)
