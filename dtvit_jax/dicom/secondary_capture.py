"""Makes a Multi-frame True Color Secondary Capture of a study's heat maps, one frame a map."""

import dataclasses
import datetime
import hashlib
import textwrap
from collections.abc import Sequence

import numpy as np
from highdicom.base import SOPClass
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage

from data_builder.errors import InputError
from data_builder.records import LOCATIONS
from dtvit_jax.decision.answer import ModelIdentity, StudyAnswer
from dtvit_jax.decision.probability_text import probability_text, threshold_text
from dtvit_jax.dicom import codes
from dtvit_jax.dicom.source_study import (
    SourceStudy,
    instance_uid,
    read_source_study,
    series_uid,
)
from dtvit_jax.dicom.structured_report import MANUFACTURER

_SERIES_NUMBER = 9002
_SMALLEST_SIDE = 512
_LINE_HEIGHT = 26  # pixels of a line of text, on a picture of 512
_LONGEST_LINE = 66  # characters
_DECISIONS = {"ich": "hemorrhage", "no ich": "no hemorrhage", "uncertain": "uncertain"}


@dataclasses.dataclass(frozen=True)
class Overlay:
    """One slice with its heat map drawn over it.

    Attributes:
      slice: index in `StudyAnswer.slices`.
      image: RGB at the CT's own resolution, upright.
      caption: the method and the head, such as 'Grad-CAM, hemorrhage head'; ASCII.
    """

    slice: int
    image: UInt8[np.ndarray, "rows columns 3"]
    caption: str


def secondary_capture(
    answer: StudyAnswer,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    overlays: Sequence[Overlay],
    made: datetime.datetime | None = None,
    remarks: Sequence[str] = (),
) -> Dataset:
    """Makes one object of the overlays, in their order, with the notice and the numbers burnt in.

    `sources`, `made` and `remarks` are as in `structured_report`. A slice of fewer than 512 pixels
    a side is enlarged by a whole factor, so that the text is legible. Raises InputError as
    `read_source_study` does, or where there is no overlay.
    """
    if not overlays:
        raise InputError("DICOM out: there is no overlay to capture: give at least one")
    study = read_source_study(sources)
    made = made or datetime.datetime.now()
    frames = _same_size([_frame(answer, overlay, model, remarks) for overlay in overlays])
    ds = SOPClass(
        study_instance_uid=study.study_uid,
        series_instance_uid=series_uid(study, model, "capture"),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=_instance_uid(study, model, answer, overlays),
        sop_class_uid=MultiFrameTrueColorSecondaryCaptureImageStorage,
        instance_number=1,
        modality="OT",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=codes.NOTICE,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.weights_sha256,
        content_qualification="RESEARCH",
        content_date=made.date(),
        content_time=made.time(),
    )
    ds.ConversionType = "SYN"
    ds.SecondaryCaptureDeviceManufacturer = MANUFACTURER
    ds.SecondaryCaptureDeviceManufacturerModelName = model.name
    ds.SecondaryCaptureDeviceSoftwareVersions = model.version
    _describe(ds, answer, overlays, study)
    _put_pixels(ds, frames)
    study.stamp(ds, made)
    return ds


def _describe(
    ds: Dataset, answer: StudyAnswer, overlays: Sequence[Overlay], study: SourceStudy
) -> None:
    """Fills General Image and SC Multi-frame Image: the source images and the derivation."""
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.BodyPartExamined, ds.PatientOrientation = "HEAD", ""
    ds.ImageComments = codes.NOTICE
    ds.DerivationDescription = "Heat map of a model drawn over the CT slice"
    ds.SourceImageSequence = []
    for overlay in overlays:
        slice_answer = answer.slices[overlay.slice]
        reference = study.references.get(slice_answer.file)
        if reference is None:
            continue
        item = Dataset()
        item.ReferencedSOPClassUID = reference.sop_class
        item.ReferencedSOPInstanceUID = reference.sop_instance
        if reference.frames is not None:
            item.ReferencedFrameNumber = (slice_answer.frame or 0) + 1
        purpose = codes.SOURCE_OF_DERIVATION
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = purpose.value, purpose.scheme_designator
        code.CodeMeaning = purpose.meaning
        item.PurposeOfReferenceCodeSequence = [code]
        if item not in ds.SourceImageSequence:
            ds.SourceImageSequence.append(item)
    if not ds.SourceImageSequence:
        del ds.SourceImageSequence
    # The text burnt in names neither the patient nor a date (PS3.3 C.7.6.1.1).
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "01" if study.lossy else "00"
    if study.lossy:
        ratios, methods = study.lossy
        if ratios and len(ratios) == len(methods):
            ds.LossyImageCompressionRatio, ds.LossyImageCompressionMethod = ratios, methods


def _put_pixels(ds: Dataset, frames: UInt8[np.ndarray, "frames rows columns 3"]) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames.shape[:3]
    if len(frames) > 1:
        ds.FrameIncrementPointer = 0x00182001  # Page Number Vector
        ds.PageNumberVector = list(range(1, len(frames) + 1))
    data = frames.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def _instance_uid(
    study: SourceStudy, model: ModelIdentity, answer: StudyAnswer, overlays: Sequence[Overlay]
) -> str:
    shown = " ".join(
        f"{overlay.slice} {overlay.caption} {hashlib.sha256(overlay.image.tobytes()).hexdigest()}"
        for overlay in overlays
    )
    return instance_uid(study, model, f"capture {shown}", answer)


def _frame(
    answer: StudyAnswer, overlay: Overlay, model: ModelIdentity, remarks: Sequence[str]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draws the overlay with the notice above it; numbers, reasons and remarks below."""
    image = overlay.image
    factor = max(1, -(-_SMALLEST_SIDE // max(image.shape[:2])))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    texts = (text[0].upper() + text[1:] for text in (*answer.reasons, *answer.remarks, *remarks))
    wrapped = (line for text in texts for line in textwrap.wrap(text, _LONGEST_LINE))
    below = [*_lines(answer, overlay, model), *wrapped]
    width = max(image.shape[1], _SMALLEST_SIDE)
    band = _LINE_HEIGHT * width // _SMALLEST_SIDE
    canvas = Image.new("RGB", (width, image.shape[0] + band * (1 + len(below))))
    canvas.paste(Image.fromarray(image), ((width - image.shape[1]) // 2, band))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(band * 0.6)
    draw.text((width / 2, band / 2), codes.NOTICE.upper(), "yellow", font, anchor="mm")
    for line, text in enumerate(below):
        position = (band / 3, band * (1.5 + line) + image.shape[0])
        excess = max(1.0, font.getlength(text) / (width - band))
        fitting = ImageFont.load_default(band * 0.6 / excess)
        draw.text(position, text, "white", fitting, anchor="lm")
    return np.asarray(canvas)


def _lines(answer: StudyAnswer, overlay: Overlay, model: ModelIdentity) -> list[str]:
    """The numbers of the slice and the study; none of a study that has no probability."""
    shown = answer.slices[overlay.slice]
    number = f"Slice {overlay.slice + 1} of {len(answer.slices)}: {_DECISIONS[shown.decision]}"
    study = f"Study: {_DECISIONS[answer.decision]}{answer.location and ', ' + answer.location}"
    lines = [number, study]
    if answer.p_hemorrhage is not None:
        places = zip(LOCATIONS, shown.p_location, strict=True)
        study_p, threshold = probability_text(answer.p_hemorrhage), threshold_text(answer.threshold)
        lines = [
            f"{number}, probability {probability_text(shown.p_hemorrhage)}",
            f"Given hemorrhage: {'  '.join(f'{name} {probability_text(p)}' for name, p in places)}",
            f"{study}, probability {study_p}, threshold {threshold}",
        ]
    return [
        *lines,
        f"Map: {overlay.caption}",
        f"Model: {model.name}, version {model.version}, weights {model.weights_sha256[:12]}",
    ]


def _same_size(
    frames: Sequence[UInt8[np.ndarray, "_ _ 3"]],
) -> UInt8[np.ndarray, "frames rows columns 3"]:
    """Pads all frames with black to the largest one's size: an object has one size."""
    rows, columns = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    out = np.zeros((len(frames), rows, columns, 3), np.uint8)
    for index, frame in enumerate(frames):
        out[index, : frame.shape[0], : frame.shape[1]] = frame
    return out
