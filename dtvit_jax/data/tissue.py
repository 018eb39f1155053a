"""Which patches of a slice hold tissue, told on the host before the slice reaches the device."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from data_builder.errors import InputError
from dtvit_jax.data.augment import PARAMETERS
from dtvit_jax.data.crop import Crop, check_threshold

SLACK = 0.005
"""Pixels that host and device may differ by on where a pixel comes from, with a reserve."""


@dataclasses.dataclass(frozen=True)
class Tissue:
    """The rule: a patch counts where a pixel in it, or within `margin` pixels, is tissue.

    Tissue is gray above `threshold` in the transformed slice, before the windows.
    """

    image_size: int
    patch: int
    threshold: float
    margin: int
    head: bool = False  # of the head's box, which the same threshold finds; else of the middle

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.margin < 0:
            raise InputError(f"config.tissue.margin={self.margin}: give 0 or more pixels")

    @property
    def patches(self) -> int:
        """Patches of a whole slice."""
        return (self.image_size // self.patch) ** 2

    def kept(
        self, image: UInt8[np.ndarray, "size size"], parameters: np.ndarray | None = None
    ) -> Bool[np.ndarray, " patches"]:
        """The patches, row by row, of the model's input from a stored slice.

        Without `parameters` (a row of augment.PARAMETERS) exactly those of the rule. With them no
        fewer, and a few more: every pixel counts that the device might take, however it rounds,
        and that its sharpening might lift above the threshold.
        """
        size, threshold = self.image_size, self.threshold
        gray = Crop(size, threshold if self.head else None).on_host(image)
        if parameters is not None:
            given = dict(zip(PARAMETERS, map(float, parameters), strict=True))
            gray = _warp(gray, given)
            # sharpened is f p + (1 - f) blur: below f p for f >= 1, between p and blur for f < 1
            threshold /= max(given["sharpness"], 1) * given["gain"]
            if given["sharpness"] < 1:
                gray = _dilate(gray, 1)
        if self.margin:
            gray = _dilate(gray, self.margin)
        side = size // self.patch
        rows = gray.reshape(side, self.patch, size).max(axis=1)
        found = np.maximum.reduceat(rows, np.arange(0, size, self.patch), axis=1)
        return (found > threshold).reshape(-1)

    def level(
        self, windows: Sequence[Any], mean: Sequence[float], std: Sequence[float]
    ) -> tuple[int, float, int]:
        """The rule on the model's own input: channel, value and margin (`ViT`'s option tissue).

        Raises InputError where no channel's window shows the threshold.
        """
        gray = math.floor(self.threshold) + 0.5  # stored gray is whole: between two of its values
        for channel, (low, high) in enumerate(windows):
            if low < gray < high:
                return (
                    channel,
                    ((gray - low) / (high - low) - mean[channel]) / std[channel],
                    (self.margin),
                )
        raise InputError(
            f"config.tissue.threshold={self.threshold}: no channel of config.windows shows gray "
            f"{gray}, so the model can't tell tissue from air: give one such as (0, 255)"
        )


def _dilate(
    gray: UInt8[np.ndarray, "rows columns"], reach: int
) -> UInt8[np.ndarray, "rows columns"]:
    """The largest value within `reach` pixels, in both directions."""
    return cv2.dilate(gray, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))


def _warp(
    gray: UInt8[np.ndarray, "size size"], given: dict[str, float]
) -> UInt8[np.ndarray, "size size"]:
    """The largest value that `augment.rotate` could take for each pixel.

    OpenCV rounds coordinates to 1/1024 of a pixel and the device computes them in float32: so the
    nearest pixel is taken four times, from a little to each side.
    """
    size = len(gray)
    centre = (size - 1) / 2
    angle = math.radians(given["angle"])
    cosine, sine = math.cos(angle) / given["scale"], math.sin(angle) / given["scale"]
    mirror = 1 - 2 * given["flip"]
    x, y = centre + given["shift_x"] * size, centre + given["shift_y"] * size
    inverse = np.array(
        [
            [mirror * cosine, -mirror * sine, centre - mirror * (cosine * x - sine * y)],
            [sine, cosine, centre - (sine * x + cosine * y)],
        ]
    )
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    largest = np.zeros_like(gray)
    for side in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        moved = inverse.copy()
        moved[:, 2] += SLACK * np.array(side)
        np.maximum(largest, cv2.warpAffine(gray, moved, (size, size), flags=flags), out=largest)
    return largest
