"""DenseNet-121 (arXiv 1608.06993, DenseNet-BC), as torchvision's.

Modules are called as torchvision's, so that its weights need no table of names.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from dtvit_jax.models.layers import BatchNorm, check_side, conv, max_pool

GROWTH = 32
BLOCKS = (6, 12, 24, 16)


class DenseLayer(nnx.Module):
    """Norm, ReLU, 1x1 to 4 * GROWTH; norm, ReLU, 3x3 to GROWTH new channels."""

    def __init__(self, channels: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        options: dict[str, Any] = {"bias": False, "dtype": dtype, "rngs": rngs}
        self.norm1 = BatchNorm(channels)
        self.conv1 = conv(channels, 4 * GROWTH, 1, **options)
        self.norm2 = BatchNorm(4 * GROWTH)
        self.conv2 = conv(4 * GROWTH, GROWTH, 3, padding=1, **options)

    def __call__(
        self, x: Float[Array, "batch rows columns channels"], training: bool
    ) -> Float[Array, "batch rows columns grown"]:
        """Returns its input with the new channels behind."""
        y = self.conv1(jax.nn.relu(self.norm1(x, training)))
        y = self.conv2(jax.nn.relu(self.norm2(y, training)))
        return jnp.concatenate([x, y], axis=-1)


class DenseNet121(nnx.Module):
    """DenseNet-121 without its classifier: images to 1024 features."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        channels: int = 3,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_side("densenet121", image_size, 29)
        self.dtype = dtype
        options: dict[str, Any] = {"bias": False, "dtype": dtype, "rngs": rngs}
        width = 64
        layers: dict[str, Any] = {
            "conv0": conv(channels, width, 7, stride=2, padding=3, **options),
            "norm0": BatchNorm(width),
        }
        for i, count in enumerate(BLOCKS, start=1):
            block: dict[str, nnx.Module] = {}
            for j in range(count):
                block[f"denselayer{j + 1}"] = DenseLayer(width, dtype=dtype, rngs=rngs)
                width += GROWTH
            layers[f"denseblock{i}"] = nnx.Dict(block)
            if i < len(BLOCKS):
                layers[f"transition{i}"] = nnx.Dict(
                    {"norm": BatchNorm(width), "conv": conv(width, width // 2, 1, **options)}
                )
                width //= 2
        layers["norm5"] = BatchNorm(width)
        self.convolutions = nnx.Dict(layers)
        self.features = width

    def stem(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch new_rows new_columns 64"]:
        """What comes before the first dense block: a quarter of the rows and columns."""
        x = self.convolutions["conv0"](images.astype(self.dtype))
        return max_pool(jax.nn.relu(self.convolutions["norm0"](x, training)), 3, 2, padding=1)

    def block(
        self, i: int, x: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch rows columns grown"]:
        """Dense block `i`, counted from 1."""
        layers = self.convolutions[f"denseblock{i}"]
        for j in range(BLOCKS[i - 1]):
            x = layers[f"denselayer{j + 1}"](x, training)
        return x

    def last_map(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch _ _ features"]:
        """What the last norm gives, after ReLU: a thirty-second of the rows and columns."""
        x = self.stem(images, training)
        for i in range(1, len(BLOCKS) + 1):
            x = self.block(i, x, training)
            if i < len(BLOCKS):
                transition = self.convolutions[f"transition{i}"]
                x = transition["conv"](jax.nn.relu(transition["norm"](x, training)))
                x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        return jax.nn.relu(self.convolutions["norm5"](x, training))

    def from_map(
        self, last: Float[Array, "batch _ _ features"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch features"]:
        """Features from `last_map`: the means."""
        del key
        return jnp.mean(last, axis=(1, 2))

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features. A `key` means training: batch statistics, and the running ones updated."""
        return self.from_map(self.last_map(images, key is not None), key)
