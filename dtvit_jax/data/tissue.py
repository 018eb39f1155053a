"""Finds the patches of a slice that hold tissue, on the host, before it reaches the device."""

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
"""Largest difference between host and device in a source coordinate, in pixels, with a reserve."""


@dataclasses.dataclass(frozen=True)
class Tissue:
    """The rule: a patch is kept if a pixel of it, or within `margin` pixels of it, is tissue.

    Tissue is gray above `threshold` in the transformed slice, before the windows. Raises InputError
    for a threshold outside 0 to 254, or a margin below 0.
    """

    image_size: int
    patch: int  # pixels a side
    threshold: float  # gray value, config.tissue.threshold
    margin: int  # pixels, config.tissue.margin
    head_crop: bool = False  # config.crop='head': the head's box, by the same threshold

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.margin < 0:
            raise InputError(f"config.tissue.margin={self.margin}: give 0 or more pixels")

    @property
    def patches(self) -> int:
        """Patches of a slice, kept or not."""
        return (self.image_size // self.patch) ** 2

    def kept(
        self, image: UInt8[np.ndarray, "size size"], parameters: np.ndarray | None = None
    ) -> Bool[np.ndarray, " patches"]:
        """Returns which patches of the model's input are kept, row by row, for a stored slice.

        Without `parameters` (a row of augment.PARAMETERS) exactly those of the rule. With them
        those and a few more: all pixels count that the device could take, however it rounds, or
        that its sharpening could raise above the threshold.
        """
        size, threshold = self.image_size, self.threshold
        gray = Crop(size, threshold if self.head_crop else None).on_host(image)
        if parameters is not None:
            value_of = dict(zip(PARAMETERS, map(float, parameters), strict=True))
            gray = _warp(gray, value_of)
            # A sharpened pixel is f p + (1 - f) blur: at most f p for f >= 1, between p and blur
            # for f < 1.
            threshold /= max(value_of["sharpness"], 1) * value_of["gain"]
            if value_of["sharpness"] < 1:
                gray = _dilate(gray, 1)
        if self.margin:
            gray = _dilate(gray, self.margin)
        side = size // self.patch
        rows = gray.reshape(side, self.patch, size).max(axis=1)
        largest = np.maximum.reduceat(rows, np.arange(0, size, self.patch), axis=1)
        return (largest > threshold).reshape(-1)

    def of_input(
        self, windows: Sequence[Any], mean: Sequence[float], std: Sequence[float]
    ) -> tuple[int, float, int]:
        """Returns the rule for the model's input, `ViT`'s option tissue: channel, value, margin.

        Raises InputError if the threshold is in no channel's window.
        """
        # between two stored gray values, which are integers
        gray = math.floor(self.threshold) + 0.5
        for channel, (low, high) in enumerate(windows):
            if low < gray < high:
                value = ((gray - low) / (high - low) - mean[channel]) / std[channel]
                return channel, value, self.margin
        raise InputError(
            f"config.tissue.threshold={self.threshold}: no channel of config.windows shows gray "
            f"{gray}, so the model can't tell tissue from air: give one such as (0, 255)"
        )


def _dilate(
    gray: UInt8[np.ndarray, "rows columns"], reach: int
) -> UInt8[np.ndarray, "rows columns"]:
    """Returns for each pixel the largest value within `reach` rows and columns."""
    return cv2.dilate(gray, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))


def _warp(
    gray: UInt8[np.ndarray, "size size"], value_of: dict[str, float]
) -> UInt8[np.ndarray, "size size"]:
    """Returns for each pixel the largest value that `augment.warp` could give.

    OpenCV rounds coordinates to 1/1024 of a pixel and the device computes them in float32. The
    nearest pixel is therefore taken four times, with coordinates moved by SLACK in each diagonal.
    """
    size = len(gray)
    centre = (size - 1) / 2
    angle = math.radians(value_of["angle"])
    cosine, sine = math.cos(angle) / value_of["scale"], math.sin(angle) / value_of["scale"]
    mirror = 1 - 2 * value_of["flip"]
    x, y = centre + value_of["shift_x"] * size, centre + value_of["shift_y"] * size
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
