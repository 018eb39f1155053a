"""The Vision Transformer encoder (arXiv 2010.11929), with the equations of arXiv 2405.06814.

It is the standard pre-norm ViT; unlike in the second paper's text the class token has a position of
its own (197 at 224/16).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from data_builder.errors import InputError
from dtvit_jax.models.block import Block, Size
from dtvit_jax.models.layers import check_rate, dropout
from dtvit_jax.models.layers_cpu import LayerNorm, Linear
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


def patchify(
    images: Float[Array, "batch rows columns channels"], patch: int
) -> Float[Array, "batch patches pixels"]:
    """Cuts images into patches, row by row; pixels in the order row, column, channel."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    cells = images.reshape(batch, rows, patch, columns, patch, channels)
    cells = cells.transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(batch, rows * columns, patch * patch * channels)


def patches_above(
    images: Float[Array, "batch rows columns"], level: float, patch: int, margin: int = 0
) -> Bool[Array, "batch patches"]:
    """Which patches, row by row, have a pixel above `level` in them or within `margin` pixels."""
    if margin:
        window = (1, 2 * margin + 1, 2 * margin + 1)
        images = jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, window, (1, 1, 1), "SAME")
    return patchify(images[..., None], patch).max(-1) > level


class ViT(nnx.Module):
    """Vision Transformer: [batch, image_size, image_size, channels] images to [batch, width].

    Args:
        size: width, depth, heads and MLP width (`SIZES`).
        patch: a patch's side in pixels; it must divide `image_size`.
        image_size: an image's side in pixels.
        channels: 3, or 1 for gray CT.
        gelu: 'exact' (torchvision, timm, Hugging Face) or 'tanh' (Google's `.npz`).
        norm_epsilon: 1e-6, but 1e-12 in Hugging Face's models.
        pooling: 'cls', the class token after the last norm, or 'mean', the patches' mean after it.
        dropout: rate after the position embedding, the attention's and both MLP's projections.
        stochastic_depth: rate in the last block; it rises linearly from 0 in the first.
        tissue: (channel, level, margin): an image's patches count only where a pixel within
            `margin` pixels is above `level` in that channel; None: all patches.
        remat: recompute each block in the backward pass instead of keeping its activations.
        scan: one compiled block run over stacked parameters: the same numbers, quicker to compile.
        attention: 'xla', or 'cudnn' for bfloat16 on an NVIDIA GPU.
        dtype: of the computation; parameters are float32.

    Raises:
        InputError: an option has no such value, or `patch` does not divide `image_size`.
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
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if image_size % patch:
            raise InputError(f"image size {image_size} is not a multiple of the patch size {patch}")
        for name, value, known in (
            ("gelu", gelu, ("exact", "tanh")),
            ("pooling", pooling, ("cls", "mean")),
            ("attention", attention, ("xla", "cudnn")),
        ):
            if value not in known:
                raise InputError(f"model option {name}={value!r}: it is one of {', '.join(known)}")
        for name, rate in (("dropout", dropout), ("stochastic_depth", stochastic_depth)):
            check_rate(name, rate)
        self.features = size.width
        self.patch, self.image_size, self.channels = patch, image_size, channels
        self.pooling, self.rate, self.stochastic_depth = pooling, dropout, stochastic_depth
        self.tissue = tissue
        self.remat, self.scan = remat, scan
        self.dtype = dtype
        tokens = (image_size // patch) ** 2 + 1
        self.patch_embedding = Linear(patch * patch * channels, size.width, dtype=dtype, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, size.width)))
        self.position_embedding = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (1, tokens, size.width))
        )
        self.blocks = nnx.List(
            Block(
                size,
                gelu=gelu,
                norm_epsilon=norm_epsilon,
                rate=dropout,
                implementation=attention,
                dtype=dtype,
                rngs=rngs,
            )
            for _ in range(size.depth)
        )
        self.norm = LayerNorm(size.width, epsilon=norm_epsilon, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features of whole images. A `key` means training (dropout), None inference."""
        return self.encode(patchify(images, self.patch), mask=self.counted(images), key=key)

    def counted(
        self, images: Float[Array, "batch rows columns channels"]
    ) -> Bool[Array, "batch patches"] | None:
        """Which patches count, by the option tissue; None: all of them."""
        if self.tissue is None:
            return None
        channel, level, margin = self.tissue
        return patches_above(images[..., channel], level, self.patch, margin)

    def encode(
        self,
        patches: Float[Array, "batch patches pixels"],
        *,
        positions: Int[Array, "batch patches"] | None = None,
        mask: Bool[Array, "batch patches"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch width"]:
        """Features from any subset of an image's patches.

        `positions` are their indices in the whole grid, row by row (None: all, in order); a patch
        where `mask` is False is padding and changes nothing. An image without any patch has the
        answer of its class token alone, whatever the pooling.
        """
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = dropout(self.embed(patches, positions), self.rate, keys[0])
        attended = None if mask is None else jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        return self.pooled(self.norm(self._run_blocks(x, attended, keys[1])), mask)

    def pooled(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch patches"] | None,
    ) -> Float[Array, "batch width"]:
        """What the heads read of the last norm's output; with pooling 'cls' its first token."""
        if self.pooling == "cls":
            return x[:, 0]
        if mask is None:
            return jnp.mean(x[:, 1:], axis=1)
        count = mask.sum(1, keepdims=True)
        mean = jnp.sum(x[:, 1:], axis=1, where=mask[..., None]) / jnp.maximum(count, 1)
        return jnp.where(count > 0, mean, x[:, 0]).astype(x.dtype)

    def encode_packed(
        self,
        images: Float[Array, "batch rows columns channels"],
        packing: Packing,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch width"]:
        """`encode` of the patches that `packing` keeps, and of no others."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        patches = (self.image_size // self.patch) ** 2
        groups, slices = packing.slot.shape
        z = self.patch_embedding(flatten(patchify(images, self.patch), packing).astype(self.dtype))
        position = self.position_embedding[...].astype(self.dtype)
        z = z + position[0, 1:][packing.source % patches]
        class_token = self.class_token[...].astype(self.dtype) + position[:, :1]
        class_token = jnp.broadcast_to(class_token, (groups, slices, z.shape[-1]))
        x = dropout(jnp.concatenate([class_token, z], axis=1), self.rate, keys[0])
        x = self.norm(self._run_blocks(x, packing, keys[1]))
        of_class = x[:, :slices].reshape(groups * slices, -1)
        if self.pooling == "cls":
            return of_class
        mean, count = slice_means(x[:, slices:], packing, patches)
        return jnp.where(count[:, None] > 0, mean, of_class)

    def embed(
        self,
        patches: Float[Array, "batch patches pixels"],
        positions: Int[Array, "batch patches"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """The encoder's input: [class; W x_i + b] (Eq. 1), each token plus its position."""
        z = self.patch_embedding(patches.astype(self.dtype))
        position = self.position_embedding[...].astype(self.dtype)
        at = position[:, 1:] if positions is None else position[0, 1:][positions]
        class_token = self.class_token[...].astype(self.dtype) + position[:, :1]
        class_token = jnp.broadcast_to(class_token, (z.shape[0], 1, z.shape[-1]))
        return jnp.concatenate([class_token, z + at], axis=1)

    def _run_blocks(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch tokens"] | Packing | None,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch queries width"]:
        """All blocks in turn; the last computes the class token alone if nothing else is read."""
        depth = len(self.blocks)
        keys = None if key is None else jax.random.split(key, depth)
        rates = self.stochastic_depth * jnp.arange(depth) / max(depth - 1, 1)
        parts = [nnx.split(block) for block in self.blocks]
        classes, example = 1, None
        if isinstance(mask, Packing):
            classes = mask.slot.shape[1]
            example = mask.example((self.image_size // self.patch) ** 2)

        def run(x: Array, step: tuple, queries: int | None) -> Array:
            state, key, rate = step
            block = nnx.merge(parts[0][0], state)
            drop_rate = rate if self.stochastic_depth else 0.0
            return block(
                x, mask=mask, key=key, drop_rate=drop_rate, queries=queries, example=example
            )

        def step(i: int) -> tuple:
            return parts[i][1], None if keys is None else keys[i], rates[i]

        # jit: traced once for all blocks, whose calls XLA then writes out.
        whole = jax.checkpoint if self.remat else jax.jit
        one = whole(run, static_argnums=2)
        if self.scan:
            states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[s for _, s in parts[:-1]])
            steps = (states, None if keys is None else keys[:-1], rates[:-1])
            x, _ = jax.lax.scan(lambda x, step: (one(x, step, None), None), x, steps)
        else:
            for i in range(depth - 1):
                x = one(x, step(i), None)
        return one(x, step(depth - 1), classes if self.pooling == "cls" else None)
