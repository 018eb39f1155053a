"""Where an answer comes from: whose study, which images; and the new objects' UIDs.

Of a person only what Patient and General Study must hold (types 1 and 2) is taken, and the issuer
of the ID, without which the ID may be another person's. A value that its representation does not
allow is left empty, as the standard allows: a cut ID could be somebody else's.
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
    """One stored image, by UIDs; `frames` is its number of frames, None for a single image."""

    sop_class: str
    sop_instance: str
    series: str
    frames: int | None


@dataclasses.dataclass(frozen=True)
class Origin:
    """One study of one patient.

    Attributes:
      study_uid: Study Instance UID.
      identity: attributes of Patient and General Study by keyword; private.
      references: by place in the list of sources; places that can't be referenced are missing.
      lossy: Lossy Image Compression's ratios and methods if any source was so compressed.
    """

    study_uid: str
    identity: dict[str, str]
    references: dict[int, Reference]
    lossy: tuple[list[str], list[str]] | None

    def stamp(self, ds: Dataset, made: datetime.datetime) -> None:
        """Writes the patient, the study and the time of making into a new object."""
        ds.InstanceCreationDate = made.strftime("%Y%m%d")
        ds.InstanceCreationTime = made.strftime("%H%M%S.%f")
        for library in ds.get("ContributingEquipmentSequence", []):
            library.ContributionDateTime = made.strftime("%Y%m%d%H%M%S.%f")
        with quiet():
            for keyword, value in self.identity.items():
                setattr(ds, keyword, value)
        if not all(value.isascii() for value in self.identity.values()):
            ds.SpecificCharacterSet = "ISO_IR 192"


def read_origin(sources: Sequence[Dataset]) -> Origin:
    """The one study that `sources` are of. Pixels are not read.

    Raises InputError where there is no study to tie objects to, or more than one study or patient.
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
            place: found
            for place, ds in enumerate(sources)
            if (found := _reference(ds)) is not None
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
        return Origin(study, identity, references, _lossy(tags))


def derived_uid(*words: str) -> UID:
    """A UID under the 2.25 root (PS3.5 B.2): the same words give the same UID, anywhere."""
    return UID(f"2.25.{uuid.uuid5(_ROOT, chr(0).join(words)).int}")


def series_uid(origin: Origin, model: ModelIdentity, kind: str) -> UID:
    """One series a study, model and kind of object ('sr', 'capture')."""
    return derived_uid("series", origin.study_uid, model.weights_sha256, kind)


def instance_uid(origin: Origin, model: ModelIdentity, kind: str, answer: StudyAnswer) -> UID:
    """Of one answer, to 3 digits: the same one again has the same UID and multiplies nothing.

    Another answer (a slice came late, another operating point) is another object, as an archive
    that holds the first would not take a second under its UID.
    """
    numbers = [answer.p_hemorrhage, *answer.p_location, answer.threshold]
    words = [answer.decision, answer.location, answer.point, *answer.reasons]
    for one in answer.slices:
        numbers += [one.p_hemorrhage, *one.p_location]
        words += [one.decision, str(origin.references.get(one.file)), str(one.frame)]
    said = [f"{number:.3f}" for number in numbers] + words
    return derived_uid("instance", origin.study_uid, model.weights_sha256, kind, *said)


def _value(tags: Tags, keyword: str) -> str:
    found = tags.value(keyword)
    return str(found) if isinstance(found, PersonName) else tags.text(keyword)


def _reference(ds: Dataset) -> Reference | None:
    tags, meta = Tags(ds), Tags(getattr(ds, "file_meta", None) or Dataset())
    instance = tags.text("SOPInstanceUID")
    if not _is_uid(instance):
        instance = meta.text("MediaStorageSOPInstanceUID")
    series = tags.text("SeriesInstanceUID")
    if not _is_uid(instance) or not _is_uid(series):
        return None
    sop_class = tags.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID") or CTImageStorage
    several = tags.value("PerFrameFunctionalGroupsSequence") is not None
    frames = (tags.whole("NumberOfFrames") or 1) if several else None
    return Reference(sop_class, instance, series, frames)


def _lossy(tags: Sequence[Tags]) -> tuple[list[str], list[str]] | None:
    lossy = [tag for tag in tags if tag.text("LossyImageCompression") == "01"]
    if not lossy:
        return None
    ratios = lossy[0].text("LossyImageCompressionRatio").split("\\")
    methods = lossy[0].text("LossyImageCompressionMethod").split("\\")
    return [r for r in ratios if r], [m for m in methods if m]


def _is_uid(text: str) -> bool:
    # Leading zeros in a component are wrong, but must be repeated to meet the images they are on.
    return re.fullmatch(r"\d+(\.\d+)+", text) is not None and len(text) <= 64


def _text(longest: int) -> Callable[[str], str]:
    return lambda value: "" if _FORBIDDEN.search(value) or len(value) > longest else value


def _name(value: str) -> str:
    groups = value.split("=")
    whole = len(groups) <= 3 and all(len(g) <= 64 and g.count("^") <= 4 for g in groups)
    return value if whole and not _FORBIDDEN.search(value) else ""


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
