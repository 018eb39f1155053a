"""Bleeds are at the site of their location, on a lattice of points."""

import numpy as np

from data_builder.phantom import DIFFICULTY
from data_builder.phantom.anatomy import cavity
from data_builder.phantom.bleeds import blob, room, sample_bleed
from data_builder.phantom.head import Points, sample_head
from tests.helpers.phantoms import SEED


def blood_points(subject: int, location: str) -> tuple[Points, np.ndarray, float]:
    """All 1.5 mm lattice points (head coordinates) in a subject's bleed, their depth under the
    skull, and their volume as a share of the volume drawn."""
    head = sample_head(np.random.default_rng((SEED, subject, 0)))
    bleed = sample_bleed(np.random.default_rng((SEED, subject, 1)), head, location, 0)
    axes = [np.arange(c - 48, c + 48, 1.5, dtype=np.float32) for c in bleed.centre]
    at = Points(*np.meshgrid(*axes, indexing="ij"))
    bowl = cavity(at)
    inside = (blob(at, bleed) < 0) & (room(at, bowl, head, location) < 0)
    drawn = 4 / 3 * np.pi * np.prod(bleed.radii)
    assert DIFFICULTY.bleed_ml[0] * 0.99 <= drawn / 1000 <= DIFFICULTY.bleed_ml[1] * 1.01
    return Points(*(a[inside] for a in at)), -bowl[inside], inside.sum() * 1.5**3 / drawn


def test_deep_bleeds_sit_in_the_middle_of_the_hemispheres():
    for subject in range(12):
        p, depth, share = blood_points(subject, "deep")
        assert share > 0.45
        assert depth.min() > 8  # millimetres under the skull: off the cortex
        assert np.abs(p.y).max() < 50 and p.z.min() > -18 and p.z.max() < 40
        assert not ((p.z < -15) & (p.y > 35)).any()  # where the cerebellum is


def test_lobar_bleeds_reach_the_cortex_above_the_tentorium():
    for subject in range(12):
        p, depth, share = blood_points(subject, "lobar")
        assert share > 0.6
        assert depth.min() < 14
        assert np.abs(p.x).mean() > 12
        assert not ((p.z < -20) & (p.y > 35)).any()


def test_subtentorial_bleeds_sit_under_the_tentorium_behind_the_petrous_bone():
    for subject in range(12):
        p, _, share = blood_points(subject, "subtentorial")
        assert share > 0.6
        # The tent's ridge is 5 mm up and falls by 0.42 a millimetre to the sides.
        assert (p.z < 5 - 0.42 * np.abs(p.x)).all()
        assert (p.y > -4 + 0.5 * np.abs(p.x)).all()
