"""Reads input files in worker processes: identifies their studies, cleans and resizes slices.

Light on imports, because every worker loads it. Cleaning and resizing are the functions that made
the training data.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from data_builder.cleaning import clean
from data_builder.cleaning.clean_file import Task, clean_file_with_images
from data_builder.cleaning.results import CleanedSlice, FileResult, refused
from data_builder.dicom.header import Reason, Refusal
from data_builder.dicom.identity import read_identity
from data_builder.errors import InputError
from data_builder.files import is_folder, size_of, walk
from data_builder.parallel.processes import InOrder, Lost
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import pixel_digest
from data_builder.shards.images import resize
from dtvit_jax.decision.outlier import features
from dtvit_jax.prediction.cleaned_image import is_image, is_phantom, phantom_digest, read_gray

_SECONDS_TO_IDENTIFY, _SECONDS_TO_PREPARE = 60.0, 60.0
BUILDER_FILES = {
    "labels.csv",
    "phantom.json",
    "manifest.csv",
    "refused.csv",
    "notes.csv",
    "unmatched_labels.csv",
    "cleaning.json",
    ".journal.jsonl",
}
"""Files of data_builder, which hold no scan: listed in files.csv, and no failure."""

_PSEUDONYM = re.compile(r"(stu|sli)-[a-z2-7]{16}")


class IdentifyTask(NamedTuple):
    """A file to identify: `path` is absolute, `file` its pseudonym."""

    path: str
    file: str
    key: bytes


class InputFile(NamedTuple):
    """A file and the study that its header names. All but `path` are pseudonyms.

    `study`, `subject` and `instance` are empty where the file names no study; `size` is in bytes,
    -1 where it is no plain file. `no_person`: as in `Identity`; None for files that are
    no DICOM.
    """

    path: str
    file: str
    study: str
    subject: str
    instance: str
    size: int
    no_person: bool | None = None


@dataclasses.dataclass(frozen=True)
class StudyFiles:
    """The files of one study in order of path; `subjects` are pseudonyms of the people named."""

    key: str
    subjects: tuple[str, ...]
    files: tuple[InputFile, ...]


class PrepareTask(NamedTuple):
    """A file to clean into slices of `size` pixels a side; `out` is a folder for drafts."""

    source: InputFile
    out: str
    mode: clean.Mode
    image_format: str
    size: int
    key: bytes


class Prepared(NamedTuple):
    """A file's rows (as for manifest.csv) or refusal.

    For each row, `stored` holds the slice as the shards store it, and `features` its
    `outlier.features`.
    """

    result: FileResult
    stored: list[UInt8[np.ndarray, "size size"]]
    features: list[Float[np.ndarray, " features"]]


def files_in(paths: Iterable[Path], key: bytes) -> list[IdentifyTask]:
    """Lists every file of `paths` once, sorted. Raises InputError for a path that is missing."""
    files = set()
    for number, path in enumerate(paths, start=1):
        if is_folder(path):
            root = path.resolve()
            files |= {str(root / inner) for inner in walk(root)}
        elif os.access(path, os.F_OK):  # False, too, for a path that is too long
            files.add(str(path.resolve()))
        else:
            raise InputError(f"PATH {number} does not exist: give files or folders that do")
    pseudonyms = Pseudonyms(key)
    return [IdentifyTask(path, pseudonyms.file(path), key) for path in sorted(files)]


def identify_all(tasks: Sequence[IdentifyTask], jobs: int) -> InOrder[IdentifyTask, InputFile]:
    """Starts `identify` in worker processes; iterates over (task, result) in order."""
    return InOrder(tasks, identify, jobs, lambda _: _SECONDS_TO_IDENTIFY)


def prepare_all(tasks: Sequence[PrepareTask], jobs: int) -> InOrder[PrepareTask, Prepared]:
    """Starts `prepare` in worker processes; iterates over (task, result) in order."""
    return InOrder(tasks, prepare, jobs, _patience)


def _patience(task: PrepareTask) -> float:
    return _SECONDS_TO_PREPARE + max(task.source.size, 0) / 1e6


def identify(task: IdentifyTask) -> InputFile:
    """Reads the study that a file belongs to. Never raises."""
    path, pseudonyms = Path(task.path), Pseudonyms(task.key)
    size = size_of(path)
    if size < 0:
        return InputFile(task.path, task.file, "", "", "", size)
    if is_image(path):
        study = path.parent.name if _PSEUDONYM.fullmatch(path.parent.name) else ""
        folder = str(path.parent)
        study = study or pseudonyms.study(folder)
        instance = pseudonyms.slice(task.path)
        return InputFile(task.path, task.file, study, pseudonyms.subject(study), instance, size)
    identity = read_identity(path)
    if identity is None:
        return InputFile(task.path, task.file, "", "", "", size)
    return InputFile(
        task.path,
        task.file,
        pseudonyms.study(identity.study),
        pseudonyms.subject(identity.person),
        pseudonyms.slice(identity.instance),
        size,
        identity.no_person,
    )


def identified(task: IdentifyTask, result: InputFile | Lost) -> InputFile:
    """The result of `identify`; a lost file names no study, and `prepare` gives its reason."""
    if isinstance(result, InputFile):
        return result
    return InputFile(task.path, task.file, "", "", "", size_of(Path(task.path)))


def group_by_study(files: Iterable[InputFile]) -> tuple[list[StudyFiles], list[InputFile]]:
    """Groups files into studies, in order of their first file; second, files that name no study."""
    studies: dict[str, list[InputFile]] = collections.defaultdict(list)
    strays = []
    for file in sorted(files, key=lambda each: each.path):
        if file.study:
            studies[file.study].append(file)
        else:
            strays.append(file)
    grouped = [
        StudyFiles(key, tuple(sorted({file.subject for file in members})), tuple(members))
        for key, members in studies.items()
    ]
    return grouped, strays


def content_of(path: Path, pseudonyms: Pseudonyms) -> str:
    """All that the answer takes from a file, hashed: another text where anything of it differs.

    `Pseudonyms.content`, and of a cleaned image what marks it as a phantom's.
    """
    content = pseudonyms.content(path)
    return f"{content} {phantom_digest(path)}".rstrip() if is_image(path) else content


def prepare(task: PrepareTask) -> Prepared:
    """Reads, cleans and resizes every image of one file. Never raises."""
    source = task.source
    path = Path(source.path)
    if source.study and is_image(path):
        return _prepare_image(task)
    folder = Path(task.out) / source.file  # its own: a duplicate overwrites nothing
    cleaning = Task(
        "/", source.path, source.file, str(folder), task.mode, task.image_format, task.key
    )
    result, images = clean_file_with_images(cleaning)
    try:
        if task.image_format == "jpg":  # the model sees what the lossy file holds
            images = [_read_back(folder / row.image) for row in result.rows]
    except OSError as error:
        result = FileResult(source.file, source.size, failure=error.strerror or "an image is gone")
        images = []
    stored = [np.asarray(resize(Image.fromarray(image), task.size)) for image in images]
    return Prepared(result, stored, list(map(features, stored)))


def _read_back(path: Path) -> UInt8[np.ndarray, "rows columns"]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _prepare_image(task: PrepareTask) -> Prepared:
    """Reads a slice that is cleaned already, 8-bit gray."""
    source = task.source
    path, pseudonyms = Path(source.path), Pseudonyms(task.key)
    key = path.stem if _PSEUDONYM.fullmatch(path.stem) else source.instance
    content = content_of(path, pseudonyms)  # before the pixels, as in `clean_file`
    try:
        gray = read_gray(path)
        result = FileResult(source.file, source.size, content)
        digest = pixel_digest(np.asarray(gray))
        row = CleanedSlice(
            key=key,
            file=source.file,
            frame="",
            subject=source.subject,
            study=source.study,
            series=pseudonyms.series(source.study),
            position_mm="",
            image=f"{key}.png",
            head=int(np.asarray(gray).any()),
            mode="as it is",
            digest=digest,
            sex="",
            year="",
            scanner="",
            thickness_mm="",
            patient=source.subject,
            instance=None,
            instance_uid=source.instance,
            phantom=int(is_phantom(path, digest)),
        )
        folder = Path(task.out) / source.file
        folder.mkdir(parents=True, exist_ok=True)
        gray.save(folder / f"{key}.png", compress_level=1)
        result.rows.append(row)
        result.meanings += [(key, str(path)), (source.study, str(path.parent))]
        stored = [np.asarray(resize(gray, task.size))]
    except Refusal as refusal:
        result, stored = refused(source.file, source.size, refusal, content), []
    except OSError as error:
        failure = error.strerror or type(error).__name__
        result, stored = FileResult(source.file, source.size, failure=failure), []
    except MemoryError:
        too_large = Refusal(Reason.DECODER_FAILED, "it needs more memory than a file gets")
        result, stored = refused(source.file, source.size, too_large, content), []
    result.meanings.append((source.file, str(path)))
    return Prepared(result, stored, list(map(features, stored)))
