"""One block of a ViT's encoder: multi-head attention and an MLP, each behind a norm.

Equations are those of arXiv 2405.06814, whose Eq. 3b projects Q, K and V twice: not followed.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from dtvit_jax.models.layers import drop_path, dropout
from dtvit_jax.models.layers_cpu import (
    LayerNorm,
    Linear,
    exact_gelu,
    linear,
    settle,
    softmax_attention,
)
from dtvit_jax.models.packed import Packing, packed_attention


@dataclasses.dataclass(frozen=True)
class Size:
    """What a ViT's letter stands for: width, blocks, attention heads, width inside the MLP."""

    width: int
    depth: int
    heads: int
    mlp: int


def attention(
    q: Float[Array, "batch queries heads head_width"],
    k: Float[Array, "batch tokens heads head_width"],
    v: Float[Array, "batch tokens heads head_width"],
    mask: Bool[Array, "batch tokens"] | None,
    implementation: str,
) -> Float[Array, "batch queries heads head_width"]:
    """Eq. 4: softmax(Q K^T / sqrt(d)) V for each head; the softmax is in float32.

    Tokens where `mask` is False are not attended to. `implementation` is 'xla' (any device) or
    'cudnn' (an NVIDIA GPU, bfloat16 or float16).
    """
    if implementation == "cudnn":
        where = None if mask is None else mask[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=where, implementation="cudnn")
    q, k, v = (settle(jnp.swapaxes(x, 1, 2)) for x in (q * q.shape[-1] ** -0.5, k, v))
    return jnp.swapaxes(softmax_attention(q, k, v, mask), 1, 2)


class SelfAttention(nnx.Module):
    """Multi-head attention, Eq. 3a to 3c, with the three projections of Eq. 3a in one kernel.

    `qkv.kernel` is [width, 3 * width]: columns of W_Q, then W_K, then W_V, each head by head.
    """

    def __init__(
        self, width: int, heads: int, implementation: str, *, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        init = nnx.initializers.xavier_uniform()
        self.qkv = Linear(width, 3 * width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.implementation = implementation
        self.dtype = dtype

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"] | Packing | None = None,
        queries: int | None = None,
    ) -> Float[Array, "batch queries width"]:
        """Attends from the first `queries` tokens (all, if None) to every token.

        With a Packing each slice's tokens attend to each other; `queries` is then their number.
        """
        batch, tokens, width = x.shape
        if queries is None:
            qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1)  # Eq. 3a
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        else:
            assert self.qkv.bias is not None  # Linear was made with one
            kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
            q = linear(x[:, :queries], kernel[:, :width], bias[:width])
            q = q.reshape(batch, queries, self.heads, -1)
            kv = linear(x, kernel[:, width:], bias[width:])
            kv = kv.reshape(batch, tokens, 2, self.heads, -1)
            k, v = kv[:, :, 0], kv[:, :, 1]
        attend = functools.partial(attention, implementation=self.implementation)  # Eq. 3b, 4
        if isinstance(mask, Packing):
            heads = packed_attention(q, k, v, mask, attend)
        else:
            heads = attend(q, k, v, mask)
        return self.out(heads.reshape(batch, -1, width))  # Eq. 3c


class MLP(nnx.Module):
    """Linear, GELU, Linear."""

    def __init__(
        self, width: int, hidden: int, gelu: str, rate: float, *, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        init = nnx.initializers.xavier_uniform()
        self.hidden = Linear(width, hidden, kernel_init=init, dtype=dtype, rngs=rngs)
        self.out = Linear(hidden, width, kernel_init=init, dtype=dtype, rngs=rngs)
        self.approximate = gelu == "tanh"
        self.rate = rate

    def __call__(
        self, x: Float[Array, "batch tokens width"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch tokens width"]:
        x = self.hidden(x)
        x = jax.nn.gelu(x) if self.approximate else exact_gelu(x)
        return self.out(dropout(x, self.rate, key))


class Block(nnx.Module):
    """One encoder block: x + MHA(LN(x)), then x + MLP(LN(x)). LN is Eq. 2."""

    def __init__(
        self,
        size: Size,
        *,
        gelu: str,
        norm_epsilon: float,
        rate: float,
        implementation: str,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        def norm() -> LayerNorm:
            return LayerNorm(size.width, epsilon=norm_epsilon, dtype=dtype, rngs=rngs)

        self.norm1 = norm()
        self.attention = SelfAttention(
            size.width, size.heads, implementation, dtype=dtype, rngs=rngs
        )
        self.norm2 = norm()
        self.mlp = MLP(size.width, size.mlp, gelu, rate, dtype=dtype, rngs=rngs)
        self.rate = rate

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        *,
        mask: Bool[Array, "batch tokens"] | Packing | None = None,
        key: Key[Array, ""] | None = None,
        drop_rate: Float[Array, ""] | float = 0.0,
        queries: int | None = None,
        example: Int[Array, "batch tokens"] | None = None,
    ) -> Float[Array, "batch queries width"]:
        """Returns the first `queries` tokens (all, if None); `drop_rate` is stochastic depth's.

        A `key` means training: without one there is no dropout and no stochastic depth. `example`
        is each token's slice where not each of `x` is one.
        """
        keys = [None] * 5 if key is None else jax.random.split(key, 5)
        of = None if example is None else example[:, :queries]
        y = self.attention(self.norm1(x), mask, queries)
        y = drop_path(dropout(y, self.rate, keys[0]), drop_rate, keys[1], of)
        x = settle(x[:, :queries] + y)
        y = self.mlp(self.norm2(x), keys[2])
        return settle(x + drop_path(dropout(y, self.rate, keys[3]), drop_rate, keys[4], of))
