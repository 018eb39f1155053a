"""Reads the labelled 8-bit slices of a folder: cleaned slices, or the published layout."""

import csv
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_builder.cleaning.clean_folder import PHANTOM
from data_builder.errors import InputError
from data_builder.files import is_folder, size_of
from data_builder.pseudonyms import Pseudonyms, key_path, load_key, public_key_refused
from data_builder.records import FACTS, LOCATIONS, MANIFEST_COLUMNS, Record
from data_builder.shards.published import images_of, published_identity, published_records


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
        images, companions = images_of(folder, pseudonyms)
        records = _sorted(published_records(folder, images, pseudonyms))
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
    try:
        position_mm = float(row["position_mm"] or math.nan)
    except ValueError as error:
        raise InputError(f"{where}: position_mm must be a number or empty") from error
    return Record(
        key=row["key"],
        image=str(image),
        hemorrhage=hemorrhage,
        location=row["location"] if hemorrhage else "",
        subject=row["subject"],
        study=row["study"],
        position_mm=position_mm,
        digest=row["digest"],
        facts=tuple((name, row[name]) for name in FACTS if row[name]),
    )
