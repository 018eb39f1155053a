"""Crops stored slices to the square that the model sees: the centre, or the head's box resized.

All arithmetic is in integers, so that host and device compute the same gray values.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from data_builder.errors import InputError

MAGNIFIED = 2
"""Largest magnification of the head's box: slices near the vertex show little of the head."""

FINE = 256
"""Steps of interpolation between two pixels: 255 * FINE**2 is exact in float32."""


@dataclasses.dataclass(frozen=True)
class Crop:
    """Crops slices to `image_size` pixels a side.

    Attributes:
      image_size: pixels a side of the result.
      head_threshold: gray value above which a pixel belongs to the head, whose box is cropped;
        None: the centre is cropped. Raises InputError for a value outside 0 to 254
        (`check_threshold`).
    """

    image_size: int
    head_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.head_threshold is not None:
            check_threshold(self.head_threshold)

    def place(self, images: Any, xp: Any = jnp) -> Int[Array | np.ndarray, "batch 3"]:
        """Returns top, left and side of the crop, in pixels of the stored slices.

        The head's box is the smallest square around all pixels above the threshold, at least
        image_size / MAGNIFIED a side, moved into the slice. A slice without such a pixel is
        cropped to its centre.

        Args:
          images: [batch, size, size].
          xp: the array library, jax.numpy or numpy.
        """
        size = images.shape[1]
        if self.head_threshold is None:
            start = round((size - self.image_size) / 2)  # as torchvision's center_crop
            return xp.tile(xp.asarray([start, start, self.image_size]), (len(images), 1))
        index = xp.arange(size)
        in_head = xp.asarray(images, "int32") > self.head_threshold
        ends = []
        for axis in (2, 1):
            occupied = in_head.max(axis)
            first = xp.where(occupied, index, size).min(1)
            ends.append((first, xp.where(occupied, index, -1).max(1)))
        (top, bottom), (left, right) = ends
        side = xp.maximum(bottom - top, right - left) + 1
        side = xp.clip(side, -(-self.image_size // MAGNIFIED), size)
        side = xp.where(top > bottom, self.image_size, side)
        starts = [_divide(xp.clip(a + b + 1 - side, 0, 2 * (size - side)), 2) for a, b in ends]
        return xp.stack([*starts, side], axis=1)

    def __call__(
        self, images: UInt8[Array, "batch size size"]
    ) -> Int[Array, "batch image_size image_size"] | UInt8[Array, "batch image_size image_size"]:
        """Crops slices on the device; the head's box is resized by bilinear interpolation."""
        if self.head_threshold is None:
            return centre_crop(images, self.image_size)
        size, place = images.shape[1], self.place(images)

        def weights(start: Any) -> Array:
            """Interpolation as a matrix [batch, image_size, size]."""
            low, high, weight = _sampling(
                start[:, None], place[:, 2, None], self.image_size, size, jnp
            )
            is_low, is_high = (line[..., None] == jnp.arange(size) for line in (low, high))
            weight = weight[..., None]
            matrix = jnp.where(is_low, FINE - weight, 0) + jnp.where(is_high, weight, 0)
            return matrix.astype(jnp.float32)

        rows, columns = weights(place[:, 0]), weights(place[:, 1])
        product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        x = product(product(rows, images.astype(jnp.float32)), columns.swapaxes(1, 2))
        return jnp.floor((x + FINE * FINE // 2) / FINE**2).astype(jnp.int32)

    def on_host(
        self, image: UInt8[np.ndarray, "size size"]
    ) -> UInt8[np.ndarray, "image_size image_size"]:
        """Crops one slice with NumPy, to the same gray values as on the device."""
        size = len(image)
        top, left, side = self.place(image[None], np)[0]
        if self.head_threshold is None:
            return image[top : top + side, left : left + side]
        x = image.astype(np.int32)
        for start in (top, left):
            low, high, weight = _sampling(start, side, self.image_size, size, np)
            x = (x[low] * (FINE - weight[:, None]) + x[high] * weight[:, None]).T
        return ((x + FINE * FINE // 2) // FINE**2).astype(np.uint8)


def check_threshold(gray: float) -> None:
    """Raises InputError for a config.tissue.threshold above or below all 8-bit gray values."""
    if not 0 <= gray < 255:
        raise InputError(f"config.tissue.threshold={gray}: give 0 up to 255")


def centre_crop(
    images: UInt8[Array, "batch height width"], size: int
) -> UInt8[Array, "batch size size"]:
    """Crops each image to its centre, rounded as torchvision's center_crop."""
    top, left = (round((side - size) / 2) for side in images.shape[1:])
    return images[:, top : top + size, left : left + size]


def _sampling(start: Any, side: Any, n: int, size: int, xp: Any) -> tuple[Any, Any, Any]:
    """Returns where each of `n` lines, spread over `side` lines from `start`, samples `size` lines.

    The two neighbours of each, and the weight of the second, 0 to FINE. A line's coordinate is its
    middle, as in PIL and torchvision.
    """
    # In units of 1 / (2 n) of a stored line, in which all coordinates are integers.
    at = xp.clip(2 * n * start + (2 * xp.arange(n) + 1) * side - n, 0, 2 * n * (size - 1))
    low = _divide(at, 2 * n)
    weight = _divide((at - 2 * n * low) * FINE + n, 2 * n)
    return low, xp.minimum(low + 1, size - 1), weight


def _divide(x: Any, divisor: int) -> Any:
    """Returns x // divisor, for x of 0 or more."""
    if isinstance(x, jax.Array):  # jax2onnx 0.13 can't export `//`
        return jax.lax.div(x, jnp.full_like(x, divisor))
    return x // divisor
