"""Every transfer syntax decodes to its stored values, or is refused by name."""

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from data_builder.dicom.read import read_slices
from data_builder.dicom.refusal import Reason
from tests.helpers import ROOT
from tests.helpers.dicom_files import ct, encoded, head_hu
from tests.helpers.dicom_read import read_one, refusal_of

LOSSLESS = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEG2000,  # the stream decides: this one is reversible
]

COMPRESSED = sorted((ROOT / "tests/compressed").glob("*.dcm"))
LARGEST_ERROR = {  # HU: the limit given to the encoder, and rounding; all others are lossless
    "htj2k_lossy": 1,
    "jpeg_baseline": 2,
    "jpeg_extended": 2,
    "jpeg_ls_near": 2,
}


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("stored_bits", [12, 13, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_a_lossless_transfer_syntax_gives_the_same_hu_to_the_digit(syntax, stored_bits, signed):
    ds = ct(BitsStored=stored_bits, HighBit=stored_bits - 1)
    if signed:
        ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
        ds.PixelData = head_hu().astype("<i2").tobytes()
    if syntax == JPEG2000:
        ds.compress(JPEG2000Lossless)
    elif syntax.is_encapsulated:
        ds.compress(syntax)
    ds.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(read_one(ds).hu, head_hu().astype(np.float32))


@pytest.mark.parametrize("path", COMPRESSED, ids=lambda path: path.stem)
def test_files_of_other_encoders_are_read(path):
    """Files of DCMTK and OpenJPH: see make_compressed.py."""
    name, kind = path.stem.rsplit("_", 1)
    hu = np.clip(head_hu(), -100, 100) if kind == "gray" else head_hu()
    (one,) = read_slices(path)
    assert np.abs(one.hu - hu).max() <= LARGEST_ERROR.get(name, 0)


def test_every_transfer_syntax_has_its_file():
    kinds = [pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in COMPRESSED]
    encapsulated = {UID(f"1.2.840.10008.1.2.4.{n}") for n in (50, 51, 57, 70, 80, 81)}
    encapsulated |= {UID(f"1.2.840.10008.1.2.4.{n}") for n in (201, 202, 203)} | {RLELossless}
    assert set(kinds) == encapsulated


def test_lossy_jpeg_2000_comes_back_close():
    ds = ct()
    ds.compress(JPEG2000, j2k_cr=[2])
    error = np.abs(read_one(ds).hu - head_hu())
    assert error.max() <= 3 and error.mean() < 1 and error.any()


def test_near_lossless_jpeg_ls_keeps_its_limit_with_signed_values():
    ds = ct(PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept=0)
    ds.PixelData = head_hu().astype("<i2").tobytes()
    ds.compress(JPEGLSNearLossless, jls_error=3)
    assert 0 < np.abs(read_one(ds).hu - head_hu()).max() <= 3


@pytest.mark.parametrize(
    "name",
    ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "JPEG2000Lossless", "JPEGLSLossless"],
)
@pytest.mark.parametrize("signed", [False, True])
def test_images_that_gdcm_encodes_without_loss_come_back_to_the_digit(name, signed, tmp_path):
    ds = ct()
    if signed:
        ds.PixelRepresentation, ds.RescaleIntercept = 1, 0
        ds.BitsStored, ds.HighBit = 16, 15
        ds.PixelData = head_hu().astype("<i2").tobytes()
    plain = tmp_path / "plain.dcm"
    plain.write_bytes(encoded(ds))
    reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "packed.dcm"))
    assert writer.Write()
    (one,) = read_slices(tmp_path / "packed.dcm")
    np.testing.assert_array_equal(one.hu, head_hu().astype(np.float32))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        ("1.2.840.10008.1.2.4.52", "JPEG Extended (Process 3 and 5)"),
        ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2"),
        ("1.2.840.10008.1.2.4.94", "JPIP"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4"),
        ("1.2.840.10008.1.2.4.107", "HEVC"),
        ("1.2.840.10008.1.2.4.110", "JPEG XL"),
        ("1.2.840.10008.1.2.4.204", "JPIP HTJ2K"),
        ("1.2.840.10008.1.2.8.1", "Deflated Image Frame"),
    ],
)
def test_a_syntax_that_no_library_decodes_is_refused_by_name(number, name):
    ds = ct()
    ds.compress(JPEG2000Lossless)
    whole, written = encoded(ds), b"UI\x16\0" + JPEG2000Lossless.encode()
    assert len(written) == 26 and whole.count(written) == 1
    padded = number.encode() + b"\0" * (len(number) % 2)
    changed = whole.replace(written, b"UI" + len(padded).to_bytes(2, "little") + padded)
    refusal = refusal_of(changed)
    assert refusal.reason == Reason.NO_DECODER and name in refusal.detail


def test_a_name_that_the_standard_does_not_know_is_not_repeated():
    ds = ct()
    ds.compress(JPEG2000Lossless)
    whole, uid = encoded(ds), JPEG2000Lossless.encode()
    private = b"1.2.840.99999.1.2.4.94"
    refusal = refusal_of(whole.replace(uid, private))
    assert refusal.reason == Reason.NO_DECODER and private.decode() not in refusal.detail


def test_two_images_where_the_header_says_one():
    ds = ct()
    ds.compress(JPEGLSLossless)
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame, frame])
    assert refusal_of(encoded(ds)).reason == Reason.PIXEL_LENGTH
