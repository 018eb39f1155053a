"""The files of a built data set: which there are, whether they are whole, what stands in them."""

import concurrent.futures
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_builder.errors import InputError
from data_builder.records import Record
from data_builder.shards.growth import ASIDE, EarlierDivision
from data_builder.shards.split_file import read_splits
from data_builder.shards.splits import SplitPlan

VERSION = "1.2.0"
_DIVIDED_ALIKE = ("1.1.0", VERSION)
"""Versions whose splits.csv is as today's: those data sets bind their subjects to their sides."""

UNFINISHED = "incomplete."
"""How the name of a folder begins that TFDS has not finished writing; it is renamed at the end."""

CHECKSUMS = "checksums.json"
_INFO = "dataset_info.json"


def write_checksums(folder: Path) -> None:
    """Writes checksums.json: size and SHA-256 of every shard in `folder`."""
    shards = sorted(folder.glob("*.array_record*"))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sums = pool.map(_checksum, shards)
    table = {path.name: told for path, told in zip(shards, sums, strict=True)}
    (folder / CHECKSUMS).write_text(json.dumps(table, indent=1) + "\n")


def damaged_shards(folder: Path) -> list[str]:
    """What is wrong with the shards of `folder`, in words, a line a shard; empty: nothing.

    Every byte is read: a second or so for a gigabyte. Raises InputError without checksums.json.
    """
    try:
        table = json.loads((folder / CHECKSUMS).read_text())
        expected = {name: (int(told["bytes"]), str(told["sha256"])) for name, told in table.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder / CHECKSUMS} is missing or damaged: remove the folder and build it again"
        ) from error

    def fault(name: str) -> str:
        size, digest = expected[name]
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        found = path.stat().st_size
        if found != size:
            return f"{path} has {found} bytes instead of {size}: cut short or overwritten"
        return "" if _checksum(path)["sha256"] == digest else f"{path} has changed: bits are wrong"

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return [words for words in pool.map(fault, expected) if words]


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def open_data_set(folder: Path) -> Any:
    """TFDS's builder of the data set in `folder`, every shard checked first.

    Raises:
      InputError: no data set, one of another version, or a damaged shard, which is named.
    """
    try:
        builder = tfds.builder_from_directory(str(folder))
        version = str(builder.info.version)
    except Exception as error:  # whatever TFDS meets in a folder that is not its own
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
    """Folders of the whole data sets in `data_dir` whose configuration is `name`, sorted.

    What a killed build leaves is none, and is left out.
    """
    found = data_dir.glob(f"ich_ct/{name}/*/{_INFO}")
    return sorted(path.parent for path in found if not path.parent.name.startswith(UNFINISHED))


def is_data_set(folder: Path) -> bool:
    """Whether `folder` itself is a built data set."""
    return (folder / _INFO).is_file()


def metadata(folder: Path) -> dict[str, Any]:
    """A data set's metadata, without opening it; empty where it cannot be read."""
    try:
        return json.loads((folder / "metadata.json").read_text())
    except (OSError, ValueError):
        return {}


def earlier_division(data_dir: Path, plan: SplitPlan, records: Sequence[Record]) -> EarlierDivision | None:
    """What the data sets in `data_dir` of the same seed and folds say of these slices' digests.

    Where two of them disagree, the one with more of these slices is right. None: nothing.
    """
    if plan.by != "subject":
        return None
    digests = {record.digest for record in records}
    found = []
    for folder in data_sets(data_dir):
        told = metadata(folder)
        same = (told.get("split"), told.get("seed"), told.get("folds"))
        if same == (plan.by, plan.seed, plan.folds) and folder.name in _DIVIDED_ALIKE:
            rows = [row for row in read_splits(folder / "splits.csv") if row["split"] != ASIDE]
            known = [row for row in rows if row["digest"] in digests]
            found.append((len(known), folder.parent.name, told["fold"], known))
    owner_of: dict[str, str] = {}
    side_of: dict[str, str] = {}
    fold_of: dict[str, int] = {}
    for _, _, fold, rows in sorted(found, key=lambda each: each[:2]):
        owner_of |= {row["digest"]: row["subject"] for row in rows}
        if plan.folds:
            fold_of |= {row["digest"]: int(row["fold"]) for row in rows}
        if fold == plan.fold:
            side_of |= {row["digest"]: row["split"] for row in rows}
    return EarlierDivision(owner_of, side_of, fold_of) if owner_of else None
