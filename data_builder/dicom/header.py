"""What a CT header says of an image: whether it may be used, whose it is, where it lies.

Nothing here reads pixels. A refusal's detail never repeats a text that stands in the file.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pydicom.dataset import Dataset


class Reason(StrEnum):
    """Why a file is not used: the fixed list of `refused.csv`."""

    NOT_DICOM = "not DICOM"
    NO_PIXELS = "no pixel data"
    NOT_CT = "not CT"
    LOCALIZER = "localizer"
    SECONDARY_CAPTURE = "secondary capture or screen"
    COLOUR = "colour"
    NO_DECODER = "no decoder"
    DECODER_FAILED = "decoder failed"
    TRUNCATED = "truncated"
    PIXEL_LENGTH = "pixel data length"
    IMPOSSIBLE_HEADER = "impossible header"
    NOT_HEAD = "not the head"
    NOT_AXIAL = "not axial"
    DUPLICATE = "duplicate"
    UNREADABLE = "unreadable"


class Refusal(Exception):
    """A file that can't be used: a reason of the fixed list, and a detail free of identity.

    `frame` counts from 1 where one frame of several is at fault, else it is 0.
    """

    def __init__(self, reason: Reason, detail: str, frame: int = 0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.frame = reason, detail, frame


@dataclasses.dataclass(frozen=True)
class Header:
    """One axial CT image. Texts are the file's own: private, for pseudonyms and never written.

    `frame` is 0 for the only image of a file, else it counts from 1. `position_mm` grows towards
    the head along the image's normal (0020,0032 and 0020,0037); lengths are nan where unknown.
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

    @property
    def slice_identity(self) -> str:
        """What tells this image from every other: SOP Instance UID, and the frame if several."""
        return f"{self.sop_uid}/{self.frame}" if self.frame else self.sop_uid


CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced
}
_SINGLE_FRAME_CT = "1.2.840.10008.5.1.4.1.1.2"
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


class Tags:
    """Attributes of one frame by keyword: its own functional groups, the shared, the file's."""

    def __init__(self, dataset: Dataset, frame: int = 0) -> None:
        self._places = [dataset]
        if frame:
            own = _items(dataset, "PerFrameFunctionalGroupsSequence")[frame - 1 : frame]
            groups = [*own, *_items(dataset, "SharedFunctionalGroupsSequence")[:1]]
            inner = [
                item
                for group in groups
                for element in group
                if element.VR == "SQ"
                for item in element.value[:1]
            ]
            self._places = [*inner, dataset]

    def value(self, keyword: str) -> Any:
        """The attribute's value; None where it is absent, empty or can't be parsed."""
        for place in self._places:
            try:
                found = place.get(keyword)
            except Exception:  # pydicom raises many kinds for a value that breaks its VR
                continue
            if found is not None and found != "":
                return found
        return None

    def text(self, keyword: str) -> str:
        """The value as one text without spaces around it; several are joined by a backslash."""
        found = self.value(keyword)
        if found is None:
            return ""
        parts = [found] if isinstance(found, str) or not hasattr(found, "__iter__") else found
        return "\\".join(str(part) for part in parts).strip(" \0")

    def whole(self, keyword: str) -> int | None:
        """The value as one whole number; None where it isn't one."""
        found = self.value(keyword)
        return int(found) if isinstance(found, int) else None

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """The value as `count` finite numbers; None if absent, a Refusal if anything else."""
        if not any(keyword in place for place in self._places):
            return None
        found = self.value(keyword)
        if found is None:
            self._refuse_unreadable(keyword)
            return None
        try:
            parts = [float(part) for part in (found if count > 1 else [found])]
        except (TypeError, ValueError):
            parts = []
        if len(parts) != count or not all(map(math.isfinite, parts)):
            raise Refusal(Reason.IMPOSSIBLE_HEADER, f"{keyword} is not {count} finite numbers")
        return tuple(parts)

    def _refuse_unreadable(self, keyword: str) -> None:
        for place in self._places:
            element = place.get_item(keyword)
            if element is not None and element.value not in (None, b"", ""):
                raise Refusal(Reason.IMPOSSIBLE_HEADER, f"{keyword} can't be read as numbers")


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    found = dataset.get(keyword)
    return list(found) if found is not None else []


def check_kind(dataset: Dataset) -> None:
    """Raises Refusal unless the object is a CT image in gray values that may show a head."""
    tags = Tags(dataset)
    sop_class, modality = tags.text("SOPClassUID"), tags.text("Modality").upper()
    if sop_class.startswith(_SECONDARY_CAPTURE):
        raise Refusal(Reason.SECONDARY_CAPTURE, "its SOP class is secondary capture")
    if modality not in ("CT", "") or (sop_class and sop_class not in CT_CLASSES):
        raise Refusal(Reason.NOT_CT, "its Modality or SOP class is another")
    if not modality and not sop_class:
        raise Refusal(Reason.NOT_CT, "Modality and SOP class are missing")
    _check_type(tags)
    if tags.text("BurnedInAnnotation").upper() == "YES" or tags.text("ConversionType"):
        raise Refusal(Reason.SECONDARY_CAPTURE, "text is burned in, or it was converted")
    samples, gray = tags.whole("SamplesPerPixel"), tags.text("PhotometricInterpretation").upper()
    if (samples or 1) > 1 or gray not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise Refusal(Reason.COLOUR, "it has several samples a pixel, or a palette")
    part = " ".join([tags.text("BodyPartExamined"), *_regions(dataset)]).upper()
    if _OTHER_PARTS.search(part) and not _HEAD.search(part):
        raise Refusal(Reason.NOT_HEAD, "Body Part Examined or Anatomic Region is another part")
    if tags.text("RescaleType").upper() in _NOT_HU:
        raise Refusal(Reason.NOT_CT, "Rescale Type says that its values are not HU")


def _check_type(tags: Tags) -> None:
    for keyword in ("ImageType", "FrameType"):
        kind = tags.text(keyword).upper()
        if _LOCALIZERS & set(re.split(r"[\\ _]", kind)):
            raise Refusal(Reason.LOCALIZER, f"{keyword} says so")
        if _SCREENS.search(kind):
            raise Refusal(Reason.SECONDARY_CAPTURE, f"{keyword} says so")


def _regions(dataset: Dataset) -> Iterator[str]:
    for item in _items(dataset, "AnatomicRegionSequence"):
        yield Tags(item).text("CodeMeaning")


def frame_header(dataset: Dataset, frame: int) -> Header:
    """The header of one frame (0: the only image). Raises Refusal if it isn't axial, or absurd."""
    try:
        return _frame_header(Tags(dataset, frame), frame)
    except Refusal as refusal:
        raise Refusal(refusal.reason, refusal.detail, frame) from None


def _frame_header(tags: Tags, frame: int) -> Header:
    _check_type(tags)
    normal, tilt = _normal(tags)
    place = tags.numbers("ImagePositionPatient", 3)
    if place is not None and normal is not None:
        position = math.fsum(a * b for a, b in zip(place, normal, strict=True))
    else:
        position = (tags.numbers("SliceLocation", 1) or (math.nan,))[0]
    spacing = tags.numbers("PixelSpacing", 2) or (math.nan, math.nan)
    if min(spacing) <= 0:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, "PixelSpacing is not above 0")
    thickness = (tags.numbers("SliceThickness", 1) or (math.nan,))[0]
    sop = tags.text("SOPInstanceUID")
    study = tags.text("StudyInstanceUID") or tags.text("SeriesInstanceUID") or sop
    patient, issuer = tags.text("PatientID"), tags.text("IssuerOfPatientID")
    return Header(
        sop_uid=sop,
        series_uid=tags.text("SeriesInstanceUID") or study,
        study_uid=study,
        identity=(f"{patient}^{issuer}" if issuer else patient) or study,
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
    )


def _normal(tags: Tags) -> tuple[tuple[float, ...] | None, float]:
    """The image plane's unit normal, pointing to the head, and its angle to the body's axis."""
    directions = tags.numbers("ImageOrientationPatient", 6)
    if directions is None:
        return None, math.nan
    (a, b, c), (d, e, f) = directions[:3], directions[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    lengths = (math.hypot(a, b, c), math.hypot(d, e, f), math.hypot(*normal))
    if max(abs(length - 1) for length in lengths) > 0.02:
        raise Refusal(
            Reason.IMPOSSIBLE_HEADER, "ImageOrientationPatient is not two unit vectors, square"
        )
    tilt = math.degrees(math.acos(min(1.0, abs(normal[2]))))
    if tilt > _STEEPEST_TILT:
        raise Refusal(Reason.NOT_AXIAL, f"its plane is tilted by {tilt:.0f} degrees")
    sign = math.copysign(1.0, normal[2])
    return tuple(sign * part for part in normal), tilt


def _year(tags: Tags) -> str:
    for keyword in ("AcquisitionDate", "AcquisitionDateTime", "ContentDate", "StudyDate"):
        if found := re.match(r"(19|20)\d\d", tags.text(keyword)):
            return found.group()
    return ""
