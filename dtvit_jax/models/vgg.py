"""VGG16 (arXiv 1409.1556, configuration D), as torchvision's.

Modules are called as torchvision's, so that its weights need no table of names.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from dtvit_jax.models.layers import (
    adaptive_average_pool,
    check_rate,
    check_side,
    conv,
    dropout,
    flatten_as_torch,
    max_pool,
)

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the 3x3 convolutions; after each stage the image is halved."""


def _names() -> list[list[str]]:
    """torchvision's names of each stage's convolutions: it counts ReLU and pooling too."""
    names, index = [], 0
    for stage in STAGES:
        names.append([str(index + 2 * i) for i in range(len(stage))])
        index += 2 * len(stage) + 1
    return names


class VGG16(nnx.Module):
    """VGG16 without its last linear layer: images to 4096 features."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        channels: int = 3,
        dropout: float = 0.5,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_side("vgg16", image_size, 32)
        check_rate("dropout", dropout)
        self.features = 4096
        self.rate = dropout
        self.dtype = dtype
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        layers = {}
        width = channels
        for names, stage in zip(_names(), STAGES, strict=True):
            for name, out in zip(names, stage, strict=True):
                layers[name] = conv(width, out, 3, padding=1, **options)
                width = out
        self.convolutions = nnx.Dict(layers)
        self.classifier = nnx.Dict(
            {
                "0": nnx.Linear(512 * 7 * 7, 4096, **options),
                "3": nnx.Linear(4096, 4096, **options),
            }
        )

    def feature_maps(
        self, images: Float[Array, "batch rows columns channels"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """The output of each stage, half the side of the one before."""
        x = images.astype(self.dtype)
        maps = []
        for names in _names():
            for name in names:
                x = jax.nn.relu(self.convolutions[name](x))
            maps.append(x := max_pool(x, 2, 2))
        return maps

    def last_map(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch _ _ width"]:
        """The last of `feature_maps`; training is no different here."""
        del training
        return self.feature_maps(images)[-1]

    def from_map(
        self, last: Float[Array, "batch _ _ width"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch features"]:
        """Features from `last_map`. A `key` means training (dropout)."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = flatten_as_torch(adaptive_average_pool(last, 7))
        x = dropout(jax.nn.relu(self.classifier["0"](x)), self.rate, keys[0])
        return dropout(jax.nn.relu(self.classifier["3"](x)), self.rate, keys[1])

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features. A `key` means training (dropout)."""
        return self.from_map(self.last_map(images), key)
