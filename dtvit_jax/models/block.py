"""One block of a ViT's encoder: multi-head self-attention, then an MLP, each on a residual stream.

    x = x + MHA(LN(x))
    x = x + MLP(LN(x))

Equations are those of arXiv 2405.06814. Its Eq. 3b projects Q, K and V a second time in each head;
this block projects once (Eq. 3a), as arXiv 2010.11929 and all published weights do.

Shapes: B examples, T tokens (the class token first), Q queries (the first Q tokens), W width,
H heads, D = W / H width of a head, M width inside the MLP. With a Packing B counts groups and T is
the rows of one group: tokens of several slices one after another (packed.py).

`kernels` selects the form of linear, layer norm, attention and residual sum (kernels.py): the same
formulas, faster on a CPU.
"""

import dataclasses
from typing import Unpack

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from dtvit_jax.models.layers import (
    LayerNorm,
    LayerOptions,
    Linear,
    drop_path,
    dropout,
    exact_gelu,
)
from dtvit_jax.models.packed import Packing, packed_attention


@dataclasses.dataclass(frozen=True)
class Size:
    """A ViT's size: width W, number of blocks, attention heads H, width M inside the MLP."""

    width: int
    depth: int
    heads: int
    mlp: int


class SelfAttention(nnx.Module):
    """Multi-head self-attention (Eq. 3a to 3c and 4).

    `qkv.kernel` is [W, 3W]: the columns of W_Q, then W_K, then W_V, each head by head.
    """

    def __init__(self, width: int, heads: int, **options: Unpack[LayerOptions]) -> None:
        init = nnx.initializers.xavier_uniform()
        self.qkv = Linear(width, 3 * width, kernel_init=init, **options)
        self.out = Linear(width, width, kernel_init=init, **options)
        self.heads = heads
        self.kernels = options["kernels"]

    def __call__(
        self,
        x: Float[Array, "B T W"],
        mask: Bool[Array, "B T"] | Packing | None = None,
        queries: int | None = None,
    ) -> Float[Array, "B Q W"]:
        """Attends from the first `queries` tokens (None: all) to every token.

        Tokens where `mask` is False are not attended to. With a Packing each slice's tokens attend
        to one another, and `queries`, if given, is the number of class tokens in a group.
        """
        batch, tokens, width = x.shape
        if queries is None:
            qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1)  # Eq. 3a: [B, T, 3, H, D]
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [B, T, H, D] each
        else:
            # Only the first `queries` tokens are needed: W_Q is applied to those alone.
            assert self.qkv.bias is not None
            kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]  # [W, 3W], [3W]
            q = self.kernels.linear(x[:, :queries], kernel[:, :width], bias[:width])  # [B, Q, W]
            q = q.reshape(batch, queries, self.heads, -1)  # [B, Q, H, D]
            kv = self.kernels.linear(x, kernel[:, width:], bias[width:])  # [B, T, 2W]
            kv = kv.reshape(batch, tokens, 2, self.heads, -1)
            k, v = kv[:, :, 0], kv[:, :, 1]  # [B, T, H, D] each
        # Eq. 4, softmax(Q K^T / sqrt(D)) V in each head: [B, Q, H, D]
        if isinstance(mask, Packing):
            heads = packed_attention(q, k, v, mask, self.kernels.attention)
        else:
            heads = self.kernels.attention(q, k, v, mask)
        return self.out(heads.reshape(batch, -1, width))  # Eq. 3c, heads joined: [B, Q, W]


class MLP(nnx.Module):
    """Linear W to M, GELU, dropout, Linear M to W; `gelu` is 'exact' (by erf) or 'tanh'."""

    def __init__(
        self, width: int, hidden: int, gelu: str, rate: float, **options: Unpack[LayerOptions]
    ) -> None:
        init = nnx.initializers.xavier_uniform()
        self.hidden = Linear(width, hidden, kernel_init=init, **options)
        self.out = Linear(hidden, width, kernel_init=init, **options)
        self.approximate = gelu == "tanh"
        self.rate = rate

    def __call__(
        self, x: Float[Array, "B T W"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B T W"]:
        x = self.hidden(x)  # [B, T, M]
        x = jax.nn.gelu(x) if self.approximate else exact_gelu(x)
        return self.out(dropout(x, self.rate, key))  # [B, T, W]


class Block(nnx.Module):
    """One encoder block; its layer norms (Eq. 2) come before attention and MLP.

    Args:
        size: the ViT's size; the block uses width, heads and mlp.
        gelu: 'exact' or 'tanh'.
        norm_epsilon: added to the variance in the layer norms.
        rate: dropout rate of both branches and inside the MLP.
        options: as in `LayerOptions`.
    """

    def __init__(
        self,
        size: Size,
        *,
        gelu: str,
        norm_epsilon: float,
        rate: float,
        **options: Unpack[LayerOptions],
    ) -> None:
        # Construction order is the order in which parameters take random keys: do not change it.
        self.norm1 = LayerNorm(size.width, epsilon=norm_epsilon, **options)
        self.attention = SelfAttention(size.width, size.heads, **options)
        self.norm2 = LayerNorm(size.width, epsilon=norm_epsilon, **options)
        self.mlp = MLP(size.width, size.mlp, gelu, rate, **options)
        self.rate = rate
        self.kernels = options["kernels"]

    def __call__(
        self,
        x: Float[Array, "B T W"],
        *,
        mask: Bool[Array, "B T"] | Packing | None = None,
        key: Key[Array, ""] | None = None,
        drop_rate: Float[Array, ""] | float = 0.0,
        queries: int | None = None,
        example: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B Q W"]:
        """Returns the first `queries` tokens after the block (None: all).

        Args:
            x: the residual stream.
            mask: tokens that are attended to, or the Packing of the stream; None: all.
            key: randomness of dropout and stochastic depth; None in inference, which has neither.
            drop_rate: probability that stochastic depth drops a branch of an example.
            queries: number of leading tokens to compute.
            example: the slice that each token belongs to, where a row of `x` holds several.
        """
        keys = [None] * 5 if key is None else jax.random.split(key, 5)
        of_query = None if example is None else example[:, :queries]  # [B, Q]
        y = self.attention(self.norm1(x), mask, queries)  # [B, Q, W]
        y = drop_path(dropout(y, self.rate, keys[0]), drop_rate, keys[1], of_query)
        x = self.kernels.residual(x[:, :queries], y)
        y = self.mlp(self.norm2(x), keys[2])  # [B, Q, W]
        y = drop_path(dropout(y, self.rate, keys[3]), drop_rate, keys[4], of_query)
        return self.kernels.residual(x, y)
