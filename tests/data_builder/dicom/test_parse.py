"""Cut, foreign and padded files are parsed up to their pixels, or refused."""

import io
import struct

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from data_builder.dicom.read import read_slices
from data_builder.dicom.refusal import Reason
from tests.helpers.dicom_files import ct, encoded, head_hu
from tests.helpers.dicom_read import refusal_of


def test_a_file_without_preamble_is_read():
    whole = encoded(ct())
    np.testing.assert_array_equal(read_slices(whole[132:])[0].hu, head_hu())
    ds = ct()
    buffer = io.BytesIO()
    del ds.file_meta
    pydicom.dcmwrite(buffer, ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_slices(buffer.getvalue())[0].hu, head_hu())


@pytest.mark.parametrize("data", [b"", b"a", b"study,slice\n1,2\n", b"\x08\x00" * 80, bytes(500)])
def test_not_dicom(data):
    assert refusal_of(data).reason in (Reason.NOT_DICOM, Reason.TRUNCATED)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless]
)
def test_a_file_cut_anywhere_in_its_pixels_is_truncated(syntax):
    ds = ct()
    if syntax.is_encapsulated:
        ds.compress(syntax)
    ds.file_meta.TransferSyntaxUID = syntax
    whole = encoded(ds)
    start = whole.index(b"\xe0\x7f\x10\x00")
    first, last = start + 12, len(whole) - 12  # the last 8 bytes of some are a delimiter
    for share in (0.1, 0.5, 0.9, 1.0):
        cut = whole[: first + int(share * (last - first))]
        assert refusal_of(cut).reason == Reason.TRUNCATED


def test_a_tail_after_the_pixels_and_pixels_of_an_icon_are_ignored():
    icon = Dataset()
    icon.Rows = icon.Columns = 2
    icon.PixelData = bytes(4)
    icon["PixelData"].VR = "OB"
    ds = ct(IconImageSequence=[icon])
    whole = encoded(ds)
    for tail in (b"", bytes(3_000_000), b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0abcd", b"rubbish"):
        np.testing.assert_array_equal(read_slices(whole + tail)[0].hu, head_hu())


@pytest.mark.parametrize("keyword", ["SOPClassUID", "PatientID", "StudyInstanceUID"])
def test_an_element_that_claims_the_rest_of_the_file_is_truncated_not_foreign(keyword):
    whole, tag = encoded(ct()), ct()[keyword].tag
    start = whole.rindex(struct.pack("<HH", tag.group, tag.elem))
    long = whole[: start + 4] + b"UT\0\0\xfe\xff\xff\x00" + whole[start + 8 :]
    assert refusal_of(long).reason == Reason.TRUNCATED


def test_a_directory_of_a_medium_and_a_file_cut_in_its_first_bytes_have_their_own_reasons():
    whole = encoded(ct())
    assert refusal_of(whole[:140]).reason == Reason.TRUNCATED
    directory = Dataset()
    directory.DirectoryRecordSequence = [Dataset()]
    directory.file_meta = ct().file_meta
    assert refusal_of(encoded(directory)).reason == Reason.NO_PIXELS
