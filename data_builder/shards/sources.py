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
from pathlib import Path
from typing import Any

from data_builder.cleaning.clean_folder import PHANTOM
from data_builder.errors import InputError
from data_builder.pseudonyms import Pseudonyms, key_path, load_key, public_key_refused
from data_builder.records import FACTS, LOCATIONS, MANIFEST_COLUMNS, Record

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_YEAR = re.compile(r"^\d+-(\d{4})[_\s-]")
_ADMISSION = re.compile(r"[-,\uff0c\s](\d{3,})\s*$")


@dataclasses.dataclass(frozen=True)
class Source:
    """The labelled slices of one folder, sorted by key.

    `kind` is 'cleaned' or 'published'; `cleaning` is cleaning.json of a cleaned folder.
    """

    kind: str
    records: tuple[Record, ...]
    phantom: bool = False
    cleaning: dict[str, Any] = dataclasses.field(default_factory=dict)

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
    if not folder.is_dir():
        raise InputError("the source SRC is not a folder: give one that exists")
    if (folder / "manifest.csv").is_file():
        return "cleaned"
    names = {child.name.lower() for child in folder.iterdir()}
    if not names:
        raise InputError("the source SRC is empty: give a folder with slices or DICOM")
    return "published" if {"yes", "no"} & names else "dicom"


def load_source_key(key: str | None, folder: Path) -> bytes:
    """Reads the key for a source, as `load_key` does.

    Raises InputError also for the public key where `folder` has the published layout and no
    phantom.json. A cleaned folder has its pseudonyms; `clean_folder` checks DICOM.
    """
    public = key_path(key) is None
    if public and kind_of(folder) == "published" and not (folder / PHANTOM).is_file():
        raise public_key_refused("the source SRC")
    return load_key(key)


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
        return Source(kind, _sorted(_published(folder, pseudonyms)))
    try:
        cleaning = json.loads((folder / "cleaning.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            "cleaning.json in the source SRC is missing or damaged: run clean again into a new "
            "folder"
        ) from error
    records = _sorted(_manifest(folder))
    return Source(kind, records, bool(cleaning.get("phantom")), cleaning)


def _sorted(records: Iterable[Record]) -> tuple[Record, ...]:
    ordered = tuple(sorted(records, key=lambda record: record.key))
    if not ordered:
        raise InputError("the source has no labelled slice: check its layout and labels.csv")
    for one, other in itertools.pairwise(ordered):
        if one.key == other.key:
            raise InputError(f"two slices have the key {one.key}: give each slice its own key")
    return ordered


def _published(folder: Path, pseudonyms: Pseudonyms) -> Iterable[Record]:
    """Reads the paper's published layout: no/*, yes/Deep/*, yes/Lobar/*, yes/Subtentorial/*."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        parts = [part.lower() for part in path.relative_to(folder).parts[:-1]]
        location = parts[1] if len(parts) == 2 and parts[0] == "yes" else ""
        if parts != ["no"] and location not in LOCATIONS:
            raise InputError(
                "an image is outside no/, yes/Deep/, yes/Lobar/ and yes/Subtentorial/ "
                f"(slice {pseudonyms.file(str(path.relative_to(folder)))}): move it into its class"
            )
        subject = pseudonyms.subject(published_identity(path.stem, bool(location)))
        year = _YEAR.match(path.stem) if location else None
        yield Record(
            key=pseudonyms.slice(str(path.relative_to(folder))),
            image=str(path),
            hemorrhage=int(bool(location)),
            location=location,
            subject=subject,
            study=pseudonyms.study(subject),
            position_mm=math.nan,
            digest=hashlib.sha256(path.read_bytes()).hexdigest()[:32],
            facts=(("year", year.group(1)),) if year else (),
        )


def published_identity(stem: str, hemorrhage: bool) -> str:
    """The identity of the subject in a published file name (without its suffix).

    ICH: the admission number at the end. Normal, or an ICH name without such a number: all after
    the first '-'. Letters are folded (NFKC, case, spaces), so that spellings of a name are equal.
    """
    if hemorrhage and (number := _ADMISSION.search(stem)):
        return number.group(1)
    name = stem.split("-", 1)[-1]
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
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(MANIFEST_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise InputError(
                f"manifest.csv lacks the columns {', '.join(sorted(missing))}: run clean again"
            )
        for row in reader:
            yield reader.line_num, row


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
    if not image.is_relative_to(folder.resolve()) or not image.is_file():
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
