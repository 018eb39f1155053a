"""Views a slice along rays from the middle of the head, where a holder is a short run on each."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8

RAYS = 600
THICKEST_MM = 10.0  # of a double shell that is cut obliquely; what is thicker is head


class Rays(NamedTuple):
    """A slice along rays from the head's middle, clockwise from the image's top, a pixel a step."""

    hu: Float32[np.ndarray, "rows columns"]  # the slice itself
    tissue: UInt8[np.ndarray, "rays steps"]
    outline: Float32[np.ndarray, " rays"]  # the step where the head's own run ends
    middle: tuple[float, float]
    pixel_mm: float

    def points(
        self, rays: Shaped[np.ndarray, " n"], steps: Shaped[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n 2"]:
        """Image coordinates (x, y) of steps on rays."""
        angle = rays * (2 * np.pi / RAYS) - 0.5 * np.pi
        x, y = self.middle
        return np.stack([x + steps * np.cos(angle), y + steps * np.sin(angle)], 1)

    def gray(
        self, rays: Shaped[np.ndarray, " n"], steps: Shaped[np.ndarray, " n"]
    ) -> Float32[np.ndarray, " n"]:
        """HU at steps on rays."""
        x, y = np.rint(self.points(rays, steps)).astype(int).T
        rows, columns = self.hu.shape
        return self.hu[np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)]

    def steps(
        self, points: Float[np.ndarray, "points 2"], rays: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """The steps where a curve through `points` crosses `rays`; nan beyond its ends."""
        away = points - self.middle
        ray = (np.arctan2(away[:, 1], away[:, 0]) / (2 * np.pi) + 0.25) % 1 * RAYS
        order = np.argsort(ray)
        return np.interp(rays, ray[order], np.hypot(*away[order].T), left=np.nan, right=np.nan)


def cast_rays(
    hu: Float32[np.ndarray, "rows columns"],
    tissue: UInt8[np.ndarray, "rows columns"],
    middle: tuple[float, float],
    pixel_mm: float,
) -> Rays:
    """Casts rays from `middle` (x, y), a point in the head; `tissue` is 0 in air, else 1."""
    x, y = middle
    rows, columns = tissue.shape
    length = int(np.hypot(max(x, columns - x), max(y, rows - y))) + 1
    flags = cv2.INTER_NEAREST | cv2.WARP_FILL_OUTLIERS
    polar = cv2.warpPolar(tissue, (length, RAYS), middle, length, flags)
    cast = np.roll(polar, RAYS // 4, axis=0)  # warpPolar starts at the right, and goes clockwise
    # The last thick run on a ray is the head: air inside the head does not end it.
    kernel = np.ones((1, max(1, round(THICKEST_MM / pixel_mm))), np.uint8)
    thick = cv2.morphologyEx(cast, cv2.MORPH_OPEN, kernel)
    outline = np.where(thick.any(1), length - np.argmax(thick[:, ::-1], axis=1), 0)
    return Rays(hu, cast, outline.astype(np.float32), middle, pixel_mm)


def true_runs(flags: Bool[np.ndarray, " n"]) -> list[Int[np.ndarray, " run"]]:
    """The indices of each stretch of consecutive true flags."""
    indices = np.flatnonzero(flags)
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1) if len(indices) else []
