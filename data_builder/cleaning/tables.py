"""The tables of a cleaned folder: every file in manifest.csv or in refused.csv, never in both.

The order of slices in a series, and the gaps and doubles in it.
"""

import collections
import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path, PurePosixPath
from statistics import median

from data_builder.cleaning.clean_file import FileResult
from data_builder.cleaning.labels import Labels, Place
from data_builder.dicom.header import Reason
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import MANIFEST_COLUMNS, REFUSED_COLUMNS

NOTE_COLUMNS = ("study", "series", "position_mm", "note")


@dataclass
class Tables:
    """Rows of manifest.csv, refused.csv and notes.csv.

    `torn` are files whose image was overwritten by a duplicate with other pixels: clean them again.
    `meanings` are pairs for the lookup.
    """

    manifest: list[dict] = field(default_factory=list)
    refused: list[dict] = field(default_factory=list)
    notes: list[dict] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    meanings: list[tuple[str, str]] = field(default_factory=list)


def assemble(
    results: Iterable[FileResult],
    paths: dict[str, PurePosixPath],
    labels: Labels,
    pseudonyms: Pseudonyms,
) -> Tables:
    """Tables out of the files' results, in the files' order: of duplicates the first is used.

    Raises InputError where two labels of one slice disagree.
    """
    tables = Tables()
    owners: dict[str, dict] = {}
    torn: set[str] = set()
    for result in results:
        if result.refused:
            tables.refused.append(result.refused)
            continue
        twin = next((owners[row["key"]] for row in result.rows if row["key"] in owners), None)
        if twin is None:
            owners |= {row["key"]: row for row in result.rows}
            continue
        tables.refused.append(_duplicate(result, owners))
        for row in result.rows:
            owner = owners.get(row["key"])
            if owner and owner["image"] == row["image"] and owner["digest"] != row["digest"]:
                torn.add(owner["file"])
    tables.torn = sorted(torn)
    for row in owners.values():
        tables.manifest.append(_labelled(row, paths[row["file"]], labels, pseudonyms, tables))
    tables.manifest.sort(key=_order)
    tables.refused.sort(key=lambda row: (row["file"], row["frame"]))
    for (study, series), rows in groupby(
        tables.manifest, lambda row: (row["study"], row["series"])
    ):
        for place, note in gaps_and_doubles([_position(row) for row in rows]):
            told = (study, series, f"{place:.3f}", note)
            tables.notes.append(dict(zip(NOTE_COLUMNS, told, strict=True)))
    return tables


def _duplicate(result: FileResult, owners: dict[str, dict]) -> dict:
    row = next(row for row in result.rows if row["key"] in owners)
    owner = owners[row["key"]]
    pixels = "the same" if owner["digest"] == row["digest"] else "other"
    detail = f"the instance of {owner['file']} again, with {pixels} pixels"
    told = (result.file, str(row["frame"]), str(Reason.DUPLICATE), detail)
    return dict(zip(REFUSED_COLUMNS, told, strict=True))


def _labelled(
    row: dict, path: PurePosixPath, labels: Labels, pseudonyms: Pseudonyms, tables: Tables
) -> dict:
    number = row["frame"] or row["instance"]
    subjects = (row["subject"], row["patient"])
    verdict = labels.of(Place(path, row["study"], subjects, row["instance_uid"], number))
    subject = row["subject"]
    if verdict.subject and pseudonyms.subject(verdict.subject) not in subjects:
        subject = pseudonyms.subject(verdict.subject)
        tables.meanings.append((subject, verdict.subject))
    # A slice without a head has nothing to learn from, whatever its label says.
    keep = verdict.keep or "1" if row["head"] else "0"
    return row | {
        "subject": subject,
        "keep": keep,
        "hemorrhage": verdict.hemorrhage,
        "location": verdict.location,
        "label_level": verdict.level,
    }


def _position(row: dict) -> float:
    return float(row["position_mm"]) if row["position_mm"] else math.nan


def _order(row: dict) -> tuple:
    place = _position(row)
    unknown = math.isnan(place)
    number = (row["instance"] or 0, row["frame"] or 0)
    return (row["study"], row["series"], unknown, 0.0 if unknown else place, number, row["key"])


def write_tables(out: Path, tables: Tables, settings: dict) -> None:
    """Puts the tables into `out`, manifest.csv last; a file that stays the same is not touched."""
    reasons = collections.Counter(row["reason"] for row in tables.refused)
    told = settings | {"slices": len(tables.manifest), "refused": dict(sorted(reasons.items()))}
    _put(out / "notes.csv", _csv(NOTE_COLUMNS, tables.notes))
    _put(out / "refused.csv", _csv(REFUSED_COLUMNS, tables.refused))
    _put(out / "cleaning.json", json.dumps(told, indent=2, sort_keys=True) + "\n")
    _put(out / "manifest.csv", _csv(MANIFEST_COLUMNS, tables.manifest))


def _csv(columns: tuple[str, ...], rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _put(path: Path, text: str) -> None:
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(data)
    draft.replace(path)


def remove_strays(out: Path, tables: Tables) -> None:
    """Removes images that a cut-short run or a refused duplicate left, and folders left empty."""
    listed = {row["image"] for row in tables.manifest}
    images = out / "images"
    for path in images.glob("stu-*/*"):
        own = path.name.startswith(("sli-", ".sli-"))
        if own and path.relative_to(out).as_posix() not in listed:
            path.unlink()
    for folder in images.glob("stu-*"):
        if not any(folder.iterdir()):
            folder.rmdir()


_GAP = 1.5  # times the spacing around it
_SAME_MM = 0.01
_AROUND = 3


def gaps_and_doubles(positions: Sequence[float]) -> list[tuple[float, str]]:
    """Places (mm) in sorted `positions` where a slice is missing or doubled, with the note.

    A step is a gap if it is over 1.5 times the median of the three steps before it and of the
    three after it: where spacing changes from one part of a scan to the next there is none.
    """
    known = [place for place in positions if not math.isnan(place)]
    notes = []
    distinct = known[:1]
    for before, after in pairwise(known):
        if after - before < _SAME_MM:
            notes.append((after, "doubled"))
        else:
            distinct.append(after)
    steps = [after - before for before, after in pairwise(distinct)]
    for index, step in enumerate(steps):
        sides = steps[max(0, index - _AROUND) : index], steps[index + 1 : index + 1 + _AROUND]
        usual = [median(side) for side in sides if side]
        if usual and step > _GAP * max(usual):
            missing = max(1, round(step / max(usual)) - 1)
            notes.append((distinct[index], f"{missing} missing after it"))
    return sorted(notes)
