"""The capture shows the heat maps at their own resolution, with the notice burnt in."""

import dataclasses

import numpy as np
import pytest
from PIL import ImageDraw

from dtvit_jax.dicom.secondary_capture import Overlay, secondary_capture
from tests.helpers.answers import MODEL, answer_for, overlay_image
from tests.helpers.dicom_objects import MADE, series


def test_a_remark_is_one_more_line():
    sources, remark = series(1), "Trained on synthetic phantoms"
    answer, overlays = answer_for(sources), [Overlay(0, overlay_image(512, 512), "map")]
    plain = secondary_capture(answer, sources, MODEL, overlays, MADE).pixel_array
    remarked = secondary_capture(answer, sources, MODEL, overlays, MADE, [remark]).pixel_array
    rows = plain.shape[0]
    np.testing.assert_array_equal(remarked[:rows], plain)
    assert remarked[rows:].any()


def test_a_capture_shows_the_overlays_at_their_own_resolution_with_the_notice():
    sources = series(3)
    answer, image = answer_for(sources), overlay_image(512, 512)
    overlays = [Overlay(2, image, "map one"), Overlay(0, image[:, ::-1].copy(), "map two")]
    ds = secondary_capture(answer, sources, MODEL, overlays, MADE)
    shown = ds.pixel_array
    assert shown.shape[0] == 2 and shown.shape[2:] == (512, 3)
    top = next(row for row in range(60) if (shown[0, row : row + 512] == image).all())
    np.testing.assert_array_equal(shown[1, top : top + 512], image[:, ::-1])
    yellow = (shown[:, :top] == (255, 255, 0)).all(-1).sum((1, 2))
    assert (yellow > 300).all()  # the notice, on every frame
    assert ds.ImageComments == ds.SeriesDescription == "Research use, not for clinical use"
    assert ds.BurnedInAnnotation == "NO" and ds.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] == [
        sources[2].SOPInstanceUID,
        sources[0].SOPInstanceUID,
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The texts that are burnt in."""
    texts, draw = [], ImageDraw.ImageDraw.text

    def record(self, position, text, *arguments, **options):
        texts.append(text)
        return draw(self, position, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return texts


def test_no_number_reads_as_certain_and_reasons_and_remarks_are_burnt_in(drawn):
    sources = series(1)
    answer = answer_for(
        sources,
        decision="uncertain",
        location="",
        p_hemorrhage=0.999999,
        p_location=(1.0, 0.0, 0.0),
        threshold=0.99971,
        reasons=("one reason",),
        remarks=("2 of 9 slices are left out",),
    )
    certain = dataclasses.replace(answer.slices[0], p_hemorrhage=1.0, p_location=(1.0, 0.0, 0.0))
    answer = dataclasses.replace(answer, slices=(certain,))
    secondary_capture(answer, sources, MODEL, [Overlay(0, overlay_image(512, 512), "map")], MADE)
    assert "Slice 1 of 1: no hemorrhage, probability > 0.999" in drawn
    assert "Given hemorrhage: deep > 0.999  lobar < 0.001  subtentorial < 0.001" in drawn
    assert "Study: uncertain, probability > 0.999, threshold 0.99971" in drawn
    assert drawn[-2:] == ["One reason", "2 of 9 slices are left out"]


def test_a_study_without_a_probability_shows_no_number(drawn):
    sources = series(1)
    changes = {"p_hemorrhage": None, "p_location": None, "decision": "uncertain", "location": ""}
    answer = answer_for(sources, **changes)
    secondary_capture(answer, sources, MODEL, [Overlay(0, overlay_image(512, 512), "map")], MADE)
    assert "Study: uncertain" in drawn and not [text for text in drawn if "probability" in text]
