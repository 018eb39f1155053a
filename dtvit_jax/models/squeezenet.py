"""SqueezeNet 1.0 and 1.1 (arXiv 1602.07360), as torchvision's.

Modules are called as torchvision's, so that its weights need no table of names.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from dtvit_jax.models.layers import check_side, conv, max_pool

POOLS = {"1_0": (2, 6, 11), "1_1": (2, 5, 8)}
"""Where, counting as torchvision does, the image is halved."""

WIDTHS = (16, 16, 32, 32, 48, 48, 64, 64)
"""Channels that each Fire module squeezes to; each of its two halves expands to four times."""


class Fire(nnx.Module):
    """Squeeze by 1x1, then expand by 1x1 and by 3x3 side by side."""

    def __init__(self, channels: int, width: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.squeeze = conv(channels, width, 1, **options)
        self.expand1x1 = conv(width, 4 * width, 1, **options)
        self.expand3x3 = conv(width, 4 * width, 3, padding=1, **options)

    def __call__(
        self, x: Float[Array, "batch rows columns channels"]
    ) -> Float[Array, "batch rows columns expanded"]:
        x = jax.nn.relu(self.squeeze(x))
        both = jnp.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=-1)
        return jax.nn.relu(both)


class SqueezeNet(nnx.Module):
    """SqueezeNet without its 1x1 classifier: images to 512 features, the last map's means."""

    def __init__(
        self,
        version: str,
        *,
        image_size: int = 224,
        channels: int = 3,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_side(f"squeezenet{version}", image_size, 21 if version == "1_0" else 17)
        self.features = 512
        self.pools = POOLS[version]
        self.dtype = dtype
        first, side = (96, 7) if version == "1_0" else (64, 3)
        layers: dict[str, nnx.Module] = {
            "0": conv(channels, first, side, stride=2, dtype=dtype, rngs=rngs)
        }
        width = first
        for index, squeezed in zip(self._fires(), WIDTHS, strict=True):
            layers[str(index)] = Fire(width, squeezed, dtype=dtype, rngs=rngs)
            width = 8 * squeezed
        self.convolutions = nnx.Dict(layers)

    def _fires(self) -> list[int]:
        return [i for i in range(3, 13) if i not in self.pools]

    def feature_maps(
        self, images: Float[Array, "batch rows columns channels"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """The output of the first pooling and of each Fire module."""
        x = jax.nn.relu(self.convolutions["0"](images.astype(self.dtype)))
        maps = [x := max_pool(x, 3, 2, ceil=True)]
        for index in self._fires():
            if index - 1 in self.pools[1:]:
                x = max_pool(x, 3, 2, ceil=True)
            maps.append(x := self.convolutions[str(index)](x))
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
        """Features from `last_map`: the means; the heads have the dropout."""
        del key
        return jnp.mean(last, axis=(1, 2))

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features; training (a `key`) is no different here: the heads have the dropout."""
        return self.from_map(self.last_map(images), key)
