"""Assembles and writes the tables of a cleaned folder.

Every file of the source is in manifest.csv or in refused.csv, never in both; notes.csv has the
gaps and doubles of each series, unmatched_labels.csv the rows of labels.csv that match no slice.
"""

import collections
import csv
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from data_builder.cleaning.labels import Labels, SliceNames, Verdict
from data_builder.cleaning.results import (
    CleanedSlice,
    FileResult,
    LabelledSlice,
    Origin,
    RefusedRow,
)
from data_builder.cleaning.series import gaps_and_doubles
from data_builder.cleaning.subjects import (
    STATE_SUBJECTS,
    count_subjects,
    files_of_mixed_studies,
    subject_of,
    subjects_of_patients,
)
from data_builder.cleaning.unmatched import NAME as UNMATCHED
from data_builder.cleaning.unmatched import UnmatchedRow, unmatched_table
from data_builder.dicom.refusal import Reason
from data_builder.files import DRAFT, write_whole
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import MANIFEST_COLUMNS, REFUSED_COLUMNS

NOTE_COLUMNS = ("study", "series", "position_mm", "note")
TABLES = ("notes.csv", "refused.csv", UNMATCHED, "cleaning.json", "manifest.csv")


class NoteRow(TypedDict):
    """A row of notes.csv."""

    study: str
    series: str
    position_mm: str
    note: str


@dataclass
class Tables:
    """The rows of manifest.csv, refused.csv, notes.csv and unmatched_labels.csv.

    `of_several_folders` are the places of rows of labels.csv that match several folders of one
    name. `meanings` are pairs of a pseudonym and its meaning, for the lookup.
    """

    manifest: list[LabelledSlice] = field(default_factory=list)
    refused: list[RefusedRow] = field(default_factory=list)
    notes: list[NoteRow] = field(default_factory=list)
    unmatched: list[UnmatchedRow] = field(default_factory=list)
    of_several_folders: list[str] = field(default_factory=list)
    meanings: list[tuple[str, str]] = field(default_factory=list)


def assemble(
    results: Iterable[FileResult],
    paths: Mapping[str, PurePosixPath],
    labels: Labels,
    pseudonyms: Pseudonyms,
) -> Tables:
    """Assembles the tables from the results of the files; of duplicates the first file is used.

    `paths` has each file's path inside the source, by its pseudonym. Raises InputError where two
    labels of one slice disagree.
    """
    tables = Tables()
    slices = _without_duplicates(results, tables)
    of_patient = subjects_of_patients(slices.values())
    for cleaned in slices.values():
        number = cleaned.frame or cleaned.instance
        path, subjects = paths[cleaned.file], (cleaned.subject, cleaned.patient)
        verdict = labels.of(SliceNames(path, cleaned.study, subjects, cleaned.instance_uid, number))
        subject, origin = subject_of(cleaned, verdict.subject, of_patient, pseudonyms)
        if subject not in subjects:
            tables.meanings.append((subject, verdict.subject))
        tables.manifest.append(_labelled(cleaned, verdict, subject, origin))
    _refuse_mixed_studies(tables)
    tables.unmatched = labels.unmatched(paths.values())
    tables.of_several_folders = labels.of_several_folders()
    tables.manifest.sort(key=_order)
    tables.refused.sort(key=lambda row: (row["file"], row["frame"]))
    for (study, series), rows in itertools.groupby(
        tables.manifest, lambda row: (row.study, row.series)
    ):
        for position, note in gaps_and_doubles([row.position for row in rows]):
            tables.notes.append(
                NoteRow(study=study, series=series, position_mm=f"{position:.3f}", note=note)
            )
    return tables


def _without_duplicates(results: Iterable[FileResult], tables: Tables) -> dict[str, CleanedSlice]:
    """The slices of all files that are used, by key; fills in `refused`."""
    slices: dict[str, CleanedSlice] = {}
    for result in results:
        if result.refused:
            tables.refused.append(result.refused)
            continue
        double = next((row for row in result.rows if row.key in slices), None)
        if double is None:
            slices |= {row.key: row for row in result.rows}
        else:
            tables.refused.append(_duplicate(double, slices[double.key]))
    return slices


def _duplicate(double: CleanedSlice, first: CleanedSlice) -> RefusedRow:
    pixels = "the same" if first.digest == double.digest else "other"
    return RefusedRow(
        file=double.file,
        frame=str(double.frame),
        reason=str(Reason.DUPLICATE),
        detail=f"the instance of {first.file} again, with {pixels} pixels",
    )


def _labelled(
    cleaned: CleanedSlice, verdict: Verdict, subject: str, origin: Origin
) -> LabelledSlice:
    # A slice without a head teaches nothing, whatever its label.
    keep = verdict.keep or "1" if cleaned.head else "0"
    values: dict[str, Any] = vars(cleaned) | {"subject": subject}
    return LabelledSlice(
        **values,
        keep=keep,
        hemorrhage=verdict.hemorrhage,
        location=verdict.location,
        label_level=verdict.level,
        subject_from=origin,
    )


def _refuse_mixed_studies(tables: Tables) -> None:
    """Moves the files of studies of several patients to `refused`: a study is of one."""
    mixed = files_of_mixed_studies(tables.manifest)
    tables.manifest = [row for row in tables.manifest if row.file not in mixed]
    tables.refused += [
        RefusedRow(
            file=file,
            frame="",
            reason=str(Reason.MIXED_PATIENTS),
            detail=f"one study of {people} patients: if it is of one, {STATE_SUBJECTS}",
        )
        for file, people in mixed.items()
    ]


def _order(row: LabelledSlice) -> tuple[Any, ...]:
    """By study, series and position; slices without a position last, by their numbers."""
    position = (False, row.position) if row.position_mm else (True, 0.0)
    return (row.study, row.series, *position, row.instance or 0, row.frame or 0, row.key)


def write_tables(out: Path, tables: Tables, settings: Mapping[str, Any]) -> bool:
    """Writes the tables and cleaning.json, manifest.csv last; an unchanged file is not touched.

    Returns whether any was written.
    """
    reasons = collections.Counter(row["reason"] for row in tables.refused)
    phantoms = sum(row.phantom for row in tables.manifest)
    about = {
        **settings,
        "phantom": settings["phantom"] or phantoms > 0,
        "slices": len(tables.manifest),
        "phantom_slices": phantoms,
        "refused": dict(sorted(reasons.items())),
        "subjects": count_subjects(tables.manifest),
    }
    texts = (
        _csv(NOTE_COLUMNS, tables.notes),
        _csv(REFUSED_COLUMNS, tables.refused),
        unmatched_table(tables.unmatched),
        json.dumps(about, indent=2, sort_keys=True) + "\n",
        _csv(MANIFEST_COLUMNS, [vars(row) for row in tables.manifest]),
    )
    written = False
    for name, text in zip(TABLES, texts, strict=True):
        path = out / name
        if not path.is_file() or path.read_bytes() != text.encode():
            write_whole(path, text)
            written = True
    return written


def _csv(columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def remove_strays(out: Path, tables: Tables) -> bool:
    """Removes drafts and images that a stopped run or a duplicate left, and empty folders.

    Returns whether there were any.
    """
    listed = {row.image for row in tables.manifest}
    images, removed = out / "images", False
    for path in images.glob("stu-*/*"):
        # ".sli-" began the drafts of earlier versions.
        own = path.name.startswith(("sli-", ".sli-", DRAFT))
        if own and path.relative_to(out).as_posix() not in listed:
            path.unlink()
            removed = True
    for folder in images.glob("stu-*"):
        if not any(folder.iterdir()):
            folder.rmdir()
            removed = True
    for name in TABLES:
        for draft in out.glob(f"{DRAFT}*-{name}"):
            draft.unlink()
            removed = True
    return removed
