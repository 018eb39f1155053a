"""SqueezeNet 1.0 and 1.1 (arXiv 1602.07360), with torchvision's layers."""

from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dtvit_jax.models.cnn import PlainCNN
from dtvit_jax.models.layers import Conv, LayerOptions

POOLS = {"1_0": (2, 6, 11), "1_1": (2, 5, 8)}
"""torchvision's indices of the layers that halve the map, for each version."""

WIDTHS = (16, 16, 32, 32, 48, 48, 64, 64)
"""Channels that each Fire module squeezes to; each of its two halves expands to four times."""


class Fire(nnx.Module):
    """Squeezes by a 1x1 convolution, then expands by a 1x1 and a 3x3, joined by channels."""

    def __init__(self, channels: int, width: int, **options: Unpack[LayerOptions]) -> None:
        self.squeeze = Conv(channels, width, 1, **options)
        self.expand1x1 = Conv(width, 4 * width, 1, **options)
        self.expand3x3 = Conv(width, 4 * width, 3, padding=1, **options)

    def __call__(
        self, x: Float[Array, "batch rows columns channels"]
    ) -> Float[Array, "batch rows columns expanded"]:
        x = jax.nn.relu(self.squeeze(x))
        both = jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1)
        return jax.nn.relu(both)  # expanded = 8 width


class SqueezeNet(PlainCNN):
    """SqueezeNet without its 1x1 classifier: images to 512 features, the last map's means.

    torchvision's dropout comes after them; here it is in the heads.
    """

    def __init__(
        self,
        version: str,
        *,
        image_size: int = 224,
        channels: int = 3,
        **options: Unpack[LayerOptions],
    ) -> None:
        smallest = 21 if version == "1_0" else 17
        super().__init__(f"squeezenet{version}", 512, image_size, smallest, **options)
        self.pools = POOLS[version]
        width, side = (96, 7) if version == "1_0" else (64, 3)
        layers: dict[str, nnx.Module] = {"0": Conv(channels, width, side, stride=2, **options)}
        for index, squeezed in zip(self._fires(), WIDTHS, strict=True):
            layers[str(index)] = Fire(width, squeezed, **options)
            width = 8 * squeezed
        self.convolutions = nnx.Dict(layers)

    def _fires(self) -> list[int]:
        """torchvision's indices of the eight Fire modules."""
        return [i for i in range(3, 13) if i not in self.pools]

    def feature_maps(
        self, images: Float[Array, "batch rows columns channels"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """The output of the first pooling and of each Fire module."""
        x = jax.nn.relu(self.convolutions["0"](images.astype(self.dtype)))
        maps = [x := self.max_pool(x, 3, 2, ceil=True)]
        for index in self._fires():
            if index - 1 in self.pools[1:]:
                x = self.max_pool(x, 3, 2, ceil=True)
            maps.append(x := self.convolutions[str(index)](x))
        return maps
