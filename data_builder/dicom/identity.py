"""Whose image a DICOM file holds and of which study, read without its pixels."""

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

import pydicom

from data_builder.dicom.header import Tags
from data_builder.dicom.read import looks_like_dicom

_TAGS = (
    "PatientID",
    "IssuerOfPatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
)


class Identity(NamedTuple):
    """A file's own texts, as in `ct_header.Header`: private, for pseudonyms and never written."""

    study: str
    person: str
    instance: str


def read_identity(path: Path) -> Identity | None:
    """Study, person and instance of a DICOM file; None where it says none, or is no such file.

    What can't be parsed here has its reason told by `dicom.read_slices`. Run it in a process of its
    own (`isolation`): a deflated file may grow without end.
    """
    with contextlib.suppress(Exception):  # pydicom raises many kinds on a bad file
        with path.open("rb") as file:
            if not looks_like_dicom(file.read(132)):
                return None
        tags = Tags(
            pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
        )
        patient, issuer, study, series, instance = map(tags.text, _TAGS)
        instance = instance or hashlib.sha256(path.read_bytes()).hexdigest()
        study = study or series or instance
        return Identity(study, (f"{patient}^{issuer}" if issuer else patient) or study, instance)
    return None
