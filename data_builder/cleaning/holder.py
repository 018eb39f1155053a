"""Detects the head holder in a slice: long thin shells around the head, also where they touch it.

Seen from the middle of the head, a shell is a short run on each ray, continued on the neighbouring
rays over many centimetres; parts of a head are thick, or short (ears). Where a shell touches the
scalp the two make one run. There the shell is followed along the outline from its free end, as
long as the outline keeps to the shell's curve and gray value.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from data_builder.cleaning.holder_rays import RAYS, Rays, cast_rays, true_runs
from data_builder.cleaning.holder_shells import (
    ENDS_MM,
    SKIN_HU,
    Shell,
    bridge_between,
    free_shells,
)

_OFF_CURVE_MM = 1.7
_STRETCHES = 5


def holder_mask(
    hu: Float32[np.ndarray, "rows columns"],
    tissue: UInt8[np.ndarray, "rows columns"],
    middle: tuple[float, float],
    pixel_mm: float,
) -> Bool[np.ndarray, "rows columns"]:
    """True on the shells of the holder.

    `tissue` is 0 in air and 1 elsewhere, `middle` (x, y) is a point in the head, and `pixel_mm` is
    the distance of rows and of columns.
    """
    rays = cast_rays(hu, tissue, middle, pixel_mm)
    shells = free_shells(rays)
    mask = np.zeros(tissue.shape, np.uint8)
    for shell in shells:
        _draw(mask, rays, shell.rays, shell.inner - 1.0, shell.outer + 1.5)
    for shell in shells:
        _draw_bridges(mask, rays, shell, shells)
        _draw_beyond(mask, rays, shell, -1)
        _draw_beyond(mask, rays, shell, 1)
    return mask > 0


def _draw(
    mask: UInt8[np.ndarray, "rows columns"],
    rays: Rays,
    on: Int[np.ndarray, " n"],
    inner: Float[np.ndarray, " n"],
    outer: Float[np.ndarray, " n"],
) -> None:
    """Sets the band between the steps `inner` and `outer` on the rays `on`."""
    if len(on) > 1:
        band = np.concatenate([rays.points(on, inner), rays.points(on, outer)[::-1]])
        cv2.fillPoly(mask, [np.rint(band * 8).astype(np.int32)], 1, shift=3)


def _draw_layer(
    mask: UInt8[np.ndarray, "rows columns"],
    rays: Rays,
    on: Int[np.ndarray, " n"],
    outer: Float[np.ndarray, " n"],
    shell: Shell,
) -> None:
    """Sets a layer as thick as the shell, below the steps `outer`."""
    _draw(mask, rays, on, outer - shell.thickness + 0.5, outer + 1.5)


def _draw_bridges(
    mask: UInt8[np.ndarray, "rows columns"], rays: Rays, shell: Shell, shells: list[Shell]
) -> None:
    """Sets what the scalp hides between the end of a shell and the start of each other one."""
    for other in shells:
        bridge = None if other is shell else bridge_between(rays, shell, other)
        if bridge is None:
            continue
        gap = np.arange(int(shell.rays[-1]) + 1, int(other.rays[0]))
        if len(gap):
            outer = _hidden(rays, gap, rays.steps(bridge.points, gap), shell)
            for run in true_runs(np.isfinite(outer)):
                _draw_layer(mask, rays, gap[run], outer[run], shell)


def _draw_beyond(
    mask: UInt8[np.ndarray, "rows columns"], rays: Rays, shell: Shell, sign: int
) -> None:
    """Sets the shell on the scalp, along the outline beyond its end (`sign` 1) or start (-1).

    Each stretch is compared with a parabola through the stretch before it. A shell that is no
    brighter than skin is followed for one stretch only: the outline may be the head's by then.
    """
    known_rays, known = shell.rays[::sign], shell.outer[::sign]
    bright = shell.hu > SKIN_HU + 80
    beyond = np.clip(known_rays[-1] + sign * np.arange(1, 5), 0, RAYS - 1)
    if not rays.tissue[beyond, int(known[-1] - 0.5 * shell.thickness)].any():
        return  # it ends in air
    for _ in range(_STRETCHES if bright else 1):
        points = rays.points(known_rays, known)
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        near = (along[-1] - along) * rays.pixel_mm < 1.5 * ENDS_MM
        count = int(ENDS_MM / rays.pixel_mm / known[-1] * RAYS / (2 * np.pi))
        ahead = known_rays[-1] + sign * np.arange(1, count + 1)
        ahead = ahead[(ahead >= 0) & (ahead < RAYS)]
        if np.count_nonzero(near) < 8 or len(ahead) < 3:
            return
        fit = np.polyfit(known_rays[near] - known_rays[-1], known[near], 2)
        expected = np.polyval(fit, ahead - known_rays[-1])
        outer = _hidden(rays, ahead, expected, shell)
        present = np.isfinite(outer)
        taken = len(ahead) if present.all() else int(np.argmin(present))
        if taken < 3:
            return
        _draw_layer(mask, rays, ahead[:taken], outer[:taken], shell)
        known_rays = np.concatenate([known_rays, ahead[:taken]])
        known = np.concatenate([known, outer[:taken]])
        if taken < len(ahead):
            return


def _hidden(
    rays: Rays, on: Int[np.ndarray, " n"], expected: Float[np.ndarray, " n"], shell: Shell
) -> Float[np.ndarray, " n"]:
    """The steps where a shell ends on rays on which it touches the scalp; nan where it is absent.

    It is present if the tissue over its middle ends near the step `expected` of its outer side, and
    is as bright as the shell.
    """
    half, tolerance = 0.5 * shell.thickness, _OFF_CURVE_MM / rays.pixel_mm
    middle = np.rint(np.nan_to_num(expected) - half).astype(int)
    reach = np.arange(int(half + tolerance) + 3)
    steps = np.clip(middle[:, None] + reach, 0, rays.tissue.shape[1] - 1)
    tissue = rays.tissue[on[:, None], steps]
    outer = middle + np.argmin(tissue, axis=1) - 1.0
    gray = cv2.medianBlur(rays.gray(on, steps[:, 0]).astype(np.float32), 5).ravel()
    # The gray value of a shell that is no brighter than skin proves nothing: the limit is low then.
    bright = gray > SKIN_HU + 0.5 * (shell.hu - SKIN_HU) - 60
    present = tissue[:, 0].astype(bool) & (np.abs(outer - expected) < tolerance) & bright
    return np.where(present, outer, np.nan)
