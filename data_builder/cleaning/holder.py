"""Finds the head holder of a slice: thin, long shells around the head, also where they touch it.

Seen from the middle of the head, a shell is a short run along each ray, next to its like on the
neighbouring rays over many centimetres; a head's own parts are thick, or short (ears). Where a
shell lies on the scalp the two make one run. There the shell is followed along the outline from
where it comes free, as long as the outline keeps to the shell's curve and gray value.
"""

import dataclasses
import functools
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

RAYS = 600
_THICKEST_MM = 10.0  # a double shell, cut obliquely
_SHORTEST_MM = 45.0  # longer than an ear is wide
_SHORT_MM = 20.0  # of a piece whose gray value tells it from an ear
_ALIKE_HU = 30.0
_ENDS_MM = 25.0  # of a shell, that tell its direction
_FARTHEST_MM = 140.0  # that a shell is followed out of sight
_OFF_CURVE_MM = 1.7
_PIECE_MM = 8.0  # of a shell that goes on beyond an ear
_EAR_MM = 45.0  # that hides a shell
_SKIN_HU = 40.0
_HUGGED_MM = 4.0  # from a shell to the scalp, where it lies on it or the head on the shell
_MOSTLY = 0.7  # of a gap
_STRETCHES = 5


class _Rays(NamedTuple):
    """A slice along rays out of the head, clockwise from the image's top, a pixel a step."""

    hu: Float32[np.ndarray, "rows columns"]  # the slice itself
    tissue: UInt8[np.ndarray, "rays steps"]
    outline: Float32[np.ndarray, " rays"]  # the step where the head's own run ends
    middle: tuple[float, float]
    pixel_mm: float

    def points(self, rays: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Image coordinates (x, y) [n, 2] of places on rays."""
        angle = rays * (2 * np.pi / RAYS) - 0.5 * np.pi
        x, y = self.middle
        return np.stack([x + steps * np.cos(angle), y + steps * np.sin(angle)], 1)

    def gray(self, rays: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """HU of places on rays."""
        x, y = np.rint(self.points(rays, steps)).astype(int).T
        rows, columns = self.hu.shape
        return self.hu[np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)]

    def steps(self, points: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Where a curve through `points` [n, 2] crosses `rays`; nan beyond its ends."""
        away = points - self.middle
        ray = (np.arctan2(away[:, 1], away[:, 0]) / (2 * np.pi) + 0.25) % 1 * RAYS
        order = np.argsort(ray)
        at, far = ray[order], np.hypot(*away[order].T)
        return np.interp(rays, at, far, left=np.nan, right=np.nan)


@dataclasses.dataclass(frozen=True, eq=False)
class _Shell:
    """A free stretch of shell: on each of its rays, in order, where it begins and ends."""

    points: np.ndarray  # (x, y) of its outer side
    rays: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    thickness: float  # steps along a ray, the median
    hu: float
    pixel_mm: float

    @functools.cached_property
    def length_mm(self) -> float:
        """From one end to the other, straight."""
        return float(np.hypot(*(self.points[-1] - self.points[0]))) * self.pixel_mm

    @functools.cached_property
    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the outer side starts, and its direction there."""
        return self._fitted(self.points)

    @functools.cached_property
    def end(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the outer side ends, and its direction there."""
        place, back = self._fitted(self.points[::-1])
        return place, -back

    def _fitted(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first point and the direction of a parabola through the first points."""
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        near = along * self.pixel_mm < _ENDS_MM
        _, direction, place = np.polyfit(along[near], points[near], 2)
        return place, direction / np.hypot(*direction)


def holder_mask(
    hu: Float32[np.ndarray, "rows columns"],
    tissue: UInt8[np.ndarray, "rows columns"],
    middle: tuple[float, float],
    pixel_mm: float,
) -> Bool[np.ndarray, "rows columns"]:
    """True on the holder, as far as it is shell.

    `tissue` is 1 where there is not air, `middle` (x, y) lies in the head, and `pixel_mm` is the
    distance of rows and of columns.
    """
    rays = _cast(hu, tissue, middle, pixel_mm)
    shells = _free_shells(rays)
    mask = np.zeros(tissue.shape, np.uint8)
    for shell in shells:
        _draw(mask, rays, shell.rays, shell.inner - 1.0, shell.outer + 1.5)
    for shell in shells:
        _draw_hidden(mask, rays, shell, shells)
    return mask > 0


def _cast(
    hu: np.ndarray, tissue: np.ndarray, middle: tuple[float, float], pixel_mm: float
) -> _Rays:
    x, y = middle
    rows, columns = tissue.shape
    far = int(np.hypot(max(x, columns - x), max(y, rows - y))) + 1
    flags = cv2.INTER_NEAREST | cv2.WARP_FILL_OUTLIERS
    turned = cv2.warpPolar(tissue, (far, RAYS), middle, far, flags)
    cast = np.roll(turned, RAYS // 4, axis=0)  # it starts at the right, and goes clockwise
    # Thick runs only: the last of them is the head, and air inside the head does not end it.
    kernel = np.ones((1, _pixels(_THICKEST_MM, pixel_mm)), np.uint8)
    thick = cv2.morphologyEx(cast, cv2.MORPH_OPEN, kernel)
    outline = np.where(thick.any(1), far - np.argmax(thick[:, ::-1], axis=1), 0)
    return _Rays(hu, cast, outline.astype(np.float32), middle, pixel_mm)


def _pixels(mm: float, pixel_mm: float) -> int:
    return max(1, round(mm / pixel_mm))


def _free_shells(rays: _Rays) -> list[_Shell]:
    """Long shells where rays cross them apart from all else, and pieces that carry them on."""
    pieces = _pieces(rays)
    shells = [piece for piece in pieces if piece.length_mm >= _SHORTEST_MM]
    short = [piece for piece in pieces if piece.length_mm < _SHORTEST_MM]
    fresh = shells
    while fresh:
        carried = [
            any(_is_like(shell, piece) or _goes_on(rays, shell, piece) for shell in fresh)
            for piece in short
        ]
        fresh = [piece for piece, on in zip(short, carried, strict=True) if on]
        short = [piece for piece, on in zip(short, carried, strict=True) if not on]
        shells = shells + fresh
    return sorted(shells, key=lambda shell: int(shell.rays[0]))


def _is_like(shell: _Shell, piece: _Shell) -> bool:
    """Whether the piece, though short, is of the shell's make: no part of a head is so bright."""
    alike = 0.7 < piece.thickness / shell.thickness < 1.5 and abs(shell.hu - piece.hu) < _ALIKE_HU
    return piece.length_mm >= _SHORT_MM and shell.hu > _SKIN_HU + 2 * _ALIKE_HU and alike


def _goes_on(rays: _Rays, shell: _Shell, piece: _Shell) -> bool:
    """Whether the piece is the same shell, hidden in between by an ear or the scalp."""
    first, second = (shell, piece) if shell.rays[-1] < piece.rays[0] else (piece, shell)
    if first.rays[-1] >= second.rays[0]:
        return False
    alike = 0.6 < first.thickness / second.thickness < 1.7
    alike &= abs(shell.hu - piece.hu) < 60 + 0.25 * abs(shell.hu)
    bridge = _bridge(rays, first, second)
    if not alike or bridge is None:
        return False
    gap = np.arange(int(first.rays[-1]) + 1, int(second.rays[0]))
    if not len(gap):
        return True
    off = np.abs(rays.outline[gap] - rays.steps(bridge.points, gap)) * rays.pixel_mm
    return bridge.length_mm < _EAR_MM or bool(np.mean(off < _HUGGED_MM) > _MOSTLY)


def _pieces(rays: _Rays) -> list[_Shell]:
    """Thin parts beyond the head's outline, where they are as thick as their surroundings."""
    steps = np.arange(rays.tissue.shape[1], dtype=np.int16)[None]
    thin = _usual_runs(rays.tissue * (steps > rays.outline.astype(np.int16)[:, None]))
    # What joins two shells on one ray alone, as the tip of an ear does, is cut.
    thin = cv2.morphologyEx(thin, cv2.MORPH_OPEN, np.ones((2, 1), np.uint8))
    contours, _ = cv2.findContours(thin, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    pieces = []
    for contour in contours:
        first, ray, width, height = cv2.boundingRect(contour)
        arc = height * (first + 0.5 * width) * (2 * np.pi / RAYS)
        if np.hypot(arc, width) * rays.pixel_mm < _PIECE_MM or height < 5:
            continue
        box = np.zeros((height, width), np.uint8)
        cv2.drawContours(box, [contour], -1, 1, cv2.FILLED, offset=(-first, -ray))
        inner = first + np.argmax(box, axis=1).astype(np.float32)
        outer = first + width - 1 - np.argmax(box[:, ::-1], axis=1).astype(np.float32)
        thickness = outer - inner + 1
        usual = cv2.medianBlur(np.minimum(thickness, 255).astype(np.uint8), 25).ravel()
        # An ear across the shell, or at its end, is left out.
        fine = thickness < 1.4 * np.minimum(usual, 1.3 * np.median(thickness)) + 1
        for part in _runs(fine):
            if len(part) >= 5:
                gray = rays.gray(ray + part, 0.5 * (inner + outer)[part])
                pieces.append(
                    _Shell(
                        rays.points(ray + part, outer[part]),
                        ray + part,
                        inner[part],
                        outer[part],
                        float(np.median(thickness[part])),
                        float(np.median(gray)),
                        rays.pixel_mm,
                    )
                )
    return [piece for piece in pieces if piece.length_mm >= _PIECE_MM]


def _usual_runs(thin: np.ndarray) -> np.ndarray:
    """Without the runs that are much longer than most: shells with an ear between them."""
    flat = thin.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1])  # step 0 is in the head: a ray starts unset
    lengths = edges[1::2] - edges[: len(edges) // 2 * 2 : 2]
    if not len(lengths):
        return thin
    longest = int(1.9 * np.median(lengths) + 2)
    return thin - cv2.morphologyEx(thin, cv2.MORPH_OPEN, np.ones((1, longest + 1), np.uint8))


def _runs(flags: np.ndarray) -> list[np.ndarray]:
    """The indices of each stretch of consecutive true flags."""
    at = np.flatnonzero(flags)
    return np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if len(at) else []


def _draw(
    mask: np.ndarray, rays: _Rays, on: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> None:
    """Sets the band between `inner` and `outer` on the rays `on`."""
    if len(on) > 1:
        band = np.concatenate([rays.points(on, inner), rays.points(on, outer)[::-1]])
        cv2.fillPoly(mask, [np.rint(band * 8).astype(np.int32)], 1, shift=3)


def _draw_hidden(mask: np.ndarray, rays: _Rays, shell: _Shell, shells: list[_Shell]) -> None:
    """Sets the shell where it lies on the scalp, from the end of `shell` to the next one."""
    others = [other for other in shells if other is not shell]
    for one, other in [(shell, other) for other in others]:
        bridge = _bridge(rays, one, other)
        if bridge is not None:
            gap = np.arange(int(one.rays[-1]) + 1, int(other.rays[0]))
            if not len(gap):  # the next one starts where this one ends
                continue
            outer = _hidden(rays, gap, rays.steps(bridge.points, gap), shell)
            for run in _runs(np.isfinite(outer)):
                _draw_layer(mask, rays, gap[run], outer[run], shell)
    for which in (0, -1):
        _follow(mask, rays, shell, which)


def _follow(mask: np.ndarray, rays: _Rays, shell: _Shell, which: int) -> None:
    """Sets the shell on the scalp from its start (0) or end (-1) on, along the outline.

    A stretch at a time is compared with the circle that the last stretch lies on. A shell that is
    no brighter than skin is followed for one stretch only: the outline may have become the head's.
    """
    sign = 1 if which == -1 else -1
    known_rays, known = shell.rays[::sign], shell.outer[::sign]
    bright = shell.hu > _SKIN_HU + 80
    beyond = np.clip(known_rays[-1] + sign * np.arange(1, 5), 0, RAYS - 1)
    if not rays.tissue[beyond, int(known[-1] - 0.5 * shell.thickness)].any():
        return  # it ends in air
    for _ in range(_STRETCHES if bright else 1):
        points = rays.points(known_rays, known)
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        near = (along[-1] - along) * rays.pixel_mm < 1.5 * _ENDS_MM
        count = int(_ENDS_MM / rays.pixel_mm / known[-1] * RAYS / (2 * np.pi))
        ahead = known_rays[-1] + sign * np.arange(1, count + 1)
        ahead = ahead[(ahead >= 0) & (ahead < RAYS)]
        if np.count_nonzero(near) < 8 or len(ahead) < 3:
            return
        fit = np.polyfit(known_rays[near] - known_rays[-1], known[near], 2)
        expected = np.polyval(fit, ahead - known_rays[-1])
        outer = _hidden(rays, ahead, expected, shell)
        fits = np.isfinite(outer)
        taken = len(ahead) if fits.all() else int(np.argmin(fits))
        if taken < 3:
            return
        _draw_layer(mask, rays, ahead[:taken], outer[:taken], shell)
        known_rays = np.concatenate([known_rays, ahead[:taken]])
        known = np.concatenate([known, outer[:taken]])
        if taken < len(ahead):
            return


def _hidden(rays: _Rays, on: np.ndarray, expected: np.ndarray, shell: _Shell) -> np.ndarray:
    """Where the shell ends on each ray, though it is no run of its own there; nan where it is not.

    It is there if what covers its middle ends where its outer side is expected, and is as bright.
    """
    half, off = 0.5 * shell.thickness, _OFF_CURVE_MM / rays.pixel_mm
    middle = np.rint(np.nan_to_num(expected) - half).astype(int)
    reach = np.arange(int(half + off) + 3)
    at = np.clip(middle[:, None] + reach, 0, rays.tissue.shape[1] - 1)
    covers = rays.tissue[on[:, None], at]
    outer = middle + np.argmin(covers, axis=1) - 1.0
    gray = cv2.medianBlur(rays.gray(on, at[:, 0]).astype(np.float32), 5).ravel()
    # A shell that is no brighter than skin can't tell.
    bright = gray > _SKIN_HU + 0.5 * (shell.hu - _SKIN_HU) - 60
    fits = covers[:, 0].astype(bool) & (np.abs(outer - expected) < off) & bright
    return np.where(fits, outer, np.nan)


def _draw_layer(
    mask: np.ndarray, rays: _Rays, on: np.ndarray, outer: np.ndarray, shell: _Shell
) -> None:
    """Sets a layer as thick as the shell, under `outer`."""
    _draw(mask, rays, on, outer - shell.thickness + 0.5, outer + 1.5)


class _Bridge(NamedTuple):
    points: np.ndarray
    length_mm: float


def _bridge(rays: _Rays, one: _Shell, other: _Shell) -> _Bridge | None:
    """A cubic Bezier curve from the end of one shell to the start of the other, or None.

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
    handle = length / (3 * np.cos(turn / 4) ** 2)
    t = np.linspace(0, 1, 80)[:, None]
    points = (
        (1 - t) ** 3 * start[0]
        + 3 * (1 - t) ** 2 * t * (start[0] + handle * start[1])
        + 3 * (1 - t) * t**2 * (end[0] - handle * end[1])
        + t**3 * end[0]
    )
    return _Bridge(points, length * rays.pixel_mm)


def _angle(one: np.ndarray, other: np.ndarray) -> float:
    """The turn from one direction to the other, in radians, positive clockwise in the image."""
    cross = one[0] * other[1] - one[1] * other[0]
    return float(np.arctan2(cross, one @ other))
