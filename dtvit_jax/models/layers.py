"""Layers that more than one model is made of; convolutions and pooling as torch computes them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from data_builder.errors import InputError
from dtvit_jax.models.convolution import conv_general_dilated


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zeroes each value with probability `rate` and scales the rest; without a key, nothing."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def drop_path(
    x: Float[Array, "batch *rest"],
    rate: Float[Array, ""] | float,
    key: Key[Array, ""] | None,
    example: Int[Array, "batch tokens"] | None = None,
) -> Float[Array, "batch *rest"]:
    """Stochastic depth (arXiv 1603.09382): dropout of an example's whole branch.

    `example` tells each token's, below the number of tokens, where not each of `x` is one.
    """
    if key is None or (isinstance(rate, float) and rate == 0):
        return x
    if example is None:
        kept = jax.random.bernoulli(key, 1 - rate, (len(x),) + (1,) * (x.ndim - 1))
    else:
        kept = jax.random.bernoulli(key, 1 - rate, (example.size,))[example][..., None]
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), 0)


def check_rate(name: str, rate: float) -> None:
    """Raises InputError where a model's option is no rate."""
    if not 0 <= rate < 1:
        raise InputError(f"model option {name}={rate}: a rate is at least 0 and below 1")


def check_side(model: str, image_size: int, least: int) -> None:
    """Raises InputError where a CNN's images are so small that nothing of them would be left."""
    if image_size < least:
        raise InputError(f"image size {image_size}: {model} needs at least {least} pixels a side")


def conv(
    channels: int,
    out: int,
    side: int,
    *,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    dtype: Any,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square convolution, padded with `padding` zeros on each side; He initialisation."""
    return nnx.Conv(
        channels,
        out,
        (side, side),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        use_bias=bias,
        kernel_init=nnx.initializers.he_normal(),
        conv_general_dilated=conv_general_dilated,
        dtype=dtype,
        rngs=rngs,
    )


class BatchNorm(nnx.Module):
    """Batch normalisation as torch's: the running variance is the unbiased one.

    Statistics are in float32. Training updates the running ones in place by `momentum`.
    """

    momentum = 0.1
    epsilon = 1e-5

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(
        self, x: Float[Array, "batch rows columns channels"], training: bool
    ) -> Float[Array, "batch rows columns channels"]:
        mean, variance = self.mean[...], self.var[...]
        y = x.astype(jnp.float32)
        if training:
            mean, variance = jnp.mean(y, (0, 1, 2)), jnp.var(y, (0, 1, 2))
            n = x.size // x.shape[-1]
            unbiased = variance * (n / max(n - 1, 1))
            self.mean[...] += self.momentum * (jax.lax.stop_gradient(mean) - self.mean[...])
            self.var[...] += self.momentum * (jax.lax.stop_gradient(unbiased) - self.var[...])
        y = (y - mean) * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


def max_pool(
    x: Float[Array, "batch rows columns channels"],
    side: int,
    stride: int,
    padding: int = 0,
    ceil: bool = False,
) -> Float[Array, "batch new_rows new_columns channels"]:
    """The largest value in each window; with `ceil` a last window may stand out of the image."""

    def pad(n: int) -> tuple[int, int]:
        steps = (n + 2 * padding - side) / stride
        last = math.ceil(steps) if ceil else math.floor(steps)
        if last * stride >= n + padding:  # the last window must begin inside
            last -= 1
        return padding, max(0, last * stride + side - n - padding)

    pads = (pad(x.shape[1]), pad(x.shape[2]))
    return nnx.max_pool(x, (side, side), strides=(stride, stride), padding=pads)


def adaptive_average_pool(
    x: Float[Array, "batch rows columns channels"], side: int
) -> Float[Array, "batch side side channels"]:
    """Means of side x side cells: of n pixels, cell i has floor(i n/side) to ceil((i+1)n/side)."""

    def cells(n: int) -> np.ndarray:
        weights = np.zeros((side, n), np.float32)
        for i in range(side):
            begin, end = i * n // side, -(-(i + 1) * n // side)
            weights[i, begin:end] = 1 / (end - begin)
        return weights.astype(x.dtype)

    return jnp.einsum("ir,brcf,jc->bijf", cells(x.shape[1]), x, cells(x.shape[2]))


def flatten_as_torch(x: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch all"]:
    """Flattens in the order channel, row, column, in which torch's linear layers expect it."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
