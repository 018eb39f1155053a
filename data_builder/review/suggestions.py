"""Suggests slices to drop, by simple rules; the page never applies them by itself.

The rules use cleaned 8-bit slices (0 to 80 HU in the robust mode) of unknown pixel size: areas are
fractions of the image, compared within the study. benchmarks/suggestions.py measures the rules on
phantoms, whose anatomy is known. Pure functions.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

REASONS = ("empty", "repeated", "below the skull base", "above the brain")

_SIDE = 128  # pixels a side at which features are measured
_BONE = 215  # of 255: bone at that size, lowered by partial volume
_AIR = 12  # of 255: air and fat are 0 in a cleaned slice
_BRIDGE = 7  # pixels: gaps in bone that are closed, such as the foramina of the base
_NARROW = 5  # pixels: areas joined by a narrower bridge are separate
_EMPTY = 0.002  # fraction of the image
_BELOW, _ABOVE = 0.10, 0.04  # of the study's largest brain area
_NO_BRAIN = 0.03  # fraction of the image: the largest brain area of a study without a brain
_SAME_MM = 0.05
_SIMILAR = 0.95  # correlation of two slices at the same position


class Features(NamedTuple):
    """Features of a slice: fractions of the image, and a copy of 16 x 16 pixels as bytes."""

    head: float
    brain: float
    copy: bytes


class StackSlice(NamedTuple):
    """A slice of a study for `suggest`; `position_mm` is None where it is unknown."""

    digest: str
    position_mm: float | None
    features: Features


def features(gray: UInt8[np.ndarray, "rows columns"]) -> Features:
    """Measures the fractions of a cleaned slice that are head, and soft tissue enclosed by bone."""
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    head = float(np.count_nonzero(gray)) / gray.size
    copy = cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA)
    return Features(head, _enclosed(small), copy.tobytes())


def _enclosed(small: np.ndarray) -> float:
    """Fraction of the image: the largest area within bone without air, fat and bone."""
    bone = (small >= _BONE).astype(np.uint8)
    ring = cv2.morphologyEx(bone, cv2.MORPH_CLOSE, _disc(_BRIDGE))
    contours, _ = cv2.findContours(ring, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    inside = cv2.drawContours(np.zeros_like(ring), contours, -1, 1, cv2.FILLED)
    soft = (bone == 0) & (small > _AIR)
    inside = cv2.morphologyEx(inside * soft, cv2.MORPH_OPEN, _disc(_NARROW))
    count, _, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
    areas = stats[1:count, cv2.CC_STAT_AREA]
    return float(areas.max()) / small.size if len(areas) else 0.0


def _disc(pixels: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pixels, pixels))


def suggest(stack: Sequence[StackSlice]) -> list[str]:
    """Returns a reason of REASONS, or '', for each slice of a study, in the manifest's order."""
    brains = np.array([one.features.brain for one in stack])
    reasons = ["" for _ in stack]
    for index, one in enumerate(stack):
        if one.features.head < _EMPTY:
            reasons[index] = "empty"
        elif any(_repeats(one, other) for other in stack[:index]):
            reasons[index] = "repeated"
    if brains.max(initial=0.0) < _NO_BRAIN:
        return reasons
    fractions = brains / brains.max()
    ordered = [i for i, one in enumerate(stack) if one.position_mm is not None and not reasons[i]]
    ordered.sort(key=lambda index: stack[index].position_mm or 0.0)
    # From either end to the first slice with a brain: a small area in the middle is no end.
    for index in itertools.takewhile(lambda i: fractions[i] < _BELOW, ordered):
        reasons[index] = "below the skull base"
    for index in itertools.takewhile(lambda i: fractions[i] < _ABOVE, reversed(ordered)):
        reasons[index] = "above the brain"
    return reasons


def _repeats(one: StackSlice, other: StackSlice) -> bool:
    """Whether `one` repeats `other`: equal pixels, or similar ones at the same position."""
    if other.features.head < _EMPTY:
        return False
    if one.digest == other.digest:
        return True
    if one.position_mm is None or other.position_mm is None:
        return False
    if abs(one.position_mm - other.position_mm) > _SAME_MM:
        return False
    a, b = (np.frombuffer(s.features.copy, np.uint8).astype(float) for s in (one, other))
    if a.std() == 0 or b.std() == 0:
        return False
    return float(np.corrcoef(a, b)[0, 1]) > _SIMILAR
