"""Reads an answer's study from its images' headers, and derives the UIDs of new objects.

Of the patient's identity only the attributes that Patient and General Study must hold (types 1 and
2) are copied, and the issuer of the ID, without which the ID may be another person's. A value that
its representation does not allow is left empty, as the standard allows: a truncated ID could be
somebody else's.
"""

import dataclasses
import datetime
import re
import uuid
from collections.abc import Callable, Sequence

from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage
from pydicom.valuerep import PersonName

from data_builder.dicom.header import Tags
from data_builder.dicom.read import quiet
from data_builder.errors import InputError
from dtvit_jax.decision.answer import ModelIdentity, StudyAnswer

_ROOT = uuid.UUID("5b9f7f3e-6f0c-4f0e-9d52-0c9a35a3d7b1")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\\ufffd]")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")


@dataclasses.dataclass(frozen=True)
class Reference:
    """The UIDs of one stored image; `frames` is its number of frames, None for a single image.

    `instance_uid` hashes the text of this class: other names of the class or its fields would give
    new UIDs to answers that archives hold already.
    """

    sop_class: str
    sop_instance: str
    series: str
    frames: int | None


@dataclasses.dataclass(frozen=True)
class SourceStudy:
    """One study of one patient.

    Attributes:
      study_uid: Study Instance UID (0020,000D).
      identity: values of Patient and General Study by keyword; private.
      references: by index in the list of sources; sources without usable UIDs are missing.
      lossy: ratios (0028,2112) and methods (0028,2114) of Lossy Image Compression; None where no
        source was compressed with loss.
    """

    study_uid: str
    identity: dict[str, str]
    references: dict[int, Reference]
    lossy: tuple[list[str], list[str]] | None

    def stamp(self, ds: Dataset, made: datetime.datetime) -> None:
        """Writes the patient, the study and the time of creation into a new object."""
        ds.InstanceCreationDate = made.strftime("%Y%m%d")
        ds.InstanceCreationTime = made.strftime("%H%M%S.%f")
        for library in ds.get("ContributingEquipmentSequence", []):
            library.ContributionDateTime = made.strftime("%Y%m%d%H%M%S.%f")
        with quiet():
            for keyword, value in self.identity.items():
                setattr(ds, keyword, value)
        if not all(value.isascii() for value in self.identity.values()):
            ds.SpecificCharacterSet = "ISO_IR 192"


def read_source_study(sources: Sequence[Dataset]) -> SourceStudy:
    """Reads the study that all `sources` belong to. Pixels are not read.

    Raises InputError where they have no usable UIDs, or belong to several studies or patients.
    """
    with quiet():
        tags = [Tags(ds) for ds in sources]
        studies = {tag.text("StudyInstanceUID") for tag in tags}
        patients = {(tag.text("PatientID"), tag.text("IssuerOfPatientID")) for tag in tags}
        if len(studies) != 1 or len(patients) != 1:
            raise InputError(
                f"DICOM out: the sources are of {len(studies)} studies and {len(patients)} "
                "patients: give those of one study"
            )
        (study,) = studies
        references = {
            index: reference
            for index, ds in enumerate(sources)
            if (reference := _reference(ds)) is not None
        }
        if not _is_uid(study) or not references:
            raise InputError(
                "DICOM out: the sources have no usable Study, Series or SOP Instance UID to refer "
                "to: only the report's tables can be made of this study"
            )
        identity = {
            keyword: check(_value(tags[0], keyword)) for keyword, check in _IDENTITY.items()
        } | {"StudyInstanceUID": study}
        if issuer := _text(64)(tags[0].text("IssuerOfPatientID")):
            identity["IssuerOfPatientID"] = issuer
        return SourceStudy(study, identity, references, _lossy(tags))


def derived_uid(*parts: str) -> UID:
    """Derives a UID under the 2.25 root (PS3.5 B.2) from texts: equal texts give equal UIDs."""
    return UID(f"2.25.{uuid.uuid5(_ROOT, chr(0).join(parts)).int}")


def series_uid(study: SourceStudy, model: ModelIdentity, kind: str) -> UID:
    """Derives the UID of the series of a study, a model and a kind of object ('sr', 'capture')."""
    return derived_uid("series", study.study_uid, model.weights_sha256, kind)


def instance_uid(study: SourceStudy, model: ModelIdentity, kind: str, answer: StudyAnswer) -> UID:
    """Derives the UID of an object from the answer to 3 digits: a repeated answer repeats it.

    Another answer (a late slice, another operating point) gets another UID, because an archive that
    holds the first object would not accept a second one under its UID.
    """
    numbers = [answer.threshold]
    if answer.p_hemorrhage is not None and answer.p_location is not None:
        numbers = [answer.p_hemorrhage, *answer.p_location, answer.threshold]
    texts = [answer.decision, answer.location, answer.point, *answer.reasons, *answer.remarks]
    for one in answer.slices:
        numbers += [one.p_hemorrhage, *one.p_location]
        texts += [one.decision, str(study.references.get(one.file)), str(one.frame)]
    parts = [f"{number:.3f}" for number in numbers] + texts
    return derived_uid("instance", study.study_uid, model.weights_sha256, kind, *parts)


def _value(tags: Tags, keyword: str) -> str:
    value = tags.value(keyword)
    return str(value) if isinstance(value, PersonName) else tags.text(keyword)


def _reference(ds: Dataset) -> Reference | None:
    tags, meta = Tags(ds), Tags(getattr(ds, "file_meta", None) or Dataset())
    instance = tags.text("SOPInstanceUID")
    if not _is_uid(instance):
        instance = meta.text("MediaStorageSOPInstanceUID")
    series = tags.text("SeriesInstanceUID")
    if not _is_uid(instance) or not _is_uid(series):
        return None
    sop_class = tags.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID") or CTImageStorage
    multi_frame = tags.value("PerFrameFunctionalGroupsSequence") is not None
    frames = (tags.whole("NumberOfFrames") or 1) if multi_frame else None
    return Reference(sop_class, instance, series, frames)


def _lossy(tags: Sequence[Tags]) -> tuple[list[str], list[str]] | None:
    lossy = [tag for tag in tags if tag.text("LossyImageCompression") == "01"]
    if not lossy:
        return None
    ratios = lossy[0].text("LossyImageCompressionRatio").split("\\")
    methods = lossy[0].text("LossyImageCompressionMethod").split("\\")
    return [r for r in ratios if r], [m for m in methods if m]


def _is_uid(text: str) -> bool:
    # Leading zeros in a component are wrong, but a reference must repeat them to match the image.
    return re.fullmatch(r"\d+(\.\d+)+", text) is not None and len(text) <= 64


def _text(longest: int) -> Callable[[str], str]:
    return lambda value: "" if _FORBIDDEN.search(value) or len(value) > longest else value


def _name(value: str) -> str:
    groups = value.split("=")
    valid = len(groups) <= 3 and all(len(g) <= 64 and g.count("^") <= 4 for g in groups)
    return value if valid and not _FORBIDDEN.search(value) else ""


def _date(value: str) -> str:
    digits = value.replace(".", "") if re.fullmatch(r"\d{4}\.\d\d\.\d\d", value) else value
    try:
        return datetime.datetime.strptime(digits, "%Y%m%d").strftime("%Y%m%d")
    except ValueError:
        return ""


def _time(value: str) -> str:
    digits = value.replace(":", "")
    return digits if _TIME.fullmatch(digits) else ""


def _sex(value: str) -> str:
    return value.upper() if value.upper() in ("M", "F", "O") else ""


_IDENTITY: dict[str, Callable[[str], str]] = {
    "PatientName": _name,
    "PatientID": _text(64),
    "PatientBirthDate": _date,
    "PatientSex": _sex,
    "StudyDate": _date,
    "StudyTime": _time,
    "ReferringPhysicianName": _name,
    "StudyID": _text(16),
    "AccessionNumber": _text(16),
}
