"""Slices that a reader may want to drop, by simple rules; suggested, never applied alone. Pure.

The rules see cleaned 8-bit slices (0 to 80 HU in the robust mode), whose pixel size is not known:
areas are shares of the image, and compared within the study. benchmarks/suggestions.py measures
the rules on phantoms, whose truth is known.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

REASONS = ("empty", "repeated", "below the skull base", "above the brain")

_SIDE = 128  # features are taken at this many pixels a side
_BONE = 215  # of 255: what partial volume leaves of bone at that size
_AIR = 12  # of 255: air and fat are 0 in a cleaned slice
_BRIDGE = 7  # pixels: gaps in bone that are closed, such as the foramina of the base
_NARROW = 5  # pixels: what is joined through less than this counts apart
_EMPTY = 0.002  # share of the image
_BELOW, _ABOVE = 0.10, 0.04  # of the study's largest brain area
_NO_BRAIN = 0.03  # share of the image: a study whose fullest slice has less shows no brain at all
_SAME_MM = 0.05
_ALIKE = 0.95  # correlation of two slices at the same place


class Features(NamedTuple):
    """What the rules see of a slice: shares of the image, and a small copy [16 x 16] as bytes."""

    head: float
    brain: float
    copy: bytes


class Looked(NamedTuple):
    """A slice of a study for `suggest`: `position_mm` is None where it is not known."""

    digest: str
    position_mm: float | None
    features: Features


def features(gray: UInt8[np.ndarray, "rows columns"]) -> Features:
    """How much of a cleaned slice is head, and how much is soft tissue that bone encloses."""
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    head = float(np.count_nonzero(gray)) / gray.size
    copy = cv2.resize(small, (16, 16), interpolation=cv2.INTER_AREA)
    return Features(head, _enclosed(small), copy.tobytes())


def _enclosed(small: np.ndarray) -> float:
    """Share of the image: the largest part within bone that is neither air, fat nor bone."""
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


def suggest(stack: Sequence[Looked]) -> list[str]:
    """A reason of REASONS, or '', for each slice of a study in the order of the manifest."""
    brains = np.array([one.features.brain for one in stack])
    reasons = ["" for _ in stack]
    for index, one in enumerate(stack):
        if one.features.head < _EMPTY:
            reasons[index] = "empty"
        elif any(_repeats(one, other) for other in stack[:index]):
            reasons[index] = "repeated"
    if brains.max(initial=0.0) < _NO_BRAIN:
        return reasons
    shares = brains / brains.max()
    placed = [i for i, one in enumerate(stack) if one.position_mm is not None and not reasons[i]]
    placed.sort(key=lambda index: stack[index].position_mm or 0.0)
    # From either end to the first slice with a brain: a dip in the middle is no end.
    for index in itertools.takewhile(lambda i: shares[i] < _BELOW, placed):
        reasons[index] = "below the skull base"
    for index in itertools.takewhile(lambda i: shares[i] < _ABOVE, reversed(placed)):
        reasons[index] = "above the brain"
    return reasons


def _repeats(one: Looked, other: Looked) -> bool:
    """Whether `other` shows the same: equal pixels, or alike ones at the same place."""
    if other.features.head < _EMPTY:
        return False
    if one.digest == other.digest:
        return True
    if one.position_mm is None or other.position_mm is None:
        return False
    if abs(one.position_mm - other.position_mm) > _SAME_MM:
        return False
    a, b = (np.frombuffer(each.features.copy, np.uint8).astype(float) for each in (one, other))
    if a.std() == 0 or b.std() == 0:
        return False
    return float(np.corrcoef(a, b)[0, 1]) > _ALIKE
