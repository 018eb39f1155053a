"""Composes a slice from structures, one over the other, with partial volume.

A field is sampled on a grid four times coarser than the image, at the two Gauss points of the
slab's thickness. Its coverage of a voxel is the share of the slab inside the structure, for a
field that is linear there. Coverage is smooth, so it is enlarged and then clipped: edges are
sharper than the coarse grid.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from data_builder.phantom.head import Tissue

STEP = 4
"""Pixels of the image per pixel of the coarse grid, along each axis."""

EDGE_MM = 0.9
"""Width over which a sharp edge in the plane is blurred: a scanner's resolution."""

_SQRT3 = float(np.sqrt(3))
Field = Float32[np.ndarray, "2 rows columns"]


def enlarge(coarse: Float32[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "4*rows 4*columns"]:
    """Interpolates a coarse map linearly to the image's pixels."""
    rows, columns = coarse.shape
    size = (columns * STEP, rows * STEP)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)


def union(*fields: Field) -> Field:
    """Field of the union of structures."""
    return np.minimum.reduce(fields)


def both(*fields: Field) -> Field:
    """Field of the intersection of structures."""
    return np.maximum.reduce(fields)


def coverage_of(field: Field) -> Float32[np.ndarray, "rows columns"]:
    """Share of each voxel inside the structure, before it is clipped to 0..1."""
    depth = _SQRT3 * np.abs(field[1] - field[0]) + EDGE_MM
    return 0.5 - 0.5 * (field[0] + field[1]) / depth


def box_around(
    inside: Bool[np.ndarray, "rows columns"],
) -> tuple[slice, slice] | None:
    """The smallest box around the true points with a margin of one; None without true points."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    return slice(max(top - 1, 0), bottom + 2), slice(max(left - 1, 0), right + 2)


class Canvas:
    """One slice that is being composed.

    Attributes:
      hu: float32 [rows, columns], Hounsfield units without noise.
      classes: uint8 [rows, columns], `Tissue`.
    """

    def __init__(self, size: int) -> None:
        self.hu = np.full((size, size), -1000.0, np.float32)
        self.classes = np.full((size, size), Tissue.AIR, np.uint8)

    def paint(
        self,
        field: Field,
        tissue: Tissue,
        hu: float | Float32[np.ndarray, "rows columns"],
        threshold: float = 0.5,
    ) -> None:
        """Paints `tissue` where `field` is negative, and its class where it covers `threshold`."""
        coverage = coverage_of(field)
        box = box_around(coverage > 0)
        if box is None:
            return
        value = hu if isinstance(hu, float) else enlarge(np.ascontiguousarray(hu[box]))
        self.lay(box, enlarge(np.ascontiguousarray(coverage[box])), tissue, value, threshold)

    def lay(
        self,
        box: tuple[slice, slice],
        coverage: Float32[np.ndarray, "height width"],
        tissue: Tissue,
        hu: float | Float32[np.ndarray, "height width"],
        threshold: float = 0.5,
    ) -> None:
        """Paints `tissue` in a box (in coarse pixels) by its coverage of the image's pixels."""
        fine = tuple(slice(s.start * STEP, s.stop * STEP) for s in box)
        np.clip(coverage, 0, 1, out=coverage)
        below = self.hu[fine]
        np.copyto(self.classes[fine], np.uint8(tissue), where=coverage >= threshold)
        below += coverage * (hu - below)
