"""Headers give position, identity and facts, or the reason of a refusal."""

import numpy as np
import pytest

from data_builder.dicom.refusal import Reason
from tests.helpers.dicom_files import ct, encoded
from tests.helpers.dicom_read import read_one, refusal_of

REFUSED = {
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


def test_position_along_the_normal_under_a_tilted_gantry():
    # Table steps of 4.2201 mm along z with an 18.5 degree tilt are 4.0020 mm along the normal.
    cosine, sine = np.cos(np.deg2rad(18.5)), np.sin(np.deg2rad(18.5))
    tilted = [1, 0, 0, 0, round(cosine, 9), round(-sine, 9)]
    low, high = (
        read_one(ct(ImageOrientationPatient=tilted, ImagePositionPatient=[-30, -30, z])).header
        for z in (0, 4.2201)
    )
    assert high.position_mm - low.position_mm == pytest.approx(4.2201 * cosine, abs=1e-4)
    assert low.tilt_degrees == pytest.approx(18.5, abs=1e-3)
    prone = read_one(ct(ImageOrientationPatient=[1, 0, 0, 0, -1, 0])).header
    assert prone.position_mm == pytest.approx(5)


def test_identity_is_the_patient_id_with_its_issuer_or_the_study():
    assert read_one(ct()).header.identity == "A17"
    assert read_one(ct(IssuerOfPatientID="here")).header.identity == "A17^here"
    ds = ct(PatientID=" ")
    assert read_one(ds).header.identity == ds.StudyInstanceUID


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")
def test_texts_that_may_hold_a_name_do_not_pass_as_facts():
    header = read_one(ct(PatientSex="DOE", StudyDate="DOE^JOHN", AcquisitionDate="20190304")).header
    assert (header.sex, header.year) == ("", "2019")


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(changes, reason):
    assert refusal_of(encoded(ct(**changes))).reason == reason


def test_head_and_neck_and_an_unknown_part_are_not_refused():
    for part in ("HEADNECK", "BRAIN", "SKULL", "XYZ", ""):
        assert read_one(ct(BodyPartExamined=part)).hu.shape == (64, 64)
