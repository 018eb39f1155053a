"""The transformer's layers, in the forms that XLA:CPU is quick at; the mathematics is the usual.

A gradient is written out where the one that JAX derives is slow on a CPU:
docs/training_speed.md has the figures. On other devices `settle` does nothing and the compiler has
its way.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float


def _settled(x: Array) -> Array:
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def settle(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x`; on a CPU, it and its gradient are computed once and written to memory.

    XLA:CPU fuses what looks cheap into each of its readers, and each computes it again: of a
    residual stream, all the sums before it.
    """
    return _settled(x)


settle.defvjp(lambda x: (_settled(x), None), lambda _, dy: (_settled(dy),))


@jax.custom_vjp
def _linear(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel + bias


def _linear_backward(saved: tuple, dy: Array) -> tuple[Array, Array, Array]:
    x, kernel = saved
    wider = x.shape[1] > dy.shape[1]
    # x^T dy as a plain row by column product: the narrower of the two is transposed for it.
    dkernel = _settled(_settled(dy.T) @ x).T if wider else _settled(x.T) @ dy
    return dy @ kernel.T, dkernel, dy.sum(0)


_linear.defvjp(lambda x, kernel, bias: (x @ kernel + bias, (x, kernel)), _linear_backward)


class Linear(nnx.Linear):
    """nnx.Linear, with a bias, as one product of two matrices."""

    def __call__(self, x: Float[Array, "... features"]) -> Float[Array, "... out"]:  # type: ignore[override]
        assert self.bias is not None
        return linear(x.astype(self.dtype), self.kernel[...], self.bias[...])


def linear(
    x: Float[Array, "... features"],
    kernel: Float[Array | np.ndarray, "features out"],
    bias: Float[Array | np.ndarray, " out"],
) -> Float[Array, "... out"]:
    """x W + b in the type of `x`."""
    kernel, bias = jnp.asarray(kernel, x.dtype), jnp.asarray(bias, x.dtype)
    y = _linear(x.reshape(-1, x.shape[-1]), kernel, bias)
    return y.reshape(*x.shape[:-1], y.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean  # E[x^2] - E[x]^2 would lose digits
    inverse = _settled(jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon))
    y = _settled((centred * inverse * scale + bias).astype(x.dtype))
    return y, (x, mean, inverse, scale)


def _layer_norm_backward(epsilon: float, saved: tuple, dy: Array) -> tuple[Array, Array, Array]:
    del epsilon
    x, mean, inverse, scale = saved
    normal = (x.astype(jnp.float32) - mean) * inverse
    dy = dy.astype(jnp.float32)
    d = dy * scale
    along = (d * normal).mean(-1, keepdims=True)
    dx = (d - d.mean(-1, keepdims=True) - normal * along) * inverse
    examples = tuple(range(dy.ndim - 1))
    return _settled(dx.astype(x.dtype)), (dy * normal).sum(examples), dy.sum(examples)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nnx.LayerNorm):
    """nnx.LayerNorm over the last axis, Eq. 2, computed in float32."""

    def __call__(self, x: Float[Array, "... features"]) -> Float[Array, "... features"]:  # type: ignore[override]
        assert self.scale is not None and self.bias is not None
        scale, bias = jnp.asarray(self.scale[...]), jnp.asarray(self.bias[...])
        return _layer_norm(x.astype(self.dtype), scale, bias, self.epsilon)


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Phi(x). By erf, as torch computes it; jax.nn.gelu's erfc takes a CPU twice as long."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@jax.custom_vjp
def softmax_attention(
    q: Float[Array, "batch heads queries head_width"],
    k: Float[Array, "batch heads tokens head_width"],
    v: Float[Array, "batch heads tokens head_width"],
    mask: Bool[Array, "batch tokens"] | None,
) -> Float[Array, "batch heads queries head_width"]:
    """softmax(Q K^T) V, Eq. 4 with Q scaled before; the softmax is in float32.

    Tokens where `mask` is False are not attended to. Without a gradient, rows are divided by their
    sum after the product with V: of [queries, head_width], not [queries, tokens].
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


def _attention_forward(q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, tuple]:
    """With a gradient the softmax is divided first: it is kept for the backward pass anyway."""
    weights = jax.nn.softmax(_scores(q, k, mask)).astype(v.dtype)
    return _settled(jnp.einsum("bhqk,bhkd->bhqd", weights, v)), (q, k, v, weights)


def _attention_backward(saved: tuple, dout: Array) -> tuple[Array, Array, Array, None]:
    """Products of the inputs' type: the gradient that JAX derives has some in float32."""
    q, k, v, weights = saved
    dout = _settled(dout)
    dweights = jnp.einsum("bhqd,bhkd->bhqk", dout, v, preferred_element_type=jnp.float32)
    along = (weights * dweights).sum(-1, keepdims=True)
    dscores = (weights * (dweights - along)).astype(q.dtype)
    dq = jnp.einsum("bhqk,bhkd->bhqd", dscores, k)
    dk = jnp.einsum("bhqk,bhqd->bhkd", dscores, q)
    return dq, dk, jnp.einsum("bhqk,bhqd->bhkd", weights, dout), None


softmax_attention.defvjp(_attention_forward, _attention_backward)
