"""Scans a synthetic head: pose, slices, holder, field of view, streaks and noise.

The same arguments give the same voxels. Phantom results say nothing about patients.
"""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, UInt8
from scipy.spatial.transform import Rotation

from data_builder.phantom.bleeds import Bleed, sample_bleed
from data_builder.phantom.canvas import EDGE_MM, STEP, Canvas, enlarge
from data_builder.phantom.head import DIFFICULTY, Head, Points, Tissue, sample_head
from data_builder.phantom.paint import (
    Slab,
    middle,
    paint_bleed,
    paint_bone,
    paint_brain,
    paint_soft_tissue,
)

SIZE = 512
THICKNESS_MM = 5.0
INTERCEPT = -1024
PADDING_STORED = -2000
"""Stored value outside the circular field of view; in HU, `PADDING_STORED + INTERCEPT`."""

_GAUSS = 0.5 / np.sqrt(3)
"""Distance of a slab's two Gauss points from its middle, in thicknesses."""

_ROW = np.array((1.0, 0.0, 0.0))
"""Direction along a row, in the patient's coordinates."""


class Geometry(NamedTuple):
    """The position of a study's pixels in DICOM's patient coordinates (LPS), mm and degrees."""

    pixel_mm: float
    gantry_degrees: float
    origins: Float64[np.ndarray, "slices 3"]  # Image Position (Patient)
    column: tuple[float, float, float]  # direction down a column; rows run along +x

    @property
    def positions(self) -> Float64[np.ndarray, " slices"]:
        """Position of each slice along the normal of the planes in mm, rising to the crown."""
        return self.origins @ np.cross(_ROW, self.column)


@dataclasses.dataclass(frozen=True)
class PhantomStudy:
    """The scan of one visit, from the skull base to the crown.

    Attributes:
      hu: int16 [slices, 512, 512], Hounsfield units, -3024 outside a circular field.
      classes: uint8 [slices, 512, 512], `Tissue` of every voxel.
      hemorrhage: bool [slices], True where the slice has at least
        `DIFFICULTY.bleed_pixels` pixels of BLEED; other slices have none.
      location: 'deep', 'lobar', 'subtentorial', or None for a normal head.
    """

    hu: Int16[np.ndarray, "slices rows columns"]
    classes: UInt8[np.ndarray, "slices rows columns"]
    hemorrhage: Bool[np.ndarray, " slices"]
    location: str | None
    geometry: Geometry
    head: Head

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Slice distance, row distance and column distance in mm."""
        return (THICKNESS_MM, self.geometry.pixel_mm, self.geometry.pixel_mm)


@dataclasses.dataclass(frozen=True)
class _Pose:
    """The head's pose: a point `w` of the patient is `(w - centre) @ matrix` in the head."""

    matrix: Float64[np.ndarray, "3 3"]
    centre: Float64[np.ndarray, " 3"]
    geometry: Geometry
    circular: bool


def _sample_pose(rng: np.random.Generator, head: Head) -> _Pose:
    d = DIFFICULTY
    angles = rng.normal(0, (d.turn_degrees, d.tilt_degrees, d.tilt_degrees * 1.3))
    gantry = float(np.round(rng.uniform(-20, 20), 1)) if rng.uniform() < d.gantry_tilted else 0.0
    # Radiographers tilt the gantry to compensate for most of the head's nod.
    angles[2] -= 0.7 * gantry
    matrix = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() / np.array(head.scale)
    off = np.clip(rng.normal(0, d.off_centre_mm, 2), -12, 12)
    fov = float(np.round(rng.uniform(238, 262)))
    if rng.uniform() < d.cut_by_field:
        off += rng.choice([-1, 1]) * np.array((rng.uniform(34, 46), 0))
        fov = 222.0
    tilt = np.deg2rad(gantry)
    column = (0.0, float(np.cos(tilt)), float(-np.sin(tilt)))
    normal = np.cross(_ROW, column)
    low = -60 + rng.uniform(0, 10)
    high = 90 * head.scale[2] + rng.uniform(-6, 3)
    slices = int(np.clip(np.ceil((high - low) / THICKNESS_MM), 24, 32))
    pixel = fov / SIZE
    half = 0.5 * (SIZE - 1) * pixel
    table = float(np.round(rng.uniform(-60, 60), 1))  # the table's zero is arbitrary
    # The table moves along z alone: with a tilted gantry its steps are longer than the spacing.
    z = low + THICKNESS_MM * (0.5 + np.arange(slices)) / normal[2]
    centres = np.stack([np.zeros(slices), np.zeros(slices), z + table], 1)
    origins = centres - half * _ROW - half * np.array(column)
    return _Pose(
        matrix=matrix,
        centre=np.array((off[0], off[1] + 4, table)),
        geometry=Geometry(pixel, gantry, origins, column),
        circular=bool(rng.uniform() < 0.75),
    )


def _slab_points(pose: _Pose, index: int) -> Points:
    """Head coordinates on the coarse grid at both Gauss points: each [2, 128, 128]."""
    g = pose.geometry
    column = np.array(g.column)
    normal = np.cross(_ROW, column)
    at = (STEP * (np.arange(SIZE // STEP) + 0.5) - 0.5) * g.pixel_mm
    start = (g.origins[index] - pose.centre) @ pose.matrix
    across, down = (_ROW @ pose.matrix), (column @ pose.matrix)
    through = (normal @ pose.matrix) * THICKNESS_MM * _GAUSS
    axes = []
    for k in range(3):
        plane = start[k] + at[:, None] * down[k] + at[None, :] * across[k]
        axes.append(np.stack([plane - through[k], plane + through[k]]).astype(np.float32))
    return Points(*axes)


def _holder(
    rng: np.random.Generator, pose: _Pose, head: Head
) -> tuple[Float32[np.ndarray, "512 512"], float]:
    """The coverage of a U-shaped head rest at the image's pixels, and its HU.

    It is fixed in the scanner's coordinates, and the head is turned in it. A narrow rest, or a
    head off its middle, touches an ear; a wide rest touches the edge of the field.
    """
    g = pose.geometry
    at = ((np.arange(SIZE) - 0.5 * (SIZE - 1)) * g.pixel_mm).astype(np.float32)
    width = rng.uniform(84, 110)
    bottom = float(pose.centre[1]) + 98 * head.scale[1] + rng.uniform(0, 12)
    round_mm = rng.uniform(60, 85)
    top = bottom - rng.uniform(95, 190)
    u = at[None, :] - float(pose.centre[0]) - rng.normal(0, 4)
    v = at[:, None] - (bottom - round_mm)
    lean = 1 - rng.uniform(0, 0.08) * np.clip(v / round_mm, -1.5, 0)
    wall = np.abs(u) / lean - width
    # Sampson's distance to an ellipse: it equals the walls' distance at v = 0.
    down = np.maximum(v, 0)
    slope = 2 * np.sqrt((u / width**2) ** 2 + (down / round_mm**2) ** 2)
    arc = ((u / width) ** 2 + (down / round_mm) ** 2 - 1) / np.maximum(slope, 1e-3)
    d = np.abs(np.where(v > 0, arc, wall))
    if rng.uniform() < 0.5:  # two shells over foam
        d = np.abs(d - rng.uniform(2.0, 3.5))
    half = rng.uniform(0.8, 1.6)
    coverage = np.clip(0.5 + (half - d) / EDGE_MM, 0, 1)
    coverage *= np.clip(0.5 + (at[:, None] - top) / EDGE_MM, 0, 1)
    return coverage.astype(np.float32), rng.uniform(40, 320)


class _Streaks:
    """Beam hardening: the dark band between the petrous bones, fans of dense bone, cupping."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.height = rng.uniform(*DIFFICULTY.streak_hu)
        self.phases = rng.uniform(0, 2 * np.pi, 4).tolist()
        self.spokes = [float(n) for n in rng.integers(9, 17, 4)]
        self.cupping = rng.uniform(1.0, 4.0)

    def __call__(self, slab: Slab) -> Float32[np.ndarray, "rows columns"]:
        """The HU to add, on the coarse grid."""
        p = middle(slab.at)
        total = self.cupping * np.exp(np.minimum(slab.dome[0], 0) / 5)
        at_base = np.exp(-(((p.z + 34) / 11) ** 2))
        if at_base.max() < 0.01:
            return total
        lift = 8 - 0.14 * np.abs(p.x)
        band = np.exp(-(((p.y - lift) / 5) ** 2)) - 0.45 * np.exp(-(((p.y - lift - 11) / 5) ** 2))
        band *= 1 / (1 + np.exp((np.abs(p.x) - 48) / 4))
        total -= self.height * at_base * band
        sources = ((-30.0, 11.0), (30.0, 11.0), (0.0, 84.0), (0.0, -78.0))
        for (x, y), phase, spokes in zip(sources, self.phases, self.spokes, strict=True):
            dx, dy = p.x - x, p.y - y
            fan = np.cos(spokes * np.arctan2(dy, dx) + phase)
            fan *= np.exp(-(dx * dx + dy * dy) / 1800)
            total += 0.35 * self.height * at_base * fan
        return total


def _noise(rng: np.random.Generator, sd: float) -> Float32[np.ndarray, "512 512"]:
    """Gaussian noise of standard deviation `sd`, correlated over about a pixel."""
    kernel = cv2.getGaussianKernel(5, 0.75, cv2.CV_32F)
    white = rng.standard_normal((SIZE, SIZE), np.float32)
    white *= float(sd / np.square(kernel).sum())
    return cv2.sepFilter2D(white, cv2.CV_32F, kernel, kernel)


def make_study(seed: int, subject: int, location: str | None, visit: int = 0) -> PhantomStudy:
    """Makes one scan of a synthetic head, with a bleed at `location` or none.

    Args:
      seed, subject: non-negative; they determine the head, and its bleed given the location.
      location: 'deep', 'lobar', 'subtentorial' or None.
      visit: 0 or 1; at 1 the same head in a new pose, its bleed slightly changed.

    Raises KeyError for an unknown location.
    """
    head = sample_head(np.random.default_rng((seed, subject, 0)))
    bleed: Bleed | None = None
    if location is not None:
        bleed = sample_bleed(np.random.default_rng((seed, subject, 1)), head, location, visit)
    rng = np.random.default_rng((seed, subject, 2, visit))
    pose = _sample_pose(rng, head)
    holder, holder_hu = _holder(rng, pose, head)
    streaks = _Streaks(rng)
    noise = rng.uniform(*DIFFICULTY.noise_hu)
    at = np.arange(SIZE) - 0.5 * (SIZE - 1)
    outside = at[:, None] ** 2 + at[None, :] ** 2 > (SIZE / 2) ** 2
    slices = len(pose.geometry.origins)
    hu = np.empty((slices, SIZE, SIZE), np.int16)
    classes = np.empty((slices, SIZE, SIZE), np.uint8)
    everywhere = (slice(0, SIZE // STEP), slice(0, SIZE // STEP))
    for index in range(slices):
        canvas = Canvas(SIZE)
        canvas.lay(everywhere, holder.copy(), Tissue.HOLDER, holder_hu)
        _paint_head(canvas, _slab_points(pose, index), head, bleed, streaks)
        canvas.hu += _noise(rng, noise)
        hu[index] = np.clip(np.rint(canvas.hu), INTERCEPT, 3071)
        if pose.circular:
            hu[index][outside] = PADDING_STORED + INTERCEPT
            canvas.classes[outside] = Tissue.PADDING
        classes[index] = canvas.classes
    bled = np.array([bool((c == Tissue.BLEED).any()) for c in classes])
    return PhantomStudy(hu, classes, bled, location, pose.geometry, head)


def _paint_head(
    canvas: Canvas, p: Points, head: Head, bleed: Bleed | None, streaks: _Streaks
) -> None:
    """Paints one slice without noise: the head over the holder, then the streaks."""
    bend = [wave(p) for wave in head.warp]
    slab = Slab(Points(*(a + 1.6 * b for a, b in zip(p, bend, strict=True))), head, bleed)
    paint_soft_tissue(canvas, slab, head)
    paint_bone(canvas, slab, head)
    paint_brain(canvas, slab, head)
    if bleed:
        paint_bleed(canvas, slab, head, bleed)
    canvas.hu += enlarge(streaks(slab))
