"""A file becomes its HU to the digit, or is refused; nothing of it is printed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEGLSLossless,
)

from data_builder.dicom.read import AIR, read_slices
from data_builder.dicom.refusal import Reason, Refusal
from tests.helpers.dicom_files import ct, encoded, enhanced, head_hu
from tests.helpers.dicom_read import read_one, refusal_of


def test_slope_intercept_sign_and_unused_bits():
    stored = np.arange(-32, 32, dtype=np.int16).reshape(8, 8)
    ds = ct(np.zeros((8, 8)), PixelRepresentation=1, RescaleSlope="0.5", RescaleIntercept="-3.25")
    # The four unused high bits are set at random, as an old overlay would set them.
    ds.PixelData = ((stored.astype(np.uint16) & 0x0FFF) | 0x5000).astype("<u2").tobytes()
    np.testing.assert_array_equal(read_one(ds).hu, stored * 0.5 - 3.25)


def test_monochrome1_does_not_change_values():
    np.testing.assert_array_equal(
        read_one(ct(PhotometricInterpretation="MONOCHROME1")).hu, head_hu()
    )


@pytest.mark.parametrize("as_unsigned", [False, True])
def test_padding_becomes_air_with_the_sign_of_the_pixels_or_without(as_unsigned):
    hu = head_hu()
    hu[:5] = -2000
    ds = ct(hu, PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept=0)
    ds.PixelData = hu.astype("<i2").tobytes()
    ds.add_new(0x00280120, "US" if as_unsigned else "SS", 63536 if as_unsigned else -2000)
    read = read_one(ds).hu
    assert (read[:5] == AIR).all()
    np.testing.assert_array_equal(read[5:], hu[5:])


def test_a_range_of_padding_becomes_air():
    hu = head_hu()
    hu[0], hu[1], hu[2] = -1024, -1020, -1015
    ds = ct(hu)
    ds.add_new(0x00280120, "US", 0)
    ds.add_new(0x00280121, "US", 4)
    read = read_one(ds).hu
    assert (read[:2] == AIR).all() and (read[2] == -1015).all()


def test_without_rescale_tags_values_are_hu_only_if_some_are_air():
    hu = head_hu()
    signed = ct(PixelRepresentation=1, RescaleIntercept=None, RescaleSlope=None)
    signed.PixelData = (hu.astype("<i2") & 0x0FFF).astype("<u2").tobytes()
    np.testing.assert_array_equal(read_one(signed).hu, hu)
    unsigned = ct(RescaleIntercept=None, RescaleSlope=None)
    assert refusal_of(encoded(unsigned)).reason == Reason.IMPOSSIBLE_HEADER


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_any_matrix(rows, columns):
    hu = (np.arange(rows * columns).reshape(rows, columns) * 7) % 3000 - 1000
    np.testing.assert_array_equal(read_one(ct(hu)).hu, hu)


def test_enhanced_frames_have_their_own_positions_and_shared_rescale():
    stack = np.stack([head_hu() + k for k in range(3)])
    slices = read_slices(encoded(enhanced(stack, (10.0, 5.0, 0.0))))
    assert [s.header.position_mm for s in slices] == [10, 5, 0]
    assert [s.header.frame for s in slices] == [1, 2, 3]
    assert {s.header.thickness_mm for s in slices} == {2.5}
    assert len({s.header.slice_identity for s in slices}) == 3
    np.testing.assert_array_equal(np.stack([s.hu for s in slices]), stack)


def test_enhanced_frames_compressed_one_by_one():
    stack = np.stack([head_hu() + k for k in range(3)])
    ds = enhanced(stack, (0.0, 5.0, 10.0))
    ds.compress(JPEGLSLossless)
    np.testing.assert_array_equal(np.stack([s.hu for s in read_slices(encoded(ds))]), stack)


def test_a_coronal_frame_refuses_the_file_and_is_named():
    ds = enhanced(np.stack([head_hu()] * 2), (0.0, 5.0))
    plane = Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    ds.PerFrameFunctionalGroupsSequence[1].PlaneOrientationSequence = [plane]
    refusal = refusal_of(encoded(ds))
    assert (refusal.reason, refusal.frame) == (Reason.NOT_AXIAL, 2)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_read_or_refused_and_raises_nothing_else(data):
    whole = bytearray(encoded(ct(SOPInstanceUID="1.2.3", PatientName="SECRET^NAME")))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, 1200))] = data.draw(st.integers(0, 255))
    try:
        slices = read_slices(bytes(whole))
    except Refusal as refusal:
        assert "SECRET" not in refusal.detail and "A17" not in refusal.detail
    else:
        assert all(s.hu.ndim == 2 and np.isfinite(s.hu).all() for s in slices)


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning", "ignore:The value:UserWarning")
def test_no_text_of_a_file_is_in_warnings_or_logs(recwarn, capfd, caplog):
    odd = ct(PatientBirthDate="SECRET", StudyDate="SECRET", InstanceNumber=1)
    odd.add_new(0x00100020, "LO", "SECRET" * 30)
    data = encoded(odd)
    recwarn.clear()
    caplog.clear()
    read_slices(data)
    assert not caplog.records
    assert not recwarn.list
    assert "SECRET" not in "".join(capfd.readouterr())
