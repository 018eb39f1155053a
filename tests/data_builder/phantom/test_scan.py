"""The voxels of a study agree with their classes, their anatomy and its difficulty."""

import numpy as np
import pytest

from data_builder.phantom import DIFFICULTY, HEAD_CLASSES, Tissue, make_study
from tests.helpers.phantoms import SEED


def test_shapes_and_coverage(studies):
    for study in studies.values():
        slices = len(study.hu)
        assert 24 <= slices <= 32
        assert study.hu.shape == study.classes.shape == (slices, 512, 512)
        assert study.hu.dtype == np.int16 and study.classes.dtype == np.uint8
        # From the skull base (petrous air cells) to the crown (skull with no brain inside).
        first, last = study.classes[:4], study.classes[-4:]
        assert (first == Tissue.AIR_CELL).any() and (first == Tissue.SKULL).any()
        assert (last == Tissue.SKULL).any() and not (last[-1] == Tissue.WHITE).any()
        np.testing.assert_allclose(np.diff(study.geometry.positions), 5.0, atol=1e-6)


# Textbook HU, with room for noise, partial volume and beam hardening in the median of a class.
@pytest.mark.parametrize(
    ("tissue", "low", "high"),
    [
        (Tissue.AIR, -1024, -990),
        (Tissue.FAT, -110, -20),
        (Tissue.CSF, 0, 20),
        (Tissue.GREY, 30, 42),
        (Tissue.WHITE, 23, 34),
        (Tissue.SKULL, 300, 1600),
        (Tissue.BLEED, 50, 80),
        (Tissue.AIR_CELL, -1024, -500),
        (Tissue.SCALP, 0, 70),
    ],
)
def test_every_tissue_has_its_hounsfield_units(studies, tissue, low, high):
    values = np.concatenate([s.hu[s.classes == tissue] for s in studies.values()])
    assert values.size > 200
    assert low <= np.median(values) <= high


def test_blood_is_the_brightest_soft_tissue_and_noise_is_as_stated(studies):
    study = studies["lobar"]
    blood = study.classes == Tissue.BLEED
    inner = blood & np.roll(blood, 3, 1) & np.roll(blood, -3, 1)
    inner &= np.roll(blood, 3, 2) & np.roll(blood, -3, 2)
    inner[1:] &= blood[:-1]
    inner[:-1] &= blood[1:]
    assert inner.sum() > 50
    assert 58 <= study.hu[inner].mean() <= 82  # 60 to 80, and up to 4 of cupping
    sd = study.hu[-1, 20:90, 200:312].std()  # before the forehead: air above the crown too
    assert DIFFICULTY.noise_hu[0] * 0.95 <= sd <= DIFFICULTY.noise_hu[1] * 1.05


def test_padding_is_exactly_outside_the_circle(studies):
    for study in studies.values():
        padded = study.classes == Tissue.PADDING
        assert (study.hu[padded] == -2000 - 1024).all()
        assert (study.hu[~padded] >= -1024).all()
        if padded.any():
            i, j = np.mgrid[:512, :512] - 255.5
            assert (padded == (i**2 + j**2 > 256**2)).all()


def test_only_slices_that_cross_a_bleed_are_hemorrhage(studies):
    assert not studies[None].hemorrhage.any()
    assert not (studies[None].classes == Tissue.BLEED).any()
    for location, study in studies.items():
        pixels = (study.classes == Tissue.BLEED).sum((1, 2))
        np.testing.assert_array_equal(study.hemorrhage, pixels > 0)
        assert pixels[study.hemorrhage].min(initial=999) >= DIFFICULTY.bleed_pixels
        assert location is None or study.hemorrhage.any()
        runs = np.flatnonzero(np.diff(study.hemorrhage.astype(int)))
        assert len(runs) <= 2  # one bleed: its slices follow each other


def test_no_voxel_of_brain_or_blood_lies_outside_the_head(studies):
    """Going left or right from blood, one meets skull before air."""
    for study in studies.values():
        for classes in study.classes[study.hemorrhage]:
            for row in classes[(classes == Tissue.BLEED).any(1)][::9]:
                blood = np.flatnonzero(row == Tissue.BLEED)
                skull = np.flatnonzero(row == Tissue.SKULL)
                assert skull.min() < blood.min() and skull.max() > blood.max()


def test_subtentorial_blood_is_in_the_lower_half_of_the_slices_with_brain(studies):
    """By voxels alone: no slice with subtentorial blood shows the top half of the brain."""
    study = studies["subtentorial"]
    brain = np.flatnonzero((study.classes == Tissue.WHITE).any((1, 2)))
    assert np.flatnonzero(study.hemorrhage).max() < brain.mean()


def test_the_holder_is_in_every_slice_and_never_of_the_head(studies):
    assert set(HEAD_CLASSES).isdisjoint({Tissue.HOLDER, Tissue.AIR, Tissue.PADDING})
    for study in studies.values():
        assert (study.classes == Tissue.HOLDER).any((1, 2)).all()


def test_some_holders_touch_the_head_and_some_the_edge():
    touched = edged = 0
    for subject in range(5):
        study = make_study(SEED, subject, None)
        holder = study.classes == Tissue.HOLDER
        head = np.isin(study.classes, HEAD_CLASSES)
        beside = np.zeros_like(head)
        for axis in (1, 2):
            beside |= np.roll(head, 1, axis) | np.roll(head, -1, axis)
        touched += bool((holder & beside).any())
        i, j = np.mgrid[:512, :512] - 255.5
        edged += bool(holder[:, i**2 + j**2 > 253**2].any())
    assert touched >= 2
    assert edged >= 1


def test_a_second_visit_is_the_same_head_with_a_similar_bleed_in_another_pose(studies):
    one, two = studies["lobar"], make_study(SEED, 3, "lobar", visit=1)
    assert one.head == two.head
    assert one.hu.shape != two.hu.shape or not np.array_equal(one.hu, two.hu)
    volumes = [(s.classes == Tissue.BLEED).sum() * np.prod(s.spacing) / 1000 for s in (one, two)]
    assert 0.6 < volumes[1] / volumes[0] < 1.7


def test_a_study_is_the_same_each_time_and_differs_by_seed(studies):
    again = make_study(SEED, 2, "deep")
    np.testing.assert_array_equal(again.hu, studies["deep"].hu)
    other = make_study(SEED + 1, 2, "deep")
    assert other.hu.shape != again.hu.shape or (other.hu != again.hu).mean() > 0.5
