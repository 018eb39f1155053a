"""The operations of kernels.py in forms that XLA:CPU runs fast.

Their figures are in docs/training_speed.md.

Two techniques: values that many readers share are written to memory once (`_settled`), and
gradients are written out where the one that JAX derives is slow on a CPU. On other devices
`_settled` does nothing and the compiler is free to fuse. Shapes as in kernels.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from dtvit_jax.models.convolution import convolution
from dtvit_jax.models.kernels import Kernels, Keys, Mask, Pads, Queries

_Norm = tuple[Array, Array, Array, Array]
_Saved = tuple[Array, Array, Array, Array]


def _settled(x: Array) -> Array:
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def settle(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x`; on a CPU both it and its gradient are computed once and written to memory.

    XLA:CPU fuses cheap operations into each of their readers, and each reader repeats them: of a
    residual stream, all the sums before it.
    """
    return _settled(x)


settle.defvjp(lambda x: (_settled(x), None), lambda _, dy: (_settled(dy),))


def residual(x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x + y, computed once."""
    return settle(x + y)


@jax.custom_vjp
def _linear(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel + bias


def _linear_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array, Array]:
    x, kernel = saved
    wider = x.shape[1] > dy.shape[1]
    # x^T dy as a row-by-column product, which XLA:CPU runs fastest: the narrower is transposed.
    dkernel = _settled(_settled(dy.T) @ x).T if wider else _settled(x.T) @ dy
    return dy @ kernel.T, dkernel, dy.sum(0)


_linear.defvjp(lambda x, kernel, bias: (x @ kernel + bias, (x, kernel)), _linear_backward)


def linear(
    x: Float[Array, "... features"],
    kernel: Float[Array | np.ndarray, "features out"],
    bias: Float[Array | np.ndarray, " out"],
) -> Float[Array, "... out"]:
    """x W + b in the type of `x`, as one product of two matrices."""
    kernel, bias = jnp.asarray(kernel, x.dtype), jnp.asarray(bias, x.dtype)
    y = _linear(x.reshape(-1, x.shape[-1]), kernel, bias)
    return y.reshape(*x.shape[:-1], y.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "... features"],
    scale: Float[Array, " features"],
    bias: Float[Array, " features"],
    epsilon: float,
) -> Float[Array, "... features"]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, in float32."""
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, _Norm]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean  # E[x^2] - E[x]^2 would lose digits
    inverse = _settled(jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon))
    y = _settled((centred * inverse * scale + bias).astype(x.dtype))
    return y, (x, mean, inverse, scale)


def _layer_norm_backward(epsilon: float, saved: _Norm, dy: Array) -> tuple[Array, Array, Array]:
    del epsilon
    x, mean, inverse, scale = saved
    normal = (x.astype(jnp.float32) - mean) * inverse
    dy = dy.astype(jnp.float32)
    d = dy * scale
    along = (d * normal).mean(-1, keepdims=True)
    dx = (d - d.mean(-1, keepdims=True) - normal * along) * inverse
    examples = tuple(range(dy.ndim - 1))
    return _settled(dx.astype(x.dtype)), (dy * normal).sum(examples), dy.sum(examples)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def attention(q: Queries, k: Keys, v: Keys, mask: Mask) -> Queries:
    """`kernels.attention`; heads go before tokens for the products."""
    q, k, v = (settle(jnp.swapaxes(x, 1, 2)) for x in (q * q.shape[-1] ** -0.5, k, v))
    return jnp.swapaxes(softmax_attention(q, k, v, mask), 1, 2)


@jax.custom_vjp
def softmax_attention(
    q: Float[Array, "B H Q D"], k: Float[Array, "B H T D"], v: Float[Array, "B H T D"], mask: Mask
) -> Float[Array, "B H Q D"]:
    """softmax(Q K^T) V: Eq. 4 with Q scaled beforehand; the softmax is in float32.

    Without a gradient, rows are divided by their sum after the product with V: [Q, D] values, not
    [Q, T].
    """
    scores = _scores(q, k, mask)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    inverse = 1 / weights.sum(-1, keepdims=True)
    weights = _settled(weights.astype(v.dtype))
    out = jnp.einsum("bhqk,bhkd->bhqd", weights, v, preferred_element_type=jnp.float32)
    return _settled((out * inverse).astype(v.dtype))


def _scores(q: Array, k: Array, mask: Array | None) -> Array:
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    return scores if mask is None else jnp.where(mask[:, None, None, :], scores, -jnp.inf)


def _attention_forward(q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, _Saved]:
    """With a gradient the softmax is divided first: the backward pass needs it anyway."""
    weights = jax.nn.softmax(_scores(q, k, mask)).astype(v.dtype)
    return _settled(jnp.einsum("bhqk,bhkd->bhqd", weights, v)), (q, k, v, weights)


def _attention_backward(saved: _Saved, dout: Array) -> tuple[Array, Array, Array, None]:
    """Products in the inputs' type; some of the gradient that JAX derives are in float32."""
    q, k, v, weights = saved
    dout = _settled(dout)
    dweights = jnp.einsum("bhqd,bhkd->bhqk", dout, v, preferred_element_type=jnp.float32)
    along = (weights * dweights).sum(-1, keepdims=True)
    dscores = (weights * (dweights - along)).astype(q.dtype)
    dq = jnp.einsum("bhqk,bhkd->bhqd", dscores, k)
    dk = jnp.einsum("bhqk,bhqd->bhkd", dscores, q)
    return dq, dk, jnp.einsum("bhqk,bhqd->bhkd", weights, dout), None


softmax_attention.defvjp(_attention_forward, _attention_backward)


def window_max(
    x: Float[Array, "batch rows columns channels"], side: int, stride: int, pads: Pads
) -> Float[Array, "batch new_rows new_columns channels"]:
    """The largest value in each window, by XLA's reduce_window; `x` is padded with -inf."""
    return nnx.max_pool(x, (side, side), strides=(stride, stride), padding=pads)


AUTO = Kernels(linear, layer_norm, attention, residual, convolution, window_max)
