"""Reads whose image a DICOM file holds and of which study, without its pixels."""

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

import pydicom

from data_builder.dicom.header import identity_of
from data_builder.dicom.parse import looks_like_dicom
from data_builder.dicom.tags import Tags

_TAGS = (
    "PatientID",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "QualityControlSubject",
)


class Identity(NamedTuple):
    """A file's own texts, as in `header.Header`: private, for pseudonyms and never written.

    `no_person`: whether Quality Control Subject (0010,0200) is YES, as for any phantom.
    """

    study: str
    person: str
    instance: str
    no_person: bool


def read_identity(path: Path) -> Identity | None:
    """The study, person and instance of a DICOM file; None where it cannot be parsed.

    `read.read_slices` gives the reason for that. Run this in a worker of `parallel.processes`: a
    deflated file may inflate without end.
    """
    with contextlib.suppress(Exception):  # pydicom raises many kinds on a bad file
        with path.open("rb") as file:
            if not looks_like_dicom(file.read(132)):
                return None
        tags = Tags(
            pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
        )
        patient, issuer, study, series, instance, quality_control = map(tags.text, _TAGS)
        instance = instance or hashlib.sha256(path.read_bytes()).hexdigest()
        study = study or series or instance
        person = identity_of(patient, issuer) or study
        return Identity(study, person, instance, quality_control.upper() == "YES")
    return None
