"""A slice in Hounsfield units -> an 8-bit image of the head alone. Pure functions, no files."""

import math
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from data_builder.cleaning.holder import holder_mask

Mode = Literal["robust", "paper"]
MODES: tuple[Mode, ...] = ("robust", "paper")
VERSION = 2
"""Raised by every change that alters a pixel of any cleaned slice."""

WINDOW = (0.0, 80.0)
"""HU that become 0 and 255."""

_THICKER_MM = 4.5  # half of what is thicker than any shell of a holder
_CANAL_MM = 3.5  # half the width of an ear canal or nostril, which is closed
_SMALLEST_MM2 = 100.0  # of a head's section
_EDGE_HU = -480.0  # half way from air to skin: where partial volume puts the head's true edge


def clean_slice(
    hu: Float32[np.ndarray, "rows columns"],
    mode: Mode = "robust",
    spacing_mm: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "rows columns"]:
    """The head in its window, all else 0.

    `spacing_mm` is the distance of rows and of columns (0028,0030); None or nan: guessed from the
    matrix (see `head_mask`). The image is all 0 where no head is found.
    """
    gray = window(hu) if mode == "robust" else _paper_window(hu)
    gray[~head_mask(hu, mode, spacing_mm)] = 0
    return gray


def head_mask(
    hu: Float32[np.ndarray, "rows columns"],
    mode: Mode = "robust",
    spacing_mm: tuple[float, float] | None = None,
) -> Bool[np.ndarray, "rows columns"]:
    """True on the head, with its air spaces; all False where a slice shows none.

    Without `spacing_mm` the field is taken to be 240 mm wide, as is usual for a head.
    """
    masks: dict[str, Callable[[], np.ndarray]] = {
        "robust": lambda: _robust_mask(hu, _spacing(hu.shape, spacing_mm)),
        "paper": lambda: _paper_mask(_paper_window(hu)),
    }
    return masks[mode]()


def window(hu: Float32[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns"]:
    """[0, 80] HU to 0..255, rounded (half to even); the same for every slice."""
    low, high = WINDOW
    scaled = np.clip(hu, low, high)
    scaled -= low
    scaled *= 255 / (high - low)
    return np.rint(scaled).astype(np.uint8)


def _spacing(shape: tuple[int, ...], given: tuple[float, float] | None) -> tuple[float, float]:
    guess = 240 / max(shape)
    if given is None or not all(math.isfinite(mm) and mm > 0 for mm in given):
        return guess, guess
    return given


# The paper's mode: the ten steps of the published notebook, its quirks included.


def _paper_window(hu: np.ndarray) -> np.ndarray:
    """Steps 1 and 2: clipped to [0, 80] HU, then this slice's own range to 0..255, truncated."""
    clipped = np.clip(np.asarray(hu, np.float64), *WINDOW)
    low, high = clipped.min(), clipped.max()
    if high == low:
        return np.zeros(hu.shape, np.uint8)
    return ((clipped - low) / (high - low) * 255).astype(np.uint8)


def _paper_mask(gray: np.ndarray) -> np.ndarray:
    """Steps 3 to 9. `skimage.morphology.disk(3)` is what `_disk(3)` makes, pixel for pixel."""
    disk = _disk(3.0)
    # Outside the image counts as unset for a dilation and as set for an erosion (scikit-image).
    mask = cv2.erode((gray > 3).astype(np.uint8), disk)
    contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if contours:
        largest = max(range(len(contours)), key=lambda i: cv2.contourArea(contours[i]))
        others = [contour for i, contour in enumerate(contours) if i != largest]
        cv2.drawContours(mask, others, -1, 0, cv2.FILLED)
    mask = cv2.dilate(mask, disk)
    mask[:, 0] = mask[:, -1] = 0
    seed = (min(1, mask.shape[1] - 1), min(1, mask.shape[0] - 1))
    outside = mask.copy()
    cv2.floodFill(outside, None, seed, 255, flags=4)
    return outside != 255


def _disk(radius: float) -> np.ndarray:
    """All pixels within `radius` of the middle one."""
    reach = int(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


# The robust mode.


def _robust_mask(hu: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Tissue without the holder's shells; its largest part, closed and filled."""
    pixel_mm = math.sqrt(spacing_mm[0] * spacing_mm[1])
    tissue = (hu > _EDGE_HU).astype(np.uint8)
    core = _core(tissue, pixel_mm)
    if core is None:
        return np.zeros(hu.shape, bool)
    holder = holder_mask(hu, tissue, core, pixel_mm)
    tissue[holder] = 0
    head = _largest(tissue)
    return _filled(_closed(head, _CANAL_MM / pixel_mm)) > 0


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """The mask with gaps under twice the radius closed, but not those to the image's edge.

    Gaps are found at half the resolution, for speed; the mask's own edge stays as it is.
    """
    rows, columns = mask.shape
    reach = int(radius / 2) + 2
    small = cv2.resize(mask * 255, (-(-columns // 2), -(-rows // 2)), interpolation=cv2.INTER_AREA)
    small = (small == 255).astype(np.uint8)
    framed = cv2.copyMakeBorder(small, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, _disk(radius / 2))[
        reach:-reach, reach:-reach
    ]
    gaps = cv2.resize(closed - small, (columns, rows), interpolation=cv2.INTER_NEAREST)
    return mask | gaps


def _core(tissue: np.ndarray, pixel_mm: float) -> tuple[float, float] | None:
    """The middle (x, y) of the largest part that is thicker than any holder; None without one."""
    factor = max(1, round(1.0 / pixel_mm))
    size = (tissue.shape[1] // factor, tissue.shape[0] // factor)
    small = cv2.resize(tissue, size, interpolation=cv2.INTER_AREA)
    opened = cv2.morphologyEx(small, cv2.MORPH_OPEN, _disk(_THICKER_MM / (pixel_mm * factor)))
    contours, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    moments = [cv2.moments(contour) for contour in contours]
    largest = max(moments, key=lambda m: m["m00"], default={"m00": 0.0})
    if largest["m00"] * (pixel_mm * factor) ** 2 < _SMALLEST_MM2:
        return None
    x, y = (largest[name] / largest["m00"] for name in ("m10", "m01"))
    return (x + 0.5) * factor - 0.5, (y + 0.5) * factor - 0.5


def _largest(mask: np.ndarray) -> np.ndarray:
    """The part that takes up most room, filled."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)
    return cv2.drawContours(np.zeros_like(mask), [largest], -1, 1, cv2.FILLED)


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask and all that it encloses."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(mask), contours, -1, 1, cv2.FILLED)
