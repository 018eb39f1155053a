"""Cleans a slice: Hounsfield units to an 8-bit image of the head alone, without files."""

import math
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from data_builder.cleaning.holder import holder_mask

Mode = Literal["robust", "paper"]
MODES: tuple[Mode, ...] = ("robust", "paper")
VERSION = 2
"""Raised with every change that alters a pixel of any cleaned slice."""

WINDOW = (0.0, 80.0)
"""HU that become 0 and 255."""

Gray = UInt8[np.ndarray, "rows columns"]
Mask = UInt8[np.ndarray, "rows columns"]

_THICKER_MM = 4.5  # a radius: no shell of a holder is so thick
_CANAL_MM = 3.5  # a radius: ear canals and nostrils up to this width are closed
_SMALLEST_MM2 = 100.0  # of a head's section
_EDGE_HU = -480.0  # half way from air (-1000) to skin (40): partial volume puts the edge there


def clean_slice(
    hu: Float32[np.ndarray, "rows columns"],
    mode: Mode = "robust",
    spacing_mm: tuple[float, float] | None = None,
) -> UInt8[np.ndarray, "rows columns"]:
    """The head in the window of 0 to 80 HU, all else 0; all 0 where the slice shows no head.

    `spacing_mm` is the distance of rows and of columns (0028,0030); without it, or where it is
    nan, it is estimated from the matrix (see `head_mask`).
    """
    gray = window(hu) if mode == "robust" else _paper_window(hu)
    gray[~head_mask(hu, mode, spacing_mm)] = 0
    return gray


def head_mask(
    hu: Float32[np.ndarray, "rows columns"],
    mode: Mode = "robust",
    spacing_mm: tuple[float, float] | None = None,
) -> Bool[np.ndarray, "rows columns"]:
    """True on the head with its air spaces; all False where the slice shows no head.

    Without `spacing_mm` the field of view is taken to be 240 mm wide, as is usual for a head.
    """
    if mode == "robust":
        return _robust_mask(hu, _spacing(hu.shape, spacing_mm))
    return _paper_mask(_paper_window(hu))


def window(hu: Float32[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns"]:
    """Maps 0 to 80 HU to 0..255, rounded half to even; the same for every slice."""
    low, high = WINDOW
    scaled = np.clip(hu, low, high)
    scaled -= low
    scaled *= 255 / (high - low)
    return np.rint(scaled).astype(np.uint8)


def _spacing(shape: tuple[int, ...], given: tuple[float, float] | None) -> tuple[float, float]:
    if given is None or not all(math.isfinite(mm) and mm > 0 for mm in given):
        return 240 / max(shape), 240 / max(shape)
    return given


# Paper mode: the ten steps of the published notebook, with its quirks.


def _paper_window(hu: Float32[np.ndarray, "rows columns"]) -> Gray:
    """Steps 1 and 2: clips to 0 to 80 HU, then maps the slice's own range to 0..255, truncated."""
    clipped = np.clip(np.asarray(hu, np.float64), *WINDOW)
    low, high = clipped.min(), clipped.max()
    if high == low:
        return np.zeros(hu.shape, np.uint8)
    return ((clipped - low) / (high - low) * 255).astype(np.uint8)


def _paper_mask(gray: Gray) -> Bool[np.ndarray, "rows columns"]:
    """Steps 3 to 9, with OpenCV; `_disk(3)` equals `skimage.morphology.disk(3)`."""
    disk = _disk(3.0)
    # As in scikit-image, pixels outside the image are unset for a dilation, set for an erosion.
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


def _disk(radius: float) -> UInt8[np.ndarray, "side side"]:
    """1 on all pixels within `radius` of the middle one."""
    reach = int(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


# Robust mode.


def _robust_mask(
    hu: Float32[np.ndarray, "rows columns"], spacing_mm: tuple[float, float]
) -> Bool[np.ndarray, "rows columns"]:
    """The largest part of the tissue without the holder's shells, closed and filled."""
    pixel_mm = math.sqrt(spacing_mm[0] * spacing_mm[1])
    tissue = (hu > _EDGE_HU).astype(np.uint8)
    core = _core(tissue, pixel_mm)
    if core is None:
        return np.zeros(hu.shape, bool)
    holder = holder_mask(hu, tissue, core, pixel_mm)
    tissue[holder] = 0
    head = _largest(tissue)
    return _filled(_closed(head, _CANAL_MM / pixel_mm)) > 0


def _closed(mask: Mask, radius: float) -> Mask:
    """The mask with gaps under twice the radius closed, except those to the image's edge.

    Gaps are detected at half the resolution, for speed; the mask's own edge keeps its resolution.
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


def _core(tissue: Mask, pixel_mm: float) -> tuple[float, float] | None:
    """The centroid (x, y) of the largest part that is thicker than any holder; None without one."""
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


def _largest(mask: Mask) -> Mask:
    """The part with the largest area, filled."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)
    return cv2.drawContours(np.zeros_like(mask), [largest], -1, 1, cv2.FILLED)


def _filled(mask: Mask) -> Mask:
    """The mask with its holes filled."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(mask), contours, -1, 1, cv2.FILLED)
