"""Writes an answer as DICOM objects: a structured report, and a capture of the heat maps.

These objects hold the patient's identity, which a PACS needs. They and the listener's spool are the
only files of this program that do.
"""

import datetime
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import UInt8
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from data_builder.dicom.read import quiet
from data_builder.errors import InputError
from data_builder.files import make_private, write_private
from dtvit_jax.decision.answer import ModelIdentity, StudyAnswer
from dtvit_jax.dicom.secondary_capture import Overlay, secondary_capture
from dtvit_jax.dicom.source_study import read_source_study
from dtvit_jax.dicom.structured_report import structured_report

PHANTOM = "The model was trained on synthetic phantoms: this says nothing about a patient"
_REPORT, _CAPTURE = "sr.dcm", "capture.dcm"


def write_dicom(
    folder: Path,
    answer: StudyAnswer,
    sources: Sequence[Path],
    model: ModelIdentity,
    maps: Mapping[str, UInt8[np.ndarray, "rows columns 3"]],
    caption: str,
    phantom: bool,
) -> tuple[list[Path], str]:
    """Writes the objects of an answered study from the headers of its files.

    Args:
      folder: as in `write_objects`.
      answer: the study's answer.
      sources: the files that the slices' `file` counts through.
      model: the model that answered.
      maps: slice key -> the slice with its heat map, RGB, the most probable first.
      caption: the maps' method and head.
      phantom: whether the model was trained on phantoms, which the objects then state.

    Returns the paths; where the sources have no UIDs to refer to, no path and the reason. Raises
    InputError where the folder can't be written.
    """
    with quiet():
        headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in sources]
    try:
        read_source_study(headers)
    except InputError as error:
        return [], str(error)
    index = {one.key: i for i, one in enumerate(answer.slices)}
    overlays = [Overlay(index[key], image, caption) for key, image in maps.items()]
    remarks = [PHANTOM] if phantom else []
    return write_objects(folder, answer, headers, model, overlays, remarks=remarks), ""


def write_objects(
    folder: Path,
    answer: StudyAnswer,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    overlays: Sequence[Overlay] = (),
    made: datetime.datetime | None = None,
    remarks: Sequence[str] = (),
) -> list[Path]:
    """Writes `folder/<study's key>/sr.dcm`, and `capture.dcm` where there are overlays.

    Folders get mode 700, files 600. A file that holds the same answer already (the same SOP
    Instance UID), for the same patient and study attributes, is left as it is. `made` and `remarks`
    are as in `structured_report`; a remark is one line of ASCII. Returns the paths. Raises
    InputError as `read_source_study` does, or where the folder can't be written.
    """
    identity = read_source_study(sources).identity
    keywords = ["SOPInstanceUID", "IssuerOfPatientID", *identity]  # an issuer may be gone
    objects: dict[str, Dataset] = {
        _REPORT: structured_report(answer, sources, model, made, remarks)
    }
    if overlays:
        objects[_CAPTURE] = secondary_capture(answer, sources, model, overlays, made, remarks)
    try:
        make_private(folder)
        study = make_private(folder / answer.key)
        for name, ds in objects.items():
            if not _holds(study / name, ds, keywords):
                write_private(study / name, _encoded(ds))
        if not overlays:  # one of an earlier answer would contradict the report
            (study / _CAPTURE).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"DICOM out: {folder} can't be written ({error.strerror}): make room, or choose "
            "another --out"
        ) from error
    return [study / name for name in objects]


def _holds(path: Path, ds: Dataset, keywords: list[str]) -> bool:
    """Whether a file has the values of `ds` for all keywords."""
    try:
        with quiet():
            stored = pydicom.dcmread(path, stop_before_pixels=True)
            return all(str(stored.get(each, "")) == str(ds.get(each, "")) for each in keywords)
    except (FileNotFoundError, InvalidDicomError, AttributeError, EOFError):
        return False


def _encoded(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    with quiet():
        ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
