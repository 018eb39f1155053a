"""Operations of which a model has more than one form: their signatures, and the plain form.

All forms compute the same formula, and in float32 agree up to rounding. The plain form consists of
JAX's own operations, differentiated by JAX, and each has a counterpart in ONNX. `layers_cpu.AUTO`
holds the forms that XLA:CPU runs fast; on other devices they compile to the plain operations.

Shapes: B batch, T tokens, Q queries (the first of the tokens), H heads, D width of a head.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Zeros (or -inf) before and after the rows, and before and after the columns."""

Queries = Float[Array, "B Q H D"]
Keys = Float[Array, "B T H D"]
"""Keys, and values."""
Mask = Bool[Array, "B T"] | None
"""False: tokens that get weight 0; None: there are none."""

Attention = Callable[[Queries, Keys, Keys, Mask], Queries]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """One form of each operation; the functions of this module give shapes and formulas."""

    linear: Callable[[Array, Array, Array], Array]
    layer_norm: Callable[[Array, Array, Array, float], Array]
    attention: Attention
    residual: Callable[[Array, Array], Array]
    convolution: Callable[[Array, Array, tuple[int, int], Pads], Array]
    window_max: Callable[[Array, int, int, Pads], Array]


def linear(
    x: Float[Array, "... features"],
    kernel: Float[Array | np.ndarray, "features out"],
    bias: Float[Array | np.ndarray, " out"],
) -> Float[Array, "... out"]:
    """x W + b, in the type of `x`."""
    return x @ jnp.asarray(kernel, x.dtype) + jnp.asarray(bias, x.dtype)


def layer_norm(
    x: Float[Array, "... features"],
    scale: Float[Array, " features"],
    bias: Float[Array, " features"],
    epsilon: float,
) -> Float[Array, "... features"]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in float32."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon) * scale + bias).astype(x.dtype)


def attention(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    """softmax(Q K^T / sqrt(D)) V of each head (arXiv 2405.06814, Eq. 4); softmax in float32."""
    scaled = q * q.shape[-1] ** -0.5
    scores = jnp.einsum("bqhd,bthd->bhqt", scaled, k, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(v.dtype)  # [B, H, Q, T]
    return jnp.einsum("bhqt,bthd->bqhd", weights, v)


def cudnn_attention(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    """`attention` by cuDNN, in bfloat16 or float16; `mask` is True for the first tokens of a row.

    cuDNN takes lengths in place of masks. jax refuses odd lengths in training, and a single query:
    both are padded to even numbers.
    """
    queries, tokens = q.shape[1], k.shape[1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    lengths = None
    if mask is not None or tokens % 2:
        lengths = jnp.full(len(k), tokens, jnp.int32) if mask is None else mask.sum(1, jnp.int32)
    out = jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return out[:, :queries]


def residual(x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x + y: a residual stream and a branch."""
    return x + y


def convolution(
    x: Float[Array, "B rows columns channels"],
    kernel: Float[Array, "kernel_rows kernel_columns channels out"],
    strides: tuple[int, int],
    pads: Pads,
) -> Float[Array, "B new_rows new_columns out"]:
    """The sum over each window of `x`, padded with zeros, times the kernel."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=numbers)


def window_max(
    x: Float[Array, "B rows columns channels"], side: int, stride: int, pads: Pads
) -> Float[Array, "B new_rows new_columns channels"]:
    """The largest value in each window of side x side pixels; `x` is padded with -inf.

    Elementwise maxima of shifted slices, rows first, then columns: jax2onnx 0.13 turns a
    reduce_window by maximum into a pooling of four axes, which onnxruntime does not implement.
    """
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
    for axis in (1, 2):
        last = x.shape[axis] - side
        slices = [jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(side)]
        x = functools.reduce(jnp.maximum, slices)
    return x


PLAIN = Kernels(linear, layer_norm, attention, residual, convolution, window_max)
