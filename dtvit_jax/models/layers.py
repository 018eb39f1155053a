"""Layers that several models share; convolution and pooling follow torch's conventions.

`kernels` selects the form of an operation (kernels.py); it changes speed, not numbers.
"""

import math
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from data_builder.errors import InputError
from dtvit_jax.models.kernels import PLAIN, Kernels


class LayerOptions(TypedDict):
    """What a model passes on to each of its layers.

    `kernels` is the form of the operations, `dtype` the type of the computation; parameters are
    float32, and `rngs` draws them.
    """

    kernels: Kernels
    dtype: DTypeLike
    rngs: nnx.Rngs


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Sets each value to 0 with probability `rate`, else divides it by 1 - rate.

    Without a key (inference) `x` is returned as it is.
    """
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def drop_path(
    x: Float[Array, "batch *rest"],
    rate: Float[Array, ""] | float,
    key: Key[Array, ""] | None,
    example: Int[Array, "batch tokens"] | None = None,
) -> Float[Array, "batch *rest"]:
    """Stochastic depth (arXiv 1603.09382): dropout of an example's whole residual branch.

    Args:
        x: the branch's output; by default each entry of the first axis is one example.
        rate: probability that a branch is dropped.
        key: None in inference; `x` is then returned as it is.
        example: the example that each token of `x` belongs to, where a row mixes several.
    """
    if key is None or (isinstance(rate, float) and rate == 0):
        return x
    if example is None:
        kept = jax.random.bernoulli(key, 1 - rate, (len(x),) + (1,) * (x.ndim - 1))
    else:
        kept = jax.random.bernoulli(key, 1 - rate, (example.size,))[example][..., None]
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), 0)


def check_rate(name: str, rate: float) -> None:
    """Raises InputError where a model's option `name` is not a dropout rate."""
    if not 0 <= rate < 1:
        raise InputError(f"model option {name}={rate}: a rate is at least 0 and below 1")


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Phi(x), by erf as in torch; jax.nn.gelu's erfc takes a CPU twice as long."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


class Linear(nnx.Linear):
    """x W + b over the last axis, computed in `dtype`; `kernel` is [features, out]."""

    def __init__(self, features: int, out: int, *, kernels: Kernels, **options: Any) -> None:
        super().__init__(features, out, **options)
        self.kernels = kernels

    def __call__(self, x: Float[Array, "... features"]) -> Float[Array, "... out"]:  # type: ignore[override]
        assert self.bias is not None
        return self.kernels.linear(x.astype(self.dtype), self.kernel[...], self.bias[...])


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the last axis (arXiv 2405.06814, Eq. 2), computed in float32."""

    def __init__(self, features: int, *, kernels: Kernels, **options: Any) -> None:
        super().__init__(features, **options)
        self.kernels = kernels

    def __call__(self, x: Float[Array, "... features"]) -> Float[Array, "... features"]:  # type: ignore[override]
        assert self.scale is not None and self.bias is not None
        scale, bias = jnp.asarray(self.scale[...]), jnp.asarray(self.bias[...])
        return self.kernels.layer_norm(x.astype(self.dtype), scale, bias, self.epsilon)


class Conv(nnx.Conv):
    """A square convolution with `padding` zeros on each side; He initialisation.

    `kernel` is [side, side, channels, out].
    """

    def __init__(
        self,
        channels: int,
        out: int,
        side: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        kernels: Kernels,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        init = nnx.initializers.he_normal()
        super().__init__(
            channels, out, (side, side), use_bias=bias, kernel_init=init, dtype=dtype, rngs=rngs
        )
        self.stride, self.pads = stride, ((padding, padding), (padding, padding))
        self.kernels = kernels

    def __call__(  # type: ignore[override]
        self, x: Float[Array, "batch rows columns channels"]
    ) -> Float[Array, "batch new_rows new_columns out"]:
        kernel = jnp.asarray(self.kernel[...], self.dtype)  # NumPy's, in an exported function
        strides = (self.stride, self.stride)
        y = self.kernels.convolution(x.astype(self.dtype), kernel, strides, self.pads)
        if self.bias is None:
            return y
        return y + jnp.asarray(self.bias[...], self.dtype).reshape(1, 1, 1, -1)


class BatchNorm(nnx.Module):
    """Batch normalisation with torch's conventions: the running variance is the unbiased one.

    Statistics are float32. Training updates the running ones in place by `momentum`.
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
    kernels: Kernels = PLAIN,
) -> Float[Array, "batch new_rows new_columns channels"]:
    """The largest value in each window; with `ceil` a last window may reach beyond the image."""

    def pad(n: int) -> tuple[int, int]:
        steps = (n + 2 * padding - side) / stride
        last = math.ceil(steps) if ceil else math.floor(steps)
        if last * stride >= n + padding:  # torch: the last window begins inside the image
            last -= 1
        return padding, max(0, last * stride + side - n - padding)

    return kernels.window_max(x, side, stride, (pad(x.shape[1]), pad(x.shape[2])))


def average_pool(
    x: Float[Array, "batch rows columns channels"], side: int
) -> Float[Array, "batch new_rows new_columns channels"]:
    """The mean of each side x side cell; rows and columns left over at the end are dropped."""
    window = (1, side, side, 1)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / side**2


def adaptive_average_pool(
    x: Float[Array, "batch rows columns channels"], side: int
) -> Float[Array, "batch side side channels"]:
    """Means of side x side cells: of n pixels, cell i has floor(i n/side) to ceil((i+1) n/side)."""

    def cells(n: int) -> np.ndarray:
        weights = np.zeros((side, n), np.float32)
        for i in range(side):
            begin, end = i * n // side, -(-(i + 1) * n // side)
            weights[i, begin:end] = 1 / (end - begin)
        return weights.astype(x.dtype)

    return jnp.einsum("ir,brcf,jc->bijf", cells(x.shape[1]), x, cells(x.shape[2]))


def flatten_as_torch(x: Float[Array, "batch rows columns channels"]) -> Float[Array, "batch all"]:
    """Flattens in the order channel, row, column, which torch's linear layers expect."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
