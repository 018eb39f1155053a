"""One file of a source -> its cleaned images on disk, and what the tables say of them."""

import contextlib
import dataclasses
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_builder.cleaning import clean
from data_builder.dicom.header import Header, Reason, Refusal
from data_builder.dicom.read import CtSlice, read_slices
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import pixel_digest

# OpenCV's own choice for PNG is smaller and three times as fast as any level set by hand.
_ENCODING: dict[str, list[int]] = {"png": [], "jpg": [cv2.IMWRITE_JPEG_QUALITY, 95]}
_MAKERS = {
    "ge": r"\bGE\b|GENERAL ELECTRIC|GEMS",
    "siemens": "SIEMENS",
    "philips": "PHILIPS|PICKER|MARCONI|ELSCINT",
    "canon": "CANON|TOSHIBA",
    "hitachi": "HITACHI|FUJIFILM",
    "neusoft": "NEUSOFT",
    "united imaging": "UNITED|UIH",
    "samsung": "SAMSUNG|NEUROLOGICA",
}


class Task(NamedTuple):
    """One file to clean. `path` lies under `source`; `file` is its pseudonym under `key`."""

    source: str
    path: str
    file: str
    out: str
    mode: clean.Mode
    image_format: str
    key: bytes


@dataclasses.dataclass
class FileResult:
    """A file's rows for manifest.csv, or its row for refused.csv.

    `meanings` is the private way back, pairs of a pseudonym and what it stands for; `failure` says
    why the output could not be written, which is no fault of the file.
    """

    file: str
    size: int = -1
    rows: list[dict] = dataclasses.field(default_factory=list)
    refused: dict | None = None
    meanings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    failure: str = ""


def refused(file: str, size: int, refusal: Refusal) -> FileResult:
    """The result of a file that is not used."""
    frame = str(refusal.frame or "")
    row = {"file": file, "frame": frame, "reason": str(refusal.reason), "detail": refusal.detail}
    return FileResult(file, size, refused=row)


def clean_file(task: Task) -> FileResult:
    """Reads, cleans and writes every image of one file. Never raises."""
    cv2.setNumThreads(1)
    path = Path(task.source) / task.path
    size = -1
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise Refusal(Reason.UNREADABLE, "it is not a plain file")
        size = path.stat().st_size
        slices = read_slices(path)
        result = FileResult(task.file, size)
        pseudonyms = Pseudonyms(task.key)
        for image in slices:
            result.rows.append(_clean_image(image, task, pseudonyms))
            result.meanings += _meanings(image.header, path, pseudonyms)
    except Refusal as refusal:
        result = refused(task.file, size, refusal)
    except OSError as error:
        result = FileResult(task.file, size, failure=error.strerror or type(error).__name__)
    except Exception as error:
        detail = f"cleaning failed ({type(error).__name__})"
        result = refused(task.file, size, Refusal(Reason.DECODER_FAILED, detail))
    result.meanings.append((task.file, str(path)))
    return result


def _clean_image(image: CtSlice, task: Task, pseudonyms: Pseudonyms) -> dict:
    """Cleans and writes one image; its row of the manifest, labels left out."""
    header = image.header
    gray = clean.clean_slice(image.hu, task.mode, (header.row_mm, header.column_mm))
    key, study = pseudonyms.slice(header.slice_identity), pseudonyms.study(header.study_uid)
    name = f"images/{study}/{key}.{task.image_format}"
    _write(Path(task.out) / name, _encode(gray, task.image_format))
    return {
        "key": key,
        "file": task.file,
        "frame": header.frame or "",
        "subject": pseudonyms.subject(header.identity),
        "study": study,
        "series": pseudonyms.series(header.series_uid),
        "position_mm": _number(header.position_mm, 3),
        "image": name,
        "head": int(gray.any()),
        "mode": task.mode,
        "digest": pixel_digest(gray),
        "sex": header.sex,
        "year": header.year,
        "scanner": _scanner(header, pseudonyms),
        "thickness_mm": _number(header.thickness_mm, 3),
        "patient": pseudonyms.subject(header.patient_id),
        "instance": header.instance,
        "instance_uid": pseudonyms.slice(header.sop_uid),
    }


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _scanner(header: Header, pseudonyms: Pseudonyms) -> str:
    """The maker, where it is a known one, and a pseudonym of the model: it is a free text."""
    maker = header.manufacturer.upper()
    known = next((name for name, words in _MAKERS.items() if re.search(words, maker)), "other")
    if not (header.manufacturer or header.model):
        return ""
    return f"{known} {pseudonyms.scanner(f'{header.manufacturer}^{header.model}')}"


def _encode(gray: np.ndarray, image_format: str) -> bytes:
    fine, encoded = cv2.imencode(f".{image_format}", gray, _ENCODING[image_format])
    if not fine:
        raise OSError("the image can't be encoded")
    return encoded.tobytes()


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing: a kill leaves no half image under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _meanings(header: Header, path: Path, pseudonyms: Pseudonyms) -> list[tuple[str, str]]:
    frame = f", frame {header.frame}" if header.frame else ""
    return [
        (pseudonyms.slice(header.slice_identity), f"{path}{frame}"),
        (pseudonyms.subject(header.identity), header.identity),
        (pseudonyms.study(header.study_uid), header.study_uid),
        (pseudonyms.series(header.series_uid), header.series_uid),
    ]
