"""AlexNet (arXiv 1404.5997, the 'one weird trick' variant), as torchvision's.

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


class AlexNet(nnx.Module):
    """AlexNet without its last linear layer: images to 4096 features."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        channels: int = 3,
        dropout: float = 0.5,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_side("alexnet", image_size, 63)
        check_rate("dropout", dropout)
        self.features = 4096
        self.rate = dropout
        self.dtype = dtype
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.convolutions = nnx.Dict(
            {
                "0": conv(channels, 64, 11, stride=4, padding=2, **options),
                "3": conv(64, 192, 5, padding=2, **options),
                "6": conv(192, 384, 3, padding=1, **options),
                "8": conv(384, 256, 3, padding=1, **options),
                "10": conv(256, 256, 3, padding=1, **options),
            }
        )
        self.classifier = nnx.Dict(
            {
                "1": nnx.Linear(256 * 6 * 6, 4096, **options),
                "4": nnx.Linear(4096, 4096, **options),
            }
        )

    def feature_maps(
        self, images: Float[Array, "batch rows columns channels"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """The output of each of the three poolings."""
        layers = self.convolutions
        maps = [max_pool(jax.nn.relu(layers["0"](images.astype(self.dtype))), 3, 2)]
        maps.append(max_pool(jax.nn.relu(layers["3"](maps[-1])), 3, 2))
        x = jax.nn.relu(layers["6"](maps[-1]))
        x = jax.nn.relu(layers["8"](x))
        return [*maps, max_pool(jax.nn.relu(layers["10"](x)), 3, 2)]

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
        linear = self.classifier
        x = flatten_as_torch(adaptive_average_pool(last, 6))
        x = dropout(x, self.rate, keys[0])
        x = dropout(jax.nn.relu(linear["1"](x)), self.rate, keys[1])
        return jax.nn.relu(linear["4"](x))

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features. A `key` means training (dropout)."""
        return self.from_map(self.last_map(images), key)
