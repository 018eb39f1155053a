"""Reads the labelled 8-bit slices of a folder: cleaned slices, or the published layout."""

import csv
import dataclasses
import hashlib
import itertools
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_builder.errors import InputError
from data_builder.files import is_folder, size_of, walk
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import FACTS, LOCATIONS, MANIFEST_COLUMNS, Record

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_YEAR = re.compile(r"^\d+-(\d{4})[_\s-]")
_ADMISSION = re.compile(r"[-,\uff0c\s](\d{3,})\s*$")


@dataclasses.dataclass(frozen=True)
class Source:
    """The labelled slices of one folder, sorted by key.

    `kind` is 'cleaned' or 'published'; `cleaning` is cleaning.json of a cleaned folder, in which
    `subjects.without_id` is the number of the subjects in `without_id`: those that are studies,
    because their Patient ID is empty. `companions` counts the files beside images that macOS
    writes (._*), which are passed over.
    """

    kind: str
    records: tuple[Record, ...]
    phantom: bool = False
    cleaning: dict[str, Any] = dataclasses.field(default_factory=dict)
    without_id: frozenset[str] = frozenset()
    companions: int = 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that the shards depend on, as 16 hex digits."""
        digest = hashlib.sha256(self.kind.encode())
        for record in self.records:
            values = dataclasses.astuple(dataclasses.replace(record, image=""))
            digest.update(repr(values).encode())
        return digest.hexdigest()[:16]


def kind_of(folder: Path) -> str:
    """The kind of a folder: 'cleaned' (a manifest.csv), 'published' (yes/ or no/), else 'dicom'.

    Raises InputError where the folder is missing or empty.
    """
    if not is_folder(folder):
        raise InputError("the source SRC is not a folder: give one that exists")
    if size_of(folder / "manifest.csv") >= 0:
        return "cleaned"
    try:
        names = {child.name.lower() for child in folder.iterdir()}
    except OSError as error:
        raise InputError(f"the source SRC can't be listed ({error.strerror}): mend it") from error
    if not names:
        raise InputError("the source SRC is empty: give a folder with slices or DICOM")
    return "published" if {"yes", "no"} & names else "dicom"


def open_source(folder: Path, pseudonyms: Pseudonyms) -> Source:
    """Reads the labels of a published or a cleaned folder, and no images.

    Raises InputError for DICOM, and for a folder with damaged tables or without labelled slices.
    """
    kind = kind_of(folder)
    if kind == "dicom":
        raise InputError(
            "the source SRC holds neither manifest.csv nor yes/ and no/: "
            "clean it first (python -m data_builder clean SRC --out DIR)"
        )
    if kind == "published":
        images, companions = _images_of(folder, pseudonyms)
        records = _sorted(_published(folder, images, pseudonyms))
        return Source(kind, records, companions=companions)
    try:
        cleaning = json.loads((folder / "cleaning.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            "cleaning.json in the source SRC is missing or damaged: run clean again into a new "
            "folder"
        ) from error
    records = _sorted(_manifest(folder))
    subjects = dict(cleaning.get("subjects") or {})  # absent in folders of an earlier version
    without_id = frozenset(subjects.get("without_id", ()))
    if subjects:
        cleaning["subjects"] = subjects | {"without_id": len(without_id)}
    return Source(kind, records, bool(cleaning.get("phantom")), cleaning, without_id)


def _sorted(records: Iterable[Record]) -> tuple[Record, ...]:
    ordered = tuple(sorted(records, key=lambda record: record.key))
    if not ordered:
        raise InputError("the source has no labelled slice: check its layout and labels.csv")
    for one, other in itertools.pairwise(ordered):
        if one.key == other.key:
            raise InputError(f"two slices have the key {one.key}: give each slice its own key")
    return ordered


def _images_of(folder: Path, pseudonyms: Pseudonyms) -> tuple[list[PurePosixPath], int]:
    """The images in a folder of the published layout, and how many companions they have.

    Raises InputError where a file or folder can't be reached: its slices would be missing.
    """
    images, companions = [], 0
    for inner in walk(folder):
        path = folder / inner
        if _is_companion(path):
            companions += 1
        elif size_of(path) < 0:
            raise InputError(
                f"a file or folder in the source SRC ({pseudonyms.file(str(inner))}) can't be "
                "read, or is a link to a folder: mend or remove it"
            )
        elif inner.suffix.lower() in IMAGE_SUFFIXES:
            images.append(inner)
    return images, companions


def _is_companion(path: Path) -> bool:
    """Whether macOS wrote the file: it keeps what other file systems can't hold in ._NAME."""
    if not path.name.startswith("._"):
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) == _APPLE_DOUBLE
    except OSError:
        return False


def _published(
    folder: Path, images: Iterable[PurePosixPath], pseudonyms: Pseudonyms
) -> Iterator[Record]:
    """Reads the paper's published layout: no/*, yes/Deep/*, yes/Lobar/*, yes/Subtentorial/*."""
    for inner in images:
        path = folder / inner
        parts = [part.lower() for part in inner.parts[:-1]]
        location = parts[1] if len(parts) == 2 and parts[0] == "yes" else ""
        if parts != ["no"] and location not in LOCATIONS:
            raise InputError(
                "an image is outside no/, yes/Deep/, yes/Lobar/ and yes/Subtentorial/ "
                f"(slice {pseudonyms.file(str(inner))}): move it into its class"
            )
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        except OSError as error:
            raise InputError(
                f"slice {pseudonyms.slice(str(inner))} can't be read ({error.strerror}): mend or "
                "remove the file"
            ) from error
        subject = pseudonyms.subject(published_identity(path.stem, bool(location)))
        year = _YEAR.match(path.stem) if location else None
        yield Record(
            key=pseudonyms.slice(str(inner)),
            image=str(path),
            hemorrhage=int(bool(location)),
            location=location,
            subject=subject,
            study=pseudonyms.study(subject),
            position_mm=math.nan,
            digest=digest,
            facts=(("year", year.group(1)),) if year else (),
        )


def published_identity(stem: str, hemorrhage: bool) -> str:
    """The identity of the subject in a published file name (without its suffix).

    ICH: the admission number at the end. Normal, or an ICH name without such a number: all after
    the first '-'. Letters are folded (NFKC, case, spaces), so that spellings of a name are equal.
    """
    if hemorrhage and (number := _ADMISSION.search(stem)):
        return number.group(1)
    return _folded(stem.split("-", 1)[-1])


def published_name_and_number(stem: str) -> tuple[str, str]:
    """The name (letters folded) and admission number in a published ICH file name, '' if absent."""
    number = _ADMISSION.search(stem)
    before = stem[: number.start()] if number else stem
    name = _folded(before.rsplit("-", 1)[-1]).lstrip("0123456789")
    return name, number.group(1) if number else ""


def _folded(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def published_meanings(source: Source) -> Iterable[tuple[str, str]]:
    """Yields pairs for the private lookup: slice key and path, subject key and identity."""
    for record in source.records:
        identity = published_identity(Path(record.image).stem, bool(record.hemorrhage))
        yield record.key, record.image
        yield record.subject, identity


def manifest_rows(folder: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields line number and cells of each row of manifest.csv in `folder`.

    Raises InputError where a column is missing.
    """
    try:
        with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = set(MANIFEST_COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise InputError(
                    f"manifest.csv lacks the columns {', '.join(sorted(missing))}: run clean again"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"manifest.csv line {reader.line_num}: it has other columns than line 1: "
                        "run clean again"
                    )
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("manifest.csv can't be read as CSV: run clean again") from error


def _manifest(folder: Path) -> Iterable[Record]:
    """Reads the rows of manifest.csv that are kept and labelled."""
    for line, row in manifest_rows(folder):
        if row["keep"] != "0" and row["hemorrhage"] != "":
            yield _manifest_record(folder, row, line)


def _manifest_record(folder: Path, row: dict[str, str], line: int) -> Record:
    where = f"manifest.csv line {line}"
    if row["hemorrhage"] not in ("0", "1"):
        raise InputError(f"{where}: hemorrhage must be 0 or 1")
    hemorrhage = int(row["hemorrhage"])
    if hemorrhage and row["location"] not in LOCATIONS:
        raise InputError(f"{where}: location of an ICH slice must be one of {', '.join(LOCATIONS)}")
    image = (folder / row["image"]).resolve()
    if not image.is_relative_to(folder.resolve()) or size_of(image) < 0:
        raise InputError(f"{where}: its image is not in the folder: run clean again")
    return Record(
        key=row["key"],
        image=str(image),
        hemorrhage=hemorrhage,
        location=row["location"] if hemorrhage else "",
        subject=row["subject"],
        study=row["study"],
        position_mm=float(row["position_mm"]) if row["position_mm"] else math.nan,
        digest=row["digest"],
        facts=tuple((name, row[name]) for name in FACTS if row[name]),
    )
