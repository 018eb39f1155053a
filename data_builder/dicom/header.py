"""Reads a CT header: whether the image may be used, whose it is, and its position.

Nothing here reads pixels. The detail of a refusal never repeats a text of the file.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from pydicom.dataset import Dataset

from data_builder.dicom.refusal import Reason, Refusal
from data_builder.dicom.tags import Tags, items_of


@dataclasses.dataclass(frozen=True)
class Header:
    """One axial CT image. Texts are the file's own: private, for pseudonyms and never written.

    `frame` is 0 for the only image of a file, else it counts from 1. `position_mm` is Image
    Position (0020,0032) along the normal of Image Orientation (0020,0037), rising to the head;
    `row_mm` and `column_mm` are the distances of rows and of columns (0028,0030). Lengths are nan
    where unknown. `identity` is the Patient ID (0010,0020) with its issuer, or the study's UID.
    `phantom` is whether it is a synthetic one of `data_builder.phantom`.
    """

    sop_uid: str
    series_uid: str
    study_uid: str
    identity: str
    patient_id: str
    frame: int
    instance: int | None
    position_mm: float
    row_mm: float
    column_mm: float
    thickness_mm: float
    tilt_degrees: float
    sex: str
    year: str
    manufacturer: str
    model: str
    phantom: bool

    @property
    def slice_identity(self) -> str:
        """The image's own identity: SOP Instance UID (0008,0018), with the frame if several."""
        return f"{self.sop_uid}/{self.frame}" if self.frame else self.sop_uid


CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced
}
PHANTOM_MARKS = {
    "QualityControlSubject": "YES",
    "Manufacturer": "DTViT-JAX",
    "SoftwareVersions": "phantom",
}
"""The values of attributes by which a synthetic phantom is known.

Quality Control Subject (0010,0200) alone is the mark of any phantom, a scanned one too; with this
Manufacturer (0008,0070) and Software Versions (0018,1020) no scanner wrote the file. One that was
anonymised may have lost them, and then counts as a scan.
"""
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LOCALIZERS = {"LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVIEW"}
_SCREENS = re.compile(r"SCREEN|PROTOCOL|\bPROT\b|DOSE[ _]?(INFO|REPORT)|REPORT|\bVRT\b")
_HEAD = re.compile(r"HEAD|BRAIN|SKULL|CRANI|NEURO|ORBIT|FACE|SINUS|EAR\b|MASTOID|WHOLE ?BODY")
_OTHER_PARTS = re.compile(
    r"CHEST|THORAX|LUNG|HEART|CARDIAC|CORONARY|BREAST|ABDOMEN|PELVI|LIVER|KIDNEY|SPINE|SACRUM|"
    r"COCCYX|\bNECK|EXTREMITY|\bARM\b|\bHAND\b|WRIST|ELBOW|SHOULDER|CLAVICLE|HUMERUS|FOREARM|"
    r"FINGER|\bLEG\b|THIGH|FEMUR|KNEE|TIBIA|CALF|ANKLE|\bFOOT\b|\bTOE\b|CALCANEUS|\bHIP\b|"
    r"PROSTATE|BLADDER|COLON"
)
_NOT_HU = {"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"}
_STEEPEST_TILT = 45.0


def check_kind(dataset: Dataset) -> None:
    """Raises Refusal unless the object is a CT image in gray values that may show a head."""
    tags = Tags(dataset)
    sop_class, modality = tags.text("SOPClassUID"), tags.text("Modality").upper()
    if sop_class.startswith(_SECONDARY_CAPTURE):
        raise Refusal(Reason.SECONDARY_CAPTURE, "its SOP Class is Secondary Capture")
    if modality not in ("CT", "") or (sop_class and sop_class not in CT_CLASSES):
        raise Refusal(Reason.NOT_CT, "its Modality or SOP Class is not that of a CT image")
    if not modality and not sop_class:
        raise Refusal(Reason.NOT_CT, "Modality and SOP Class are missing")
    _check_type(tags)
    if tags.text("BurnedInAnnotation").upper() == "YES" or tags.text("ConversionType"):
        raise Refusal(Reason.SECONDARY_CAPTURE, "text is burned in, or it was converted")
    samples, gray = tags.whole("SamplesPerPixel"), tags.text("PhotometricInterpretation").upper()
    if (samples or 1) > 1 or gray not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise Refusal(Reason.COLOUR, "it has several samples per pixel, or a palette")
    part = " ".join([tags.text("BodyPartExamined"), *_regions(dataset)]).upper()
    if _OTHER_PARTS.search(part) and not _HEAD.search(part):
        raise Refusal(Reason.NOT_HEAD, "Body Part Examined or Anatomic Region names another part")
    if tags.text("RescaleType").upper() in _NOT_HU:
        raise Refusal(Reason.NOT_CT, "its Rescale Type is not HU")


def _check_type(tags: Tags) -> None:
    for keyword in ("ImageType", "FrameType"):
        kind = tags.text(keyword).upper()
        if _LOCALIZERS & set(re.split(r"[\\ _]", kind)):
            raise Refusal(Reason.LOCALIZER, f"{keyword} is that of a localizer")
        if _SCREENS.search(kind):
            raise Refusal(Reason.SECONDARY_CAPTURE, f"{keyword} is that of a screen or report")


def _regions(dataset: Dataset) -> Iterator[str]:
    for item in items_of(dataset, "AnatomicRegionSequence"):
        yield Tags(item).text("CodeMeaning")


def frame_header(dataset: Dataset, frame: int) -> Header:
    """Reads the header of one frame (0: the only image of a file).

    Raises Refusal where the plane is not axial or a value is impossible.
    """
    try:
        return _frame_header(Tags(dataset, frame), frame)
    except Refusal as refusal:
        raise Refusal(refusal.reason, refusal.detail, frame) from None


def _frame_header(tags: Tags, frame: int) -> Header:
    _check_type(tags)
    normal, tilt = _normal(tags)
    corner = tags.numbers("ImagePositionPatient", 3)
    if corner is not None and normal is not None:
        position = math.fsum(a * b for a, b in zip(corner, normal, strict=True))
    else:
        position = tags.number("SliceLocation")
    spacing = tags.numbers("PixelSpacing", 2) or (math.nan, math.nan)
    if min(spacing) <= 0:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, "PixelSpacing is not above 0")
    thickness = tags.number("SliceThickness")
    sop = tags.text("SOPInstanceUID")
    study = tags.text("StudyInstanceUID") or tags.text("SeriesInstanceUID") or sop
    patient, issuer = tags.text("PatientID"), tags.text("IssuerOfPatientID")
    return Header(
        sop_uid=sop,
        series_uid=tags.text("SeriesInstanceUID") or study,
        study_uid=study,
        identity=identity_of(patient, issuer) or study,
        patient_id=patient,
        frame=frame,
        instance=tags.whole("InstanceNumber"),
        position_mm=position,
        row_mm=spacing[0],
        column_mm=spacing[1],
        thickness_mm=thickness if thickness > 0 else math.nan,
        tilt_degrees=tilt,
        sex=sex if (sex := tags.text("PatientSex").upper()) in ("M", "F", "O") else "",
        year=_year(tags),
        manufacturer=tags.text("Manufacturer"),
        model=tags.text("ManufacturerModelName"),
        phantom=all(tags.text(keyword) == value for keyword, value in PHANTOM_MARKS.items()),
    )


def identity_of(patient_id: str, issuer: str) -> str:
    """A person's identity: Patient ID (0010,0020), with its issuer (0010,0021) where given."""
    return f"{patient_id}^{issuer}" if issuer else patient_id


def _normal(tags: Tags) -> tuple[tuple[float, ...] | None, float]:
    """The unit normal of the plane, pointing to the head, and its angle to the body's axis.

    None and nan without Image Orientation (Patient).
    """
    directions = tags.numbers("ImageOrientationPatient", 6)
    if directions is None:
        return None, math.nan
    (a, b, c), (d, e, f) = directions[:3], directions[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    lengths = (math.hypot(a, b, c), math.hypot(d, e, f), math.hypot(*normal))
    if max(abs(length - 1) for length in lengths) > 0.02:
        raise Refusal(
            Reason.IMPOSSIBLE_HEADER, "ImageOrientationPatient is not two orthogonal unit vectors"
        )
    tilt = math.degrees(math.acos(min(1.0, abs(normal[2]))))
    if tilt > _STEEPEST_TILT:
        raise Refusal(Reason.NOT_AXIAL, f"its plane is tilted by {tilt:.0f} degrees")
    sign = math.copysign(1.0, normal[2])
    return tuple(sign * component for component in normal), tilt


def _year(tags: Tags) -> str:
    for keyword in ("AcquisitionDate", "AcquisitionDateTime", "ContentDate", "StudyDate"):
        if year := re.match(r"(19|20)\d\d", tags.text(keyword)):
            return year.group()
    return ""
