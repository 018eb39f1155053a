"""A file becomes its HU to the digit, or is refused with the reason that fits."""

import io
import struct

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
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

from data_builder.dicom.read import AIR, read_slices
from data_builder.dicom.refusal import Reason, Refusal
from tests.helpers import ROOT
from tests.helpers.dicom_files import ct, encoded, enhanced, head_hu


def refusal_of(data):
    with pytest.raises(Refusal) as caught:
        read_slices(data)
    return caught.value


def only(ds):
    (one,) = read_slices(encoded(ds))
    return one


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
    np.testing.assert_array_equal(only(ds).hu, head_hu().astype(np.float32))


COMPRESSED = sorted((ROOT / "tests/compressed").glob("*.dcm"))
LARGEST_ERROR = {  # HU; what the encoder was asked for, and rounding. All others: lossless
    "htj2k_lossy": 1,
    "jpeg_baseline": 2,
    "jpeg_extended": 2,
    "jpeg_ls_near": 2,
}


@pytest.mark.parametrize("path", COMPRESSED, ids=lambda path: path.stem)
def test_what_other_peoples_encoders_wrote_is_read(path):
    """DCMTK's and OpenJPH's files: see make_compressed.py."""
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
    error = np.abs(only(ds).hu - head_hu())
    assert error.max() <= 3 and error.mean() < 1 and error.any()


def test_near_lossless_jpeg_ls_keeps_its_promise_with_signed_values():
    ds = ct(PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept=0)
    ds.PixelData = head_hu().astype("<i2").tobytes()
    ds.compress(JPEGLSNearLossless, jls_error=3)
    assert 0 < np.abs(only(ds).hu - head_hu()).max() <= 3


@pytest.mark.parametrize(
    "name",
    ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "JPEG2000Lossless", "JPEGLSLossless"],
)
@pytest.mark.parametrize("signed", [False, True])
def test_what_gdcm_encodes_without_loss_comes_back_to_the_digit(name, signed, tmp_path):
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


def test_slope_intercept_sign_and_unused_bits():
    stored = np.arange(-32, 32, dtype=np.int16).reshape(8, 8)
    ds = ct(np.zeros((8, 8)), PixelRepresentation=1, RescaleSlope="0.5", RescaleIntercept="-3.25")
    # The four unused high bits hold rubbish, as where an overlay lies in them.
    ds.PixelData = ((stored.astype(np.uint16) & 0x0FFF) | 0x5000).astype("<u2").tobytes()
    np.testing.assert_array_equal(only(ds).hu, stored * 0.5 - 3.25)


def test_monochrome1_says_how_to_show_values_not_what_they_are():
    np.testing.assert_array_equal(only(ct(PhotometricInterpretation="MONOCHROME1")).hu, head_hu())


@pytest.mark.parametrize("as_unsigned", [False, True])
def test_padding_becomes_air_in_whatever_sign_it_is_written(as_unsigned):
    hu = head_hu()
    hu[:5] = -2000
    ds = ct(hu, PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleIntercept=0)
    ds.PixelData = hu.astype("<i2").tobytes()
    ds.add_new(0x00280120, "US" if as_unsigned else "SS", 63536 if as_unsigned else -2000)
    read = only(ds).hu
    assert (read[:5] == AIR).all()
    np.testing.assert_array_equal(read[5:], hu[5:])


def test_a_range_of_padding_becomes_air():
    hu = head_hu()
    hu[0], hu[1], hu[2] = -1024, -1020, -1015
    ds = ct(hu)
    ds.add_new(0x00280120, "US", 0)
    ds.add_new(0x00280121, "US", 4)
    read = only(ds).hu
    assert (read[:2] == AIR).all() and (read[2] == -1015).all()


def test_without_rescale_tags_values_are_hu_only_if_some_are_air():
    hu = head_hu()
    signed = ct(PixelRepresentation=1, RescaleIntercept=None, RescaleSlope=None)
    signed.PixelData = (hu.astype("<i2") & 0x0FFF).astype("<u2").tobytes()
    np.testing.assert_array_equal(only(signed).hu, hu)
    unsigned = ct(RescaleIntercept=None, RescaleSlope=None)
    assert refusal_of(encoded(unsigned)).reason == Reason.IMPOSSIBLE_HEADER


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_any_matrix(rows, columns):
    hu = (np.arange(rows * columns).reshape(rows, columns) * 7) % 3000 - 1000
    np.testing.assert_array_equal(only(ct(hu)).hu, hu)


def test_a_file_without_preamble_is_read():
    whole = encoded(ct())
    np.testing.assert_array_equal(read_slices(whole[132:])[0].hu, head_hu())
    ds = ct()
    buffer = io.BytesIO()
    del ds.file_meta
    pydicom.dcmwrite(buffer, ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_slices(buffer.getvalue())[0].hu, head_hu())


def test_place_along_the_normal_under_a_tilted_gantry():
    # Table steps of 4.2201 mm along z with an 18.5 degree tilt are 4.0020 mm along the normal.
    cosine, sine = np.cos(np.deg2rad(18.5)), np.sin(np.deg2rad(18.5))
    tilted = [1, 0, 0, 0, round(cosine, 9), round(-sine, 9)]
    low, high = (
        only(ct(ImageOrientationPatient=tilted, ImagePositionPatient=[-30, -30, z])).header
        for z in (0, 4.2201)
    )
    assert high.position_mm - low.position_mm == pytest.approx(4.2201 * cosine, abs=1e-4)
    assert low.tilt_degrees == pytest.approx(18.5, abs=1e-3)
    prone = only(ct(ImageOrientationPatient=[1, 0, 0, 0, -1, 0])).header
    assert prone.position_mm == pytest.approx(5)


def test_identity_is_the_patient_id_with_its_issuer_or_the_study():
    assert only(ct()).header.identity == "A17"
    assert only(ct(IssuerOfPatientID="here")).header.identity == "A17^here"
    ds = ct(PatientID=" ")
    assert only(ds).header.identity == ds.StudyInstanceUID


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_texts_that_may_hold_a_name_do_not_pass_as_facts():
    header = only(ct(PatientSex="DOE", StudyDate="DOE^JOHN", AcquisitionDate="20190304")).header
    assert (header.sex, header.year) == ("", "2019")


def test_enhanced_frames_have_their_own_places_and_shared_rescale():
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


def test_a_coronal_frame_costs_the_file_and_is_named():
    ds = enhanced(np.stack([head_hu()] * 2), (0.0, 5.0))
    plane = Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    ds.PerFrameFunctionalGroupsSequence[1].PlaneOrientationSequence = [plane]
    refusal = refusal_of(encoded(ds))
    assert (refusal.reason, refusal.frame) == (Reason.NOT_AXIAL, 2)


UNSEEN = {
    "another modality": (dict(Modality="MR"), Reason.NOT_CT),
    "another class": (dict(SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), Reason.NOT_CT),
    "effective atomic numbers": (dict(RescaleType="Z_EFF"), Reason.NOT_CT),
    "scout": (dict(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), Reason.LOCALIZER),
    "capture": (dict(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), Reason.SECONDARY_CAPTURE),
    "screen": (dict(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), Reason.SECONDARY_CAPTURE),
    "burned in": (dict(BurnedInAnnotation="YES"), Reason.SECONDARY_CAPTURE),
    "palette": (dict(PhotometricInterpretation="PALETTE COLOR"), Reason.COLOUR),
    "rgb": (dict(SamplesPerPixel=3, PhotometricInterpretation="RGB"), Reason.COLOUR),
    "chest": (dict(BodyPartExamined="CHEST"), Reason.NOT_HEAD),
    "coronal": (dict(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), Reason.NOT_AXIAL),
    "not unit": (dict(ImageOrientationPatient=[1, 0, 0, 0, 3, 0]), Reason.IMPOSSIBLE_HEADER),
    "no pixels": (dict(PixelData=None), Reason.NO_PIXELS),
    "empty pixels": (dict(PixelData=b""), Reason.NO_PIXELS),
    "too long": (dict(PixelData=b"\0" * 64 * 64 * 4), Reason.PIXEL_LENGTH),
    "too short": (dict(PixelData=b"\0" * 64 * 62), Reason.PIXEL_LENGTH),
    "one bit": (dict(BitsAllocated=1, BitsStored=1, HighBit=0), Reason.IMPOSSIBLE_HEADER),
    "high bit": (dict(HighBit=16), Reason.IMPOSSIBLE_HEADER),
    "stored over allocated": (dict(BitsStored=20, HighBit=19), Reason.IMPOSSIBLE_HEADER),
    "no frames": (dict(NumberOfFrames=0), Reason.IMPOSSIBLE_HEADER),
    "frames without places": (
        dict(NumberOfFrames=2, PixelData=b"\0" * 64 * 64 * 4),
        Reason.IMPOSSIBLE_HEADER,
    ),
    "no rows": (dict(Rows=0), Reason.IMPOSSIBLE_HEADER),
    "no columns": (dict(Columns=None), Reason.IMPOSSIBLE_HEADER),
    "slope 0": (dict(RescaleSlope=0), Reason.IMPOSSIBLE_HEADER),
    "spacing 0": (dict(PixelSpacing=[0, 0]), Reason.IMPOSSIBLE_HEADER),
    "slope endless": (dict(RescaleSlope="1e999"), Reason.IMPOSSIBLE_HEADER),
}


@pytest.mark.parametrize(("changes", "reason"), UNSEEN.values(), ids=UNSEEN)
def test_refused(changes, reason):
    assert refusal_of(encoded(ct(**changes))).reason == reason


def test_head_and_neck_and_an_unknown_part_are_not_refused():
    for part in ("HEADNECK", "BRAIN", "SKULL", "XYZ", ""):
        assert only(ct(BodyPartExamined=part)).hu.shape == (64, 64)


@pytest.mark.parametrize("data", [b"", b"a", b"study,slice\n1,2\n", b"\x08\x00" * 80, bytes(500)])
def test_not_dicom(data):
    assert refusal_of(data).reason in (Reason.NOT_DICOM, Reason.TRUNCATED)


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
def test_what_no_library_decodes_is_refused_by_name(number, name):
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


def test_what_follows_the_pixels_and_pixels_of_an_icon_do_no_harm():
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


def test_a_directory_of_a_medium_and_a_file_cut_in_its_first_bytes_are_called_so():
    whole = encoded(ct())
    assert refusal_of(whole[:140]).reason == Reason.TRUNCATED
    directory = Dataset()
    directory.DirectoryRecordSequence = [Dataset()]
    directory.file_meta = ct().file_meta
    assert refusal_of(encoded(directory)).reason == Reason.NO_PIXELS


def test_two_images_where_the_header_says_one():
    ds = ct()
    ds.compress(JPEGLSLossless)
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame, frame])
    assert refusal_of(encoded(ds)).reason == Reason.PIXEL_LENGTH


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_read_or_refused_and_never_raises_else(data):
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
def test_nothing_of_a_file_is_said_in_warnings(recwarn, capfd, caplog):
    odd = ct(PatientBirthDate="SECRET", StudyDate="SECRET", InstanceNumber=1)
    odd.add_new(0x00100020, "LO", "SECRET" * 30)
    data = encoded(odd)
    recwarn.clear()
    caplog.clear()
    read_slices(data)
    assert not caplog.records
    assert not recwarn.list
    assert "SECRET" not in "".join(capfd.readouterr())
