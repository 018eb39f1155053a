"""VGG16 (arXiv 1409.1556, configuration D), with torchvision's layers."""

from typing import Unpack

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from dtvit_jax.models.cnn import PlainCNN
from dtvit_jax.models.layers import (
    Conv,
    LayerOptions,
    adaptive_average_pool,
    check_rate,
    dropout,
    flatten_as_torch,
)

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the 3x3 convolutions; after each stage a pooling halves the map."""


def _names() -> list[list[str]]:
    """torchvision's names of each stage's convolutions: its index counts ReLU and pooling too."""
    names, index = [], 0
    for stage in STAGES:
        names.append([str(index + 2 * i) for i in range(len(stage))])
        index += 2 * len(stage) + 1
    return names


class VGG16(PlainCNN):
    """VGG16 without its last linear layer: images to 4096 features."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        channels: int = 3,
        dropout: float = 0.5,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__("vgg16", 4096, image_size, 32, **options)
        check_rate("dropout", dropout)
        self.rate = dropout
        layers = {}
        width = channels
        for names, stage in zip(_names(), STAGES, strict=True):
            for name, out in zip(names, stage, strict=True):
                layers[name] = Conv(width, out, 3, padding=1, **options)
                width = out
        self.convolutions = nnx.Dict(layers)
        dtype, rngs = options["dtype"], options["rngs"]
        self.classifier = nnx.Dict(
            {
                "0": nnx.Linear(512 * 7 * 7, 4096, dtype=dtype, rngs=rngs),
                "3": nnx.Linear(4096, 4096, dtype=dtype, rngs=rngs),
            }
        )

    def feature_maps(
        self, images: Float[Array, "batch rows columns channels"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """The output of each stage, half the side of the previous one."""
        x = images.astype(self.dtype)
        maps = []
        for names in _names():
            for name in names:
                x = jax.nn.relu(self.convolutions[name](x))
            maps.append(x := self.max_pool(x, 2, 2))
        return maps

    def from_map(
        self, last: Float[Array, "batch _ _ 512"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch 4096"]:
        """Features from `last_map`: means of 7 x 7 cells, then two linear layers."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = flatten_as_torch(adaptive_average_pool(last, 7))  # [batch, 25088]
        x = dropout(jax.nn.relu(self.classifier["0"](x)), self.rate, keys[0])
        return dropout(jax.nn.relu(self.classifier["3"](x)), self.rate, keys[1])
