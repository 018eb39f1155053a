"""AlexNet (arXiv 1404.5997, the 'one weird trick' variant), with torchvision's layers."""

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


class AlexNet(PlainCNN):
    """AlexNet without its last linear layer: images to 4096 features."""

    def __init__(
        self,
        *,
        image_size: int = 224,
        channels: int = 3,
        dropout: float = 0.5,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__("alexnet", 4096, image_size, 63, **options)
        check_rate("dropout", dropout)
        self.rate = dropout
        self.convolutions = nnx.Dict(
            {
                "0": Conv(channels, 64, 11, stride=4, padding=2, **options),
                "3": Conv(64, 192, 5, padding=2, **options),
                "6": Conv(192, 384, 3, padding=1, **options),
                "8": Conv(384, 256, 3, padding=1, **options),
                "10": Conv(256, 256, 3, padding=1, **options),
            }
        )
        dtype, rngs = options["dtype"], options["rngs"]
        self.classifier = nnx.Dict(
            {
                "1": nnx.Linear(256 * 6 * 6, 4096, dtype=dtype, rngs=rngs),
                "4": nnx.Linear(4096, 4096, dtype=dtype, rngs=rngs),
            }
        )

    def feature_maps(
        self, images: Float[Array, "batch rows columns channels"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """The output of each of the three poolings: 64, 192 and 256 channels."""
        layers = self.convolutions
        maps = [self.max_pool(jax.nn.relu(layers["0"](images.astype(self.dtype))), 3, 2)]
        maps.append(self.max_pool(jax.nn.relu(layers["3"](maps[-1])), 3, 2))
        x = jax.nn.relu(layers["6"](maps[-1]))
        x = jax.nn.relu(layers["8"](x))
        return [*maps, self.max_pool(jax.nn.relu(layers["10"](x)), 3, 2)]

    def from_map(
        self, last: Float[Array, "batch _ _ 256"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "batch 4096"]:
        """Features from `last_map`: means of 6 x 6 cells, then two linear layers."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        linear = self.classifier
        x = flatten_as_torch(adaptive_average_pool(last, 6))  # [batch, 9216]
        x = dropout(x, self.rate, keys[0])
        x = dropout(jax.nn.relu(linear["1"](x)), self.rate, keys[1])
        return jax.nn.relu(linear["4"](x))
