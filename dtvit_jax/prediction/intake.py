"""From paths to studies and to stored slices: what worker processes do while the model runs.

Light on imports: every worker loads it. Cleaning and resizing are the shards' own functions.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from data_builder.cleaning import clean
from data_builder.cleaning.clean_file import Task, clean_file_with_images
from data_builder.cleaning.clean_folder import walk
from data_builder.cleaning.results import CleanedSlice, FileResult, refused
from data_builder.dicom.header import Reason, Refusal
from data_builder.dicom.identity import read_identity
from data_builder.errors import InputError
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import pixel_digest
from data_builder.shards.images import resize
from dtvit_jax.decision.outlier import features
from dtvit_jax.prediction.cleaned_image import is_image, read_gray

SECONDS_TO_LOOK = 60.0
OWN_WORDS = {
    "labels.csv",
    "phantom.json",
    "manifest.csv",
    "refused.csv",
    "notes.csv",
    "cleaning.json",
    ".journal.jsonl",
}
"""Files of data_builder, which are no scans: listed, and no failure."""

_PSEUDONYM = re.compile(r"(stu|sli)-[a-z2-7]{16}")


class Look(NamedTuple):
    """A file to look at: `path` is absolute, `file` its pseudonym."""

    path: str
    file: str
    key: bytes


class Found(NamedTuple):
    """What a first look at a file tells. All but `path` are pseudonyms; empty: no study is named.

    `size` is in bytes, -1 where it is no plain file.
    """

    path: str
    file: str
    study: str
    subject: str
    instance: str
    size: int


@dataclasses.dataclass(frozen=True)
class StudyFiles:
    """The files of one study in order of path; `subjects` are the pseudonyms of its people."""

    key: str
    subjects: tuple[str, ...]
    files: tuple[Found, ...]


class Prepare(NamedTuple):
    """A file to clean into slices of `size` pixels a side; `out` is a folder for drafts."""

    found: Found
    out: str
    mode: clean.Mode
    image_format: str
    size: int
    key: bytes


class Prepared(NamedTuple):
    """A file's rows (as for manifest.csv) or refusal; for each row the slice as the shards have it,
    and its `outlier.features`.
    """

    result: FileResult
    stored: list[UInt8[np.ndarray, "size size"]]
    features: list[Float[np.ndarray, " features"]]


def files_in(paths: Iterable[Path], key: bytes) -> list[Look]:
    """Every file of `paths` once, sorted. Raises InputError for a path that does not exist."""
    found = set()
    for place, path in enumerate(paths, start=1):
        if path.is_dir():
            root = path.resolve()
            found |= {str(root / inner) for inner in walk(root)}
        elif path.exists():
            found.add(str(path.resolve()))
        else:
            raise InputError(f"PATH {place} does not exist: give files or folders that do")
    pseudonyms = Pseudonyms(key)
    return [Look(path, pseudonyms.file(path), key) for path in sorted(found)]


def look(task: Look) -> Found:
    """Which study a file belongs to. Never raises."""
    path, pseudonyms = Path(task.path), Pseudonyms(task.key)
    size = path.stat().st_size if path.is_file() else -1
    if size < 0:
        return Found(task.path, task.file, "", "", "", size)
    if is_image(path):
        study = path.parent.name if _PSEUDONYM.fullmatch(path.parent.name) else ""
        folder = str(path.parent)
        study = study or pseudonyms.study(folder)
        instance = pseudonyms.slice(task.path)
        return Found(task.path, task.file, study, pseudonyms.subject(study), instance, size)
    identity = read_identity(path)
    if identity is None:
        return Found(task.path, task.file, "", "", "", size)
    return Found(
        task.path,
        task.file,
        pseudonyms.study(identity.study),
        pseudonyms.subject(identity.person),
        pseudonyms.slice(identity.instance),
        size,
    )


def unseen(task: Look) -> Found:
    """A file that cost its worker at the first look: what is wrong is told when it is read."""
    path = Path(task.path)
    return Found(task.path, task.file, "", "", "", path.stat().st_size if path.exists() else -1)


def group(found: Iterable[Found]) -> tuple[list[StudyFiles], list[Found]]:
    """Studies in order of their first file, and the files that name no study."""
    studies: dict[str, list[Found]] = collections.defaultdict(list)
    strays = []
    for one in sorted(found, key=lambda each: each.path):
        if one.study:
            studies[one.study].append(one)
        else:
            strays.append(one)
    grouped = [
        StudyFiles(key, tuple(sorted({one.subject for one in files})), tuple(files))
        for key, files in studies.items()
    ]
    return grouped, strays


def prepare(task: Prepare) -> Prepared:
    """Reads, cleans and resizes every image of one file. Never raises."""
    found = task.found
    path = Path(found.path)
    if found.study and is_image(path):
        return _prepare_image(task)
    folder = Path(task.out) / found.file  # its own: a duplicate overwrites nothing
    cleaning = Task(
        "/", found.path, found.file, str(folder), task.mode, task.image_format, task.key
    )
    result, images = clean_file_with_images(cleaning)
    try:
        if task.image_format == "jpg":  # the model sees what the lossy file holds
            images = [_read_back(folder / row.image) for row in result.rows]
    except OSError as error:
        result = FileResult(found.file, found.size, failure=error.strerror or "an image is gone")
        images = []
    stored = [np.asarray(resize(Image.fromarray(image), task.size)) for image in images]
    return Prepared(result, stored, list(map(features, stored)))


def _read_back(path: Path) -> UInt8[np.ndarray, "rows columns"]:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _prepare_image(task: Prepare) -> Prepared:
    """An image that is cleaned already: 8-bit gray."""
    found = task.found
    path, pseudonyms = Path(found.path), Pseudonyms(task.key)
    key = path.stem if _PSEUDONYM.fullmatch(path.stem) else found.instance
    try:
        gray = read_gray(path)
        result = FileResult(found.file, found.size)
        row = CleanedSlice(
            key=key,
            file=found.file,
            frame="",
            subject=found.subject,
            study=found.study,
            series=pseudonyms.series(found.study),
            position_mm="",
            image=f"{key}.png",
            head=int(np.asarray(gray).any()),
            mode="as it is",
            digest=pixel_digest(np.asarray(gray)),
            sex="",
            year="",
            scanner="",
            thickness_mm="",
            patient=found.subject,
            instance=None,
            instance_uid=found.instance,
        )
        folder = Path(task.out) / found.file
        folder.mkdir(parents=True, exist_ok=True)
        gray.save(folder / f"{key}.png", compress_level=1)
        result.rows.append(row)
        result.meanings += [(key, str(path)), (found.study, str(path.parent))]
        stored = [np.asarray(resize(gray, task.size))]
    except Refusal as refusal:
        result, stored = refused(found.file, found.size, refusal), []
    except OSError as error:
        failure = error.strerror or type(error).__name__
        result, stored = FileResult(found.file, found.size, failure=failure), []
    except MemoryError:
        much = Refusal(Reason.DECODER_FAILED, "it needs more memory than a file gets")
        result, stored = refused(found.file, found.size, much), []
    result.meanings.append((found.file, str(path)))
    return Prepared(result, stored, list(map(features, stored)))
