"""Lists, checks and opens the data sets in a data folder, and reads their earlier divisions."""

import concurrent.futures
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import tensorflow_datasets as tfds

from data_builder.errors import InputError
from data_builder.files import is_folder, sha256_of, size_of, write_json
from data_builder.records import Record
from data_builder.shards.growth import ASIDE, EarlierDivision
from data_builder.shards.metadata import read_metadata
from data_builder.shards.split_file import read_splits
from data_builder.shards.splits import SplitPlan

VERSION = "1.2.0"
"""Of the shards' format. `earlier_division` also takes data sets of version 1.1.0."""

UNFINISHED = "incomplete."
"""Prefix of a folder that TFDS has not finished writing; it is renamed at the end."""

CHECKSUMS = "checksums.json"
_INFO = "dataset_info.json"


class _Checksum(TypedDict):
    bytes: int
    sha256: str


def write_checksums(folder: Path) -> None:
    """Writes checksums.json: size and SHA-256 of every shard in `folder`."""
    shards = sorted(folder.glob("*.array_record*"))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        checksums = pool.map(_checksum, shards)
    table = {path.name: checksum for path, checksum in zip(shards, checksums, strict=True)}
    write_json(folder / CHECKSUMS, table)


def damaged_shards(folder: Path) -> list[str]:
    """Compares the shards of `folder` with checksums.json; returns one line per damaged shard.

    Reads every byte: about a second for a gigabyte. Raises InputError without checksums.json.
    """
    try:
        table = json.loads((folder / CHECKSUMS).read_text())
        expected: dict[str, _Checksum] = {
            name: {"bytes": int(row["bytes"]), "sha256": str(row["sha256"])}
            for name, row in table.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder / CHECKSUMS} is missing or damaged: remove the folder and build it again"
        ) from error

    def fault(name: str) -> str:
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        size, expected_size = path.stat().st_size, expected[name]["bytes"]
        if size != expected_size:
            return f"{path} has {size} bytes instead of {expected_size}: cut short or overwritten"
        if sha256_of(path) != expected[name]["sha256"]:
            return f"{path} has changed: its SHA-256 is not that of checksums.json"
        return ""

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return [message for message in pool.map(fault, expected) if message]


def _checksum(path: Path) -> _Checksum:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def open_data_set(folder: Path) -> tfds.core.DatasetBuilder:
    """Opens the data set in `folder` with TFDS, after checking every shard.

    Raises:
      InputError: no data set, one of another version, or a damaged shard, which is named.
    """
    try:
        builder = tfds.builder_from_directory(str(folder))
        version = str(builder.info.version)
    except Exception as error:  # TFDS raises many kinds for a folder without a data set
        raise InputError(
            f"{folder} holds no readable data set: run python -m data_builder build again"
        ) from error
    if version != VERSION:
        raise InputError(
            f"the shards in {folder} are of version {version}, this program reads {VERSION}: "
            "build them again (python -m data_builder build)"
        )
    damaged = damaged_shards(folder)
    if damaged:
        raise InputError(
            f"damaged: {'; '.join(damaged)}: remove {folder} and build the data set again"
        )
    return builder


def data_sets(data_dir: Path, name: str = "*") -> list[Path]:
    """Folders of the complete data sets in `data_dir` with configuration `name`, sorted.

    The remains of a killed build are not complete.
    """
    if not is_folder(data_dir):
        return []
    folders = (path.parent for path in data_dir.glob(f"ich_ct/{name}/*/{_INFO}"))
    return sorted(folder for folder in folders if not folder.name.startswith(UNFINISHED))


def is_data_set(folder: Path) -> bool:
    """Whether `folder` itself is a built data set."""
    return size_of(folder / _INFO) >= 0


def earlier_division(
    data_dir: Path, plan: SplitPlan, records: Sequence[Record]
) -> EarlierDivision | None:
    """Joins the divisions of these slices in the data sets of the same seed and folds.

    Where two data sets disagree, the one with more of these slices is used. None where no data set
    in `data_dir` contains any of them, and for a split by slice.
    """
    if plan.by != "subject":
        return None
    digests = {record.digest for record in records}
    divisions = []
    for folder in data_sets(data_dir):
        try:
            metadata = read_metadata(folder)
        except InputError:
            continue
        settings = (metadata.get("split"), metadata.get("seed"), metadata.get("folds"))
        if settings == (plan.by, plan.seed, plan.folds):
            # Data sets older than version 1.1.0 have no column digest.
            rows = [
                row
                for row in read_splits(folder / "splits.csv")
                if row["split"] != ASIDE and row.get("digest") in digests
            ]
            divisions.append((len(rows), folder.parent.name, metadata["fold"], rows))
    owner_of: dict[str, str] = {}
    side_of: dict[str, str] = {}
    fold_of: dict[str, int] = {}
    for _, _, fold, rows in sorted(divisions, key=lambda division: division[:2]):
        owner_of |= {row["digest"]: row["subject"] for row in rows}
        if plan.folds:
            fold_of |= {row["digest"]: int(row["fold"]) for row in rows}
        if fold == plan.fold:
            side_of |= {row["digest"]: row["split"] for row in rows}
    return EarlierDivision(owner_of, side_of, fold_of) if owner_of else None
