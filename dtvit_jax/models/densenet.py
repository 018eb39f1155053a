"""DenseNet-121 (arXiv 1608.06993, DenseNet-BC), with torchvision's layers."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dtvit_jax.models.cnn import CNN
from dtvit_jax.models.layers import BatchNorm, Conv, LayerOptions, average_pool

GROWTH = 32
"""Channels that each layer adds (k in the paper)."""
BLOCKS = (6, 12, 24, 16)
"""Layers in each of the four dense blocks (Table 1)."""


class DenseLayer(nnx.Module):
    """Norm, ReLU, 1x1 to 4 * GROWTH channels; norm, ReLU, 3x3 to GROWTH new channels."""

    def __init__(self, channels: int, **options: Unpack[LayerOptions]) -> None:
        self.norm1 = BatchNorm(channels)
        self.conv1 = Conv(channels, 4 * GROWTH, 1, bias=False, **options)
        self.norm2 = BatchNorm(4 * GROWTH)
        self.conv2 = Conv(4 * GROWTH, GROWTH, 3, padding=1, bias=False, **options)

    def __call__(
        self, x: Float[Array, "batch rows columns channels"], training: bool
    ) -> Float[Array, "batch rows columns grown"]:
        """Returns `x` with the new channels behind its own."""
        y = self.conv1(jax.nn.relu(self.norm1(x, training)))
        y = self.conv2(jax.nn.relu(self.norm2(y, training)))
        return jnp.concatenate([x, y], axis=-1)


class DenseNet121(CNN):
    """DenseNet-121 without its classifier: images to 1024 features."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        channels: int = 3,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__("densenet121", 1024, image_size, 29, **options)
        width = 64
        layers: dict[str, Any] = {
            "conv0": Conv(channels, width, 7, stride=2, padding=3, bias=False, **options),
            "norm0": BatchNorm(width),
        }
        for i, count in enumerate(BLOCKS, start=1):
            block: dict[str, nnx.Module] = {}
            for j in range(count):
                block[f"denselayer{j + 1}"] = DenseLayer(width, **options)
                width += GROWTH
            layers[f"denseblock{i}"] = nnx.Dict(block)
            if i < len(BLOCKS):
                conv = Conv(width, width // 2, 1, bias=False, **options)
                layers[f"transition{i}"] = nnx.Dict({"norm": BatchNorm(width), "conv": conv})
                width //= 2
        layers["norm5"] = BatchNorm(width)
        self.convolutions = nnx.Dict(layers)

    def stem(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch new_rows new_columns 64"]:
        """The input of the first dense block: a quarter of the rows and columns."""
        x = self.convolutions["conv0"](images.astype(self.dtype))
        x = jax.nn.relu(self.convolutions["norm0"](x, training))
        return self.max_pool(x, 3, 2, padding=1)

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
    ) -> Float[Array, "batch map_rows map_columns 1024"]:
        """The last norm's output after ReLU: a thirty-second of the rows and columns."""
        x = self.stem(images, training)
        for i in range(1, len(BLOCKS) + 1):
            x = self.block(i, x, training)
            if i < len(BLOCKS):
                transition = self.convolutions[f"transition{i}"]
                x = transition["conv"](jax.nn.relu(transition["norm"](x, training)))
                x = average_pool(x, 2)
        return jax.nn.relu(self.convolutions["norm5"](x, training))
