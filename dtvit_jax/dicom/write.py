"""An answer as DICOM objects on disk: a structured report, and a capture of the heat maps.

These objects carry the patient's identity, as a PACS needs it: they and the listener's spool are
the only things written that do.

An answered study's DICOM objects, made from the headers of its files.
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
from dtvit_jax.dicom.source_study import read_origin
from dtvit_jax.dicom.structured_report import likeliest, structured_report

__all__ = ["Overlay", "likeliest", "secondary_capture", "structured_report", "write_objects"]


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

    Folders get mode 700, files 600; a file is written whole or not at all. One that holds the
    same answer already (the same SOP Instance UID) is left as it is. `remarks` are said in both
    beside the notice: one line each, ASCII. Returns the files. Raises InputError as `read_origin`
    does, or where the folder can't be written.
    """
    objects: dict[str, Dataset] = {
        "sr.dcm": structured_report(answer, sources, model, made, remarks)
    }
    if overlays:
        objects["capture.dcm"] = secondary_capture(answer, sources, model, overlays, made, remarks)
    try:
        make_private(folder)
        place = make_private(folder / answer.key)
        for name, ds in objects.items():
            if _uid_of(place / name) != ds.SOPInstanceUID:
                write_private(place / name, _encoded(ds))
        if not overlays:  # one of an earlier answer would contradict the report
            (place / "capture.dcm").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"DICOM out: {folder} can't be written ({error.strerror}): make room, or choose "
            "another --out"
        ) from error
    return [place / name for name in objects]


def _uid_of(path: Path) -> str | None:
    try:
        with quiet():
            return pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID
    except (FileNotFoundError, InvalidDicomError, AttributeError, EOFError):
        return None


def _encoded(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    with quiet():
        ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


PHANTOM = "The model was trained on made-up phantoms: this says nothing of a patient"


def write_dicom(
    folder: Path,
    answer: StudyAnswer,
    sources: Sequence[Path],
    model: ModelIdentity,
    maps: Mapping[str, UInt8[np.ndarray, "rows columns 3"]],
    caption: str,
    phantom: bool,
) -> tuple[list[Path], str]:
    """Writes the objects under `folder`, which alone carries identity (`dicom_out`).

    maps: slice key -> the slice with its heat map, worst first; `caption` says what was drawn.
    phantom: whether the model was trained on phantoms, which the objects then say, too.
    Returns them, and why there are none where the sources can't be referred to. Raises InputError
    where the folder can't be written.
    """
    with quiet():
        headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in sources]
    try:
        read_origin(headers)
    except InputError as error:
        return [], str(error)
    place = {each.key: i for i, each in enumerate(answer.slices)}
    overlays = [Overlay(place[key], image, caption) for key, image in maps.items()]
    remarks = [PHANTOM] if phantom else []
    return write_objects(folder, answer, headers, model, overlays, remarks=remarks), ""
