"""Detects the free shells of a head holder: long thin runs outside the head's outline."""

import dataclasses
import functools
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from data_builder.cleaning.holder_rays import RAYS, Rays, true_runs

SKIN_HU = 40.0
ENDS_MM = 25.0  # of a shell, from which its direction is fitted

_SHORTEST_MM = 45.0  # longer than an ear is wide
_SHORT_MM = 20.0  # of a piece that its gray value distinguishes from an ear
_ALIKE_HU = 30.0
_FARTHEST_MM = 140.0  # that a shell is followed where it is hidden
_PIECE_MM = 8.0  # of a shell that continues beyond an ear
_EAR_MM = 45.0  # that hides a shell
_HUGGED_MM = 4.0  # between shell and scalp, where one lies on the other
_MOSTLY = 0.7  # of a gap


@dataclasses.dataclass(frozen=True, eq=False)
class Shell:
    """A free stretch of shell: on each of its rays, in order, where it begins and ends."""

    points: Float[np.ndarray, "n 2"]  # (x, y) of its outer side
    rays: Int[np.ndarray, " n"]
    inner: Float32[np.ndarray, " n"]
    outer: Float32[np.ndarray, " n"]
    thickness: float  # steps along a ray, the median
    hu: float
    pixel_mm: float

    @functools.cached_property
    def length_mm(self) -> float:
        """The straight distance between its ends."""
        return float(np.hypot(*(self.points[-1] - self.points[0]))) * self.pixel_mm

    @functools.cached_property
    def start(self) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
        """The point where the outer side starts, and its unit direction there."""
        return self._fitted(self.points)

    @functools.cached_property
    def end(self) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
        """The point where the outer side ends, and its unit direction there."""
        point, backward = self._fitted(self.points[::-1])
        return point, -backward

    def _fitted(
        self, points: Float[np.ndarray, "n 2"]
    ) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2"]]:
        """The first point and the direction of a parabola through the first points."""
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        near = along * self.pixel_mm < ENDS_MM
        _, direction, point = np.polyfit(along[near], points[near], 2)
        return point, direction / np.hypot(*direction)


class Bridge(NamedTuple):
    """A curve from the end of one shell to the start of another."""

    points: Float[np.ndarray, "points 2"]
    length_mm: float


def bridge_between(rays: Rays, one: Shell, other: Shell) -> Bridge | None:
    """A cubic Bezier curve from the end of one shell to the start of the other.

    None where it would be no convex arc, or too long a one.
    """
    if one.rays[-1] >= other.rays[0]:
        return None
    start, end = one.end, other.start
    chord = end[0] - start[0]
    length = float(np.hypot(*chord))
    if length * rays.pixel_mm > _FARTHEST_MM:
        return None
    turn_in, turn_out = _angle(start[1], chord), _angle(chord, end[1])
    turn = turn_in + turn_out
    if not (-0.15 < turn_in < 1.2 and -0.15 < turn_out < 1.2):
        return None
    handle = length / (3 * np.cos(turn / 4) ** 2)  # a circle's arc where both turns are equal
    t = np.linspace(0, 1, 80)[:, None]
    points = (
        (1 - t) ** 3 * start[0]
        + 3 * (1 - t) ** 2 * t * (start[0] + handle * start[1])
        + 3 * (1 - t) * t**2 * (end[0] - handle * end[1])
        + t**3 * end[0]
    )
    return Bridge(points, length * rays.pixel_mm)


def _angle(one: Float[np.ndarray, "2"], other: Float[np.ndarray, "2"]) -> float:
    """The turn from one direction to the other in radians, positive clockwise in the image."""
    cross = one[0] * other[1] - one[1] * other[0]
    return float(np.arctan2(cross, one @ other))


def free_shells(rays: Rays) -> list[Shell]:
    """The long shells that rays cross apart from all else, and the pieces that continue them."""
    pieces = _pieces(rays)
    shells = [piece for piece in pieces if piece.length_mm >= _SHORTEST_MM]
    short = [piece for piece in pieces if piece.length_mm < _SHORTEST_MM]
    added = shells
    while added:
        belongs = [
            any(_is_alike(shell, piece) or _continues(rays, shell, piece) for shell in added)
            for piece in short
        ]
        added = [piece for piece, yes in zip(short, belongs, strict=True) if yes]
        short = [piece for piece, yes in zip(short, belongs, strict=True) if not yes]
        shells = shells + added
    return sorted(shells, key=lambda shell: int(shell.rays[0]))


def _is_alike(shell: Shell, piece: Shell) -> bool:
    """Whether a short piece is of the shell's material: no part of a head is so bright."""
    alike = 0.7 < piece.thickness / shell.thickness < 1.5 and abs(shell.hu - piece.hu) < _ALIKE_HU
    return piece.length_mm >= _SHORT_MM and shell.hu > SKIN_HU + 2 * _ALIKE_HU and alike


def _continues(rays: Rays, shell: Shell, piece: Shell) -> bool:
    """Whether the piece is of the same shell, which an ear or the scalp hides in between."""
    first, second = (shell, piece) if shell.rays[-1] < piece.rays[0] else (piece, shell)
    if first.rays[-1] >= second.rays[0]:
        return False
    alike = 0.6 < first.thickness / second.thickness < 1.7
    alike &= abs(shell.hu - piece.hu) < 60 + 0.25 * abs(shell.hu)
    bridge = bridge_between(rays, first, second)
    if not alike or bridge is None:
        return False
    gap = np.arange(int(first.rays[-1]) + 1, int(second.rays[0]))
    if not len(gap):
        return True
    distance = np.abs(rays.outline[gap] - rays.steps(bridge.points, gap)) * rays.pixel_mm
    return bridge.length_mm < _EAR_MM or bool(np.mean(distance < _HUGGED_MM) > _MOSTLY)


def _pieces(rays: Rays) -> list[Shell]:
    """The thin parts outside the head's outline, where they are as thick as their neighbours."""
    steps = np.arange(rays.tissue.shape[1], dtype=np.int16)[None]
    thin = _without_long_runs(rays.tissue * (steps > rays.outline.astype(np.int16)[:, None]))
    # Cuts what joins two shells on a single ray, as the tip of an ear does.
    thin = cv2.morphologyEx(thin, cv2.MORPH_OPEN, np.ones((2, 1), np.uint8))
    contours, _ = cv2.findContours(thin, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    pieces = [piece for contour in contours for piece in _pieces_of(rays, contour)]
    return [piece for piece in pieces if piece.length_mm >= _PIECE_MM]


def _pieces_of(rays: Rays, contour: Int[np.ndarray, "points 1 2"]) -> list[Shell]:
    first, ray, width, height = cv2.boundingRect(contour)
    arc = height * (first + 0.5 * width) * (2 * np.pi / RAYS)
    if np.hypot(arc, width) * rays.pixel_mm < _PIECE_MM or height < 5:
        return []
    box = np.zeros((height, width), np.uint8)
    cv2.drawContours(box, [contour], -1, 1, cv2.FILLED, offset=(-first, -ray))
    inner = first + np.argmax(box, axis=1).astype(np.float32)
    outer = first + width - 1 - np.argmax(box[:, ::-1], axis=1).astype(np.float32)
    thickness = outer - inner + 1
    usual = cv2.medianBlur(np.minimum(thickness, 255).astype(np.uint8), 25).ravel()
    # Leaves out an ear across the shell, or at its end.
    even = thickness < 1.4 * np.minimum(usual, 1.3 * np.median(thickness)) + 1
    return [
        Shell(
            rays.points(ray + run, outer[run]),
            ray + run,
            inner[run],
            outer[run],
            float(np.median(thickness[run])),
            float(np.median(rays.gray(ray + run, 0.5 * (inner + outer)[run]))),
            rays.pixel_mm,
        )
        for run in true_runs(even)
        if len(run) >= 5
    ]


def _without_long_runs(thin: UInt8[np.ndarray, "rays steps"]) -> UInt8[np.ndarray, "rays steps"]:
    """The runs on rays that are not much longer than most: longer ones are shells with an ear."""
    flat = thin.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1])  # step 0 is in the head: a ray starts unset
    lengths = edges[1::2] - edges[: len(edges) // 2 * 2 : 2]
    if not len(lengths):
        return thin
    longest = int(1.9 * np.median(lengths) + 2)
    return thin - cv2.morphologyEx(thin, cv2.MORPH_OPEN, np.ones((1, longest + 1), np.uint8))
