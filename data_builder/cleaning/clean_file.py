"""Cleans every image of one DICOM file and writes it to disk."""

import hashlib
import math
import re
import stat
from pathlib import Path
from typing import NamedTuple

import cv2

from data_builder.cleaning import clean
from data_builder.cleaning.results import CleanedSlice, FileResult, refused
from data_builder.dicom.header import Header
from data_builder.dicom.identity import read_identity
from data_builder.dicom.read import CtSlice, read_slices
from data_builder.dicom.refusal import Reason, Refusal
from data_builder.files import write_whole
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import pixel_digest

# OpenCV's default for PNG writes smaller files, three times as fast, as any level set by hand.
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
    """One file to clean.

    `source` is a folder, `path` the file's path inside it, `file` the pseudonym of that path under
    `key`; `image_format` is 'png' or 'jpg'.
    """

    source: str
    path: str
    file: str
    out: str
    mode: clean.Mode
    image_format: str
    key: bytes


class CleanedFile(NamedTuple):
    """A file's result, and the pixels of each of its slices before they were encoded."""

    result: FileResult
    images: list[clean.Gray]


def shows_a_person(task: Task) -> bool:
    """Whether the file is DICOM without the mark of a phantom. Raises nothing."""
    identity = read_identity(Path(task.source) / task.path)
    return identity is not None and not identity.no_person


def clean_file(task: Task) -> FileResult:
    """Reads, cleans and writes every image of one file. Raises nothing."""
    return clean_file_with_images(task).result


def clean_file_with_images(task: Task) -> CleanedFile:
    """Does the work of `clean_file` and returns the pixels too. Raises nothing."""
    cv2.setNumThreads(1)
    path = Path(task.source) / task.path
    size, content = -1, ""
    images: list[clean.Gray] = []
    pseudonyms = Pseudonyms(task.key)
    try:
        size = _plain_size(path)
        # Before the slices: a file that changes in between is then cleaned again by the next run.
        content = pseudonyms.content(path)
        slices = read_slices(path)
        result = FileResult(task.file, size, content)
        for ct in slices:
            row, gray, sha256 = _clean_slice(ct, task, pseudonyms)
            result.rows.append(row)
            result.images[row.image] = sha256
            result.meanings += _meanings(ct.header, path, pseudonyms)
            images.append(gray)
    except Refusal as refusal:
        # Without a size it is read again in the next run: the disk may give it then.
        known = -1 if refusal.reason is Reason.UNREADABLE else size
        result = refused(task.file, known, refusal, content)
    except OSError as error:
        result = FileResult(task.file, size, failure=error.strerror or type(error).__name__)
    except Exception as error:
        detail = f"cleaning failed ({type(error).__name__})"
        result = refused(task.file, size, Refusal(Reason.DECODER_FAILED, detail), content)
    result.meanings.append((task.file, str(path)))
    return CleanedFile(result, images if result.rows else [])


def _plain_size(path: Path) -> int:
    """The size in bytes. Raises Refusal unless it is a plain file that can be reached."""
    try:
        status = path.stat()
    except OSError as error:
        detail = f"the system does not give it ({error.strerror})"
        raise Refusal(Reason.UNREADABLE, detail) from None
    if stat.S_ISDIR(status.st_mode):
        raise Refusal(Reason.UNREADABLE, "it is a link to a folder, or one that can't be listed")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device would not end
        raise Refusal(Reason.UNREADABLE, "it is not a plain file")
    return status.st_size


def _clean_slice(
    ct: CtSlice, task: Task, pseudonyms: Pseudonyms
) -> tuple[CleanedSlice, clean.Gray, str]:
    """Cleans one image and writes it; third, the SHA-256 of the written file."""
    header = ct.header
    gray = clean.clean_slice(ct.hu, task.mode, (header.row_mm, header.column_mm))
    key, study = pseudonyms.slice(header.slice_identity), pseudonyms.study(header.study_uid)
    image = f"images/{study}/{key}.{task.image_format}"
    path = Path(task.out) / image
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = _encode(gray, task.image_format)
    write_whole(path, encoded)
    cleaned = CleanedSlice(
        key=key,
        file=task.file,
        frame=header.frame or "",
        subject=pseudonyms.subject(header.identity),
        study=study,
        series=pseudonyms.series(header.series_uid),
        position_mm=_three_digits(header.position_mm),
        image=image,
        head=int(gray.any()),
        mode=task.mode,
        digest=pixel_digest(gray),
        sex=header.sex,
        year=header.year,
        scanner=_scanner(header, pseudonyms),
        thickness_mm=_three_digits(header.thickness_mm),
        patient=pseudonyms.subject(header.patient_id),
        instance=header.instance,
        instance_uid=pseudonyms.slice(header.sop_uid),
        phantom=int(header.phantom),
    )
    return cleaned, gray, hashlib.sha256(encoded).hexdigest()


def _three_digits(mm: float) -> str:
    return "" if math.isnan(mm) else f"{mm:.3f}"


def _scanner(header: Header, pseudonyms: Pseudonyms) -> str:
    """The maker if it is a known one, and a pseudonym of the model, which is a free text."""
    if not (header.manufacturer or header.model):
        return ""
    text = header.manufacturer.upper()
    maker = next((name for name, words in _MAKERS.items() if re.search(words, text)), "other")
    return f"{maker} {pseudonyms.scanner(f'{header.manufacturer}^{header.model}')}"


def _encode(gray: clean.Gray, image_format: str) -> bytes:
    succeeded, encoded = cv2.imencode(f".{image_format}", gray, _ENCODING[image_format])
    if not succeeded:
        raise OSError("the image can't be encoded")
    return encoded.tobytes()


def _meanings(header: Header, path: Path, pseudonyms: Pseudonyms) -> list[tuple[str, str]]:
    frame = f", frame {header.frame}" if header.frame else ""
    return [
        (pseudonyms.slice(header.slice_identity), f"{path}{frame}"),
        (pseudonyms.subject(header.identity), header.identity),
        (pseudonyms.study(header.study_uid), header.study_uid),
        (pseudonyms.series(header.series_uid), header.series_uid),
    ]
