"""The Vision Transformer encoder: images to one feature vector each (arXiv 2010.11929).

    patches of an image -> linear embedding + positions, class token in front      Eq. 1
    -> depth blocks of attention and MLP (block.py)                               Eq. 2 to 4
    -> layer norm -> the class token, or the mean of the patches

Equations are those of arXiv 2405.06814. This is the standard pre-norm ViT; unlike in that paper's
text, the class token has a position embedding of its own (197 positions at 224/16).

Shapes: B images, P patches of an image, T = P + 1 tokens (the class token first), W width.
"""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from data_builder.errors import InputError
from dtvit_jax.models.block import Block, Size
from dtvit_jax.models.kernels import PLAIN, Kernels, cudnn_attention
from dtvit_jax.models.layers import (
    LayerNorm,
    LayerOptions,
    Linear,
    check_rate,
    dropout,
    max_pool,
)
from dtvit_jax.models.packed import Packing, flatten, slice_means

SIZES = {
    "nano": Size(64, 2, 2, 128),  # for tests
    "micro": Size(128, 6, 4, 512),  # for small runs on a CPU
    "ti": Size(192, 12, 3, 768),
    "s": Size(384, 12, 6, 1536),
    "b": Size(768, 12, 12, 3072),
    "l": Size(1024, 24, 16, 4096),
    "h": Size(1280, 32, 16, 5120),
}
"""Ti, S: arXiv 2012.12877, Table 1; B, L, H: arXiv 2010.11929, Table 1."""

_BlockInput = tuple[Any, Array | None, Array]
"""What a block takes besides the tokens: its nnx.State, key and rate of stochastic depth."""


def patchify(
    images: Float[Array, "B rows columns channels"], patch: int
) -> Float[Array, "B P pixels"]:
    """Cuts images into patches, row by row; pixels in the order row, column, channel.

    pixels = patch * patch * channels.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    cells = images.reshape(batch, rows, patch, columns, patch, channels)
    cells = cells.transpose(0, 1, 3, 2, 4, 5)  # [B, rows, columns, patch, patch, channels]
    return cells.reshape(batch, rows * columns, patch * patch * channels)


def patches_above(
    images: Float[Array, "B rows columns"],
    threshold: float,
    patch: int,
    margin: int = 0,
    kernels: Kernels = PLAIN,
) -> Bool[Array, "B P"]:
    """Whether a pixel of each patch, or one within `margin` pixels of it, is above `threshold`."""
    pixels = images[..., None]
    if margin:
        pixels = max_pool(pixels, 2 * margin + 1, 1, padding=margin, kernels=kernels)
    return patchify(pixels, patch).max(-1) > threshold


def kept_first(
    patches: Float[Array, "B P pixels"],
    positions: Int[Array, "B P"] | None,
    mask: Bool[Array, "B P"],
) -> tuple[Float[Array, "B P pixels"], Int[Array, "B P"], Bool[Array, "B P"]]:
    """Moves each image's kept patches to the front, in their order; returns all three anew."""
    order = jnp.argsort(~mask, axis=1, stable=True)
    positions = order if positions is None else jnp.take_along_axis(positions, order, axis=1)
    patches = jnp.take_along_axis(patches, order[..., None], axis=1)
    return patches, positions, jnp.take_along_axis(mask, order, axis=1)


class ViT(nnx.Module):
    """Vision Transformer: [B, image_size, image_size, channels] images to [B, W] features.

    Args:
        size: width, depth, heads and MLP width (`SIZES`).
        patch: a patch's side in pixels; it divides `image_size`.
        image_size: an image's side in pixels.
        channels: 3, or 1 for gray CT.
        gelu: 'exact' (torchvision, timm, Hugging Face) or 'tanh' (Google's `.npz`).
        norm_epsilon: 1e-6, but 1e-12 in Hugging Face's models.
        pooling: 'cls', the class token after the last norm, or 'mean', the patches' mean after it.
        dropout: rate after the position embedding, the attention's and both MLP's projections.
        stochastic_depth: rate in the last block; it rises linearly from 0 in the first.
        tissue: (channel, threshold, margin): an image's patches count only where a pixel within
            `margin` pixels is above `threshold` in that channel; None: all patches.
        remat: recompute each block in the backward pass instead of keeping its activations.
        scan: one compiled block run over stacked parameters: the same numbers, faster to compile.
        attention: 'xla', or 'cudnn' for bfloat16 on an NVIDIA GPU.
        options: as in `LayerOptions`.

    Raises:
        InputError: an option's value is invalid, or `patch` does not divide `image_size`.
    """

    def __init__(
        self,
        size: Size,
        patch: int,
        *,
        image_size: int = 224,
        channels: int = 3,
        gelu: str = "exact",
        norm_epsilon: float = 1e-6,
        pooling: str = "cls",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        tissue: tuple[int, float, int] | None = None,
        remat: bool = False,
        scan: bool = False,
        attention: str = "xla",
        **options: Unpack[LayerOptions],
    ) -> None:
        if image_size % patch:
            raise InputError(f"image size {image_size} is not a multiple of the patch size {patch}")
        for name, value, choices in (
            ("gelu", gelu, ("exact", "tanh")),
            ("pooling", pooling, ("cls", "mean")),
            ("attention", attention, ("xla", "cudnn")),
        ):
            if value not in choices:
                raise InputError(f"model option {name}={value!r}: give one of {', '.join(choices)}")
        for name, rate in (("dropout", dropout), ("stochastic_depth", stochastic_depth)):
            check_rate(name, rate)
        if attention == "cudnn":
            kernels = dataclasses.replace(options["kernels"], attention=cudnn_attention)
            options["kernels"] = kernels
        self.features = size.width
        self.patch, self.image_size, self.channels = patch, image_size, channels
        self.pooling, self.rate, self.stochastic_depth = pooling, dropout, stochastic_depth
        self.tissue = tissue
        self.remat, self.scan = remat, scan
        self.kernels, self.dtype = options["kernels"], options["dtype"]
        self.patches = (image_size // patch) ** 2  # P
        # Construction order is the order in which parameters take random keys: do not change it.
        self.patch_embedding = Linear(patch * patch * channels, size.width, **options)
        self.class_token = nnx.Param(jnp.zeros((1, 1, size.width)))
        self.position_embedding = nnx.Param(
            0.02 * jax.random.normal(options["rngs"].params(), (1, self.patches + 1, size.width))
        )
        self.blocks = nnx.List(
            Block(size, gelu=gelu, norm_epsilon=norm_epsilon, rate=dropout, **options)
            for _ in range(size.depth)
        )
        self.norm = LayerNorm(size.width, epsilon=norm_epsilon, **options)

    def __call__(
        self,
        images: Float[Array, "B rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B W"]:
        """Features of whole images; a `key` in training (dropout), None in inference."""
        return self.encode(patchify(images, self.patch), mask=self.counted(images), key=key)

    def counted(self, images: Float[Array, "B rows columns channels"]) -> Bool[Array, "B P"] | None:
        """Whether each patch counts by the option `tissue`; None: all of them do."""
        if self.tissue is None:
            return None
        channel, threshold, margin = self.tissue
        return patches_above(images[..., channel], threshold, self.patch, margin, self.kernels)

    def encode(
        self,
        patches: Float[Array, "B P pixels"],
        *,
        positions: Int[Array, "B P"] | None = None,
        mask: Bool[Array, "B P"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B W"]:
        """Features of any subset of an image's patches.

        Args:
            patches: pixels of each patch, as `patchify` orders them.
            positions: each patch's index in the whole grid, row by row; None: all, in order.
            mask: False for patches to leave out (padding, or no tissue), which do not change the
                features. Of an image without any
                patch the class token alone is encoded and returned, whatever the pooling.
            key: in training (dropout); None in inference.
        """
        if mask is not None and self.kernels.attention is cudnn_attention:
            patches, positions, mask = kept_first(patches, positions, mask)
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = dropout(self.embed(patches, positions), self.rate, keys[0])  # [B, T, W]
        attended = None if mask is None else jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        x = self.norm(self._run_blocks(x, attended, keys[1]))
        return self.pooled(x, mask)

    def embed(
        self,
        patches: Float[Array, "B P pixels"],
        positions: Int[Array | np.ndarray, "B P"] | None = None,
        slices: int = 1,
    ) -> Float[Array, "B T W"]:
        """The encoder's input, Eq. 1: [class token; patches W + b], plus each token's position.

        With `slices` above 1 a row's patches are those of several slices, and as many class tokens
        come first.
        """
        z = self.patch_embedding(patches.astype(self.dtype))  # [B, P, W]
        position = self.position_embedding[...].astype(self.dtype)  # [1, P + 1, W]
        of_patch = position[:, 1:] if positions is None else position[0, 1:][positions]
        class_token = self.class_token[...].astype(self.dtype) + position[:, :1]  # [1, 1, W]
        class_token = jnp.broadcast_to(class_token, (z.shape[0], slices, z.shape[-1]))
        return jnp.concatenate([class_token, z + of_patch], axis=1)

    def pooled(
        self, x: Float[Array, "B T W"], mask: Bool[Array, "B P"] | None
    ) -> Float[Array, "B W"]:
        """The features, from the last norm's output: its class token, or its patches' mean.

        With pooling 'cls' tokens after the first are not read.
        """
        if self.pooling == "cls":
            return x[:, 0]
        if mask is None:
            return jnp.mean(x[:, 1:], axis=1)
        count = mask.sum(1, keepdims=True)  # [B, 1]
        mean = jnp.sum(x[:, 1:], axis=1, where=mask[..., None]) / jnp.maximum(count, 1)
        return jnp.where(count > 0, mean, x[:, 0]).astype(x.dtype)

    def encode_packed(
        self,
        images: Float[Array, "B rows columns channels"],
        packing: Packing,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B W"]:
        """`encode` of the patches that `packing` keeps, and of no others.

        The B images are G groups of S slices. A group's tokens are one sequence without gaps: S
        class tokens, then N kept patches, slice by slice.
        """
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        groups, slices = packing.slot.shape
        kept = flatten(patchify(images, self.patch), packing)  # [G, N, pixels]
        x = self.embed(kept, packing.source % self.patches, slices)  # [G, S + N, W]
        x = dropout(x, self.rate, keys[0])
        x = self.norm(self._run_blocks(x, packing, keys[1]))
        class_tokens = x[:, :slices].reshape(groups * slices, -1)  # [B, W]
        if self.pooling == "cls":
            return class_tokens
        mean, count = slice_means(x[:, slices:], packing, self.patches)
        return jnp.where(count[:, None] > 0, mean, class_tokens)

    def _run_blocks(
        self,
        x: Float[Array, "B T W"],
        mask: Bool[Array, "B T"] | Packing | None,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "B Q W"]:
        """Runs all blocks in turn.

        With pooling 'cls' the last block computes the class tokens only: nothing reads the others.
        """
        depth = len(self.blocks)
        keys = None if key is None else jax.random.split(key, depth)
        rates = self.stochastic_depth * jnp.arange(depth) / max(depth - 1, 1)
        states = [nnx.state(block) for block in self.blocks]
        graph = nnx.graphdef(self.blocks[0])  # the blocks differ in their parameters only
        classes, example = 1, None
        if isinstance(mask, Packing):
            classes = mask.slot.shape[1]
            example = mask.example(self.patches)

        def run(x: Array, step: _BlockInput, queries: int | None) -> Array:
            state, key, rate = step
            block = nnx.merge(graph, state)
            # a Python 0.0 lets the block leave out what a traced rate could not
            drop_rate = rate if self.stochastic_depth else 0.0
            return block(
                x, mask=mask, key=key, drop_rate=drop_rate, queries=queries, example=example
            )

        def inputs_of(i: int) -> _BlockInput:
            return states[i], None if keys is None else keys[i], rates[i]

        # Under jit or checkpoint the block is traced once for all, and XLA inlines the calls.
        run_block = (jax.checkpoint if self.remat else jax.jit)(run, static_argnums=2)
        # The last block is apart: it may compute class tokens only.
        if self.scan:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states[:-1])
            steps = (stacked, None if keys is None else keys[:-1], rates[:-1])
            x, _ = jax.lax.scan(lambda x, step: (run_block(x, step, None), None), x, steps)
        else:
            for i in range(depth - 1):
                x = run_block(x, inputs_of(i), None)
        return run_block(x, inputs_of(depth - 1), classes if self.pooling == "cls" else None)
