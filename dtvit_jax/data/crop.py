"""Which square of a stored slice the model sees: its middle, or the head's box, magnified.

All in whole numbers, so that host and device find the same gray values.
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
"""Most by which the head's box is magnified: slices near the vertex show little of a head."""

FINE = 256
"""Parts of a pixel that interpolation tells apart: 255 * FINE**2 is exact in float32."""


@dataclasses.dataclass(frozen=True)
class Crop:
    """A square of `image_size` pixels a side.

    head: gray above which a pixel is head, whose box is then taken; None: the middle is.
    """

    image_size: int
    head: float | None = None

    def __post_init__(self) -> None:
        if self.head is not None:
            check_threshold(self.head)

    def place(self, images: Any, xp: Any = jnp) -> Int[Array | np.ndarray, "batch 3"]:
        """Top, left and side, in pixels of the stored slices [batch, size, size].

        The head's box is the smallest square around every pixel above `head`, of 1 / MAGNIFIED of
        `image_size` at least, moved into the slice; the middle where there is no such pixel.
        """
        size = images.shape[1]
        if self.head is None:
            start = round((size - self.image_size) / 2)  # as torchvision's center_crop
            return xp.tile(xp.asarray([start, start, self.image_size]), (len(images), 1))
        index = xp.arange(size)
        found = xp.asarray(images, "int32") > self.head
        ends = []
        for axis in (2, 1):
            line = found.max(axis)
            ends.append((xp.where(line, index, size).min(1), xp.where(line, index, -1).max(1)))
        (top, bottom), (left, right) = ends
        side = xp.maximum(bottom - top, right - left) + 1
        side = xp.clip(side, -(-self.image_size // MAGNIFIED), size)
        side = xp.where(top > bottom, self.image_size, side)
        starts = [_part(xp.clip(a + b + 1 - side, 0, 2 * (size - side)), 2) for a, b in ends]
        return xp.stack([*starts, side], axis=1)

    def __call__(
        self, images: UInt8[Array, "batch size size"]
    ) -> Int[Array, "batch image_size image_size"] | UInt8[Array, "batch image_size image_size"]:
        """The square of each slice, on the device; the head's by bilinear interpolation."""
        if self.head is None:
            return centre_crop(images, self.image_size)
        size, place = images.shape[1], self.place(images)

        def weights(start: Any) -> Array:
            low, high, part = _lines(start[:, None], place[:, 2, None], self.image_size, size, jnp)
            of_low, of_high = (each[..., None] == jnp.arange(size) for each in (low, high))
            part = part[..., None]
            found = jnp.where(of_low, FINE - part, 0) + jnp.where(of_high, part, 0)
            return found.astype(jnp.float32)

        rows, columns = weights(place[:, 0]), weights(place[:, 1])
        product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        x = product(product(rows, images.astype(jnp.float32)), columns.swapaxes(1, 2))
        return jnp.floor((x + FINE * FINE // 2) / FINE**2).astype(jnp.int32)

    def on_host(
        self, image: UInt8[np.ndarray, "size size"]
    ) -> UInt8[np.ndarray, "image_size image_size"]:
        """The same of one slice, by NumPy."""
        size = len(image)
        top, left, side = self.place(image[None], np)[0]
        if self.head is None:
            return image[top : top + side, left : left + side]
        x = image.astype(np.int32)
        for start in (top, left):
            low, high, part = _lines(start, side, self.image_size, size, np)
            x = (x[low] * (FINE - part[:, None]) + x[high] * part[:, None]).T
        return ((x + FINE * FINE // 2) // FINE**2).astype(np.uint8)


def check_threshold(gray: float) -> None:
    """Raises InputError for a config.tissue.threshold that no 8-bit slice has on both sides."""
    if not 0 <= gray < 255:
        raise InputError(f"config.tissue.threshold={gray}: give 0 up to 255")


def centre_crop(
    images: UInt8[Array, "batch height width"], size: int
) -> UInt8[Array, "batch size size"]:
    """The middle of each image, rounded as torchvision's center_crop does."""
    top, left = (round((side - size) / 2) for side in images.shape[1:])
    return images[:, top : top + size, left : left + size]


def _lines(start: Any, side: Any, n: int, size: int, xp: Any) -> tuple[Any, Any, Any]:
    """For each of `n` lines across `side` lines from `start`: both neighbours among `size`, and
    the second one's weight of FINE. A line lies at its middle, as in PIL and torchvision."""
    place = xp.clip(2 * n * start + (2 * xp.arange(n) + 1) * side - n, 0, 2 * n * (size - 1))
    low = _part(place, 2 * n)
    part = _part((place - 2 * n * low) * FINE + n, 2 * n)
    return low, xp.minimum(low + 1, size - 1), part


def _part(x: Any, of: int) -> Any:
    """x // of, for 0 or more."""
    if isinstance(x, jax.Array):  # jax2onnx 0.13 can't write `//`
        return jax.lax.div(x, jnp.full_like(x, of))
    return x // of
