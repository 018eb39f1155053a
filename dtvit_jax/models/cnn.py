"""What the five CNNs have in common: images to a last feature map, and that map to features.

Modules have torchvision's names, so that its weight files need no table of names.
"""

from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from data_builder.errors import InputError
from dtvit_jax.models.layers import LayerOptions, max_pool


class CNN(nnx.Module):
    """A CNN without its classifier; a subclass adds its layers and `last_map`.

    Attributes:
        features: width of the feature vector.
        kernels, dtype: as in `LayerOptions`.
    """

    def __init__(
        self,
        name: str,
        features: int,
        image_size: int,
        smallest: int,
        **options: Unpack[LayerOptions],
    ) -> None:
        """Raises InputError where images are below `smallest` pixels a side: the map is empty."""
        if image_size < smallest:
            raise InputError(
                f"image size {image_size}: {name} needs at least {smallest} pixels a side"
            )
        self.features = features
        self.kernels, self.dtype = options["kernels"], options["dtype"]

    def max_pool(
        self,
        x: Float[Array, "batch rows columns channels"],
        side: int,
        stride: int,
        padding: int = 0,
        ceil: bool = False,
    ) -> Float[Array, "batch new_rows new_columns channels"]:
        """`layers.max_pool` in this model's form."""
        return max_pool(x, side, stride, padding, ceil, self.kernels)

    def last_map(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch map_rows map_columns width"]:
        """The last feature map; `training` uses batch statistics and updates the running ones."""
        raise NotImplementedError

    def from_map(
        self,
        last: Float[Array, "batch map_rows map_columns width"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features from `last_map`: the mean over rows and columns. `key`: dropout, in training."""
        del key
        return jnp.mean(last, axis=(1, 2))

    def __call__(
        self,
        images: Float[Array, "batch rows columns channels"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features; a `key` in training (dropout, batch statistics), None in inference."""
        return self.from_map(self.last_map(images, key is not None), key)


class PlainCNN(CNN):
    """A CNN without batch statistics: its maps are the same in training and inference."""

    def feature_maps(
        self, images: Float[Array, "batch rows columns channels"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """Maps from the first to the last; the subclass says which."""
        raise NotImplementedError

    def last_map(
        self, images: Float[Array, "batch rows columns channels"], training: bool = False
    ) -> Float[Array, "batch map_rows map_columns width"]:
        """The last of `feature_maps`, in training too."""
        del training
        return self.feature_maps(images)[-1]
