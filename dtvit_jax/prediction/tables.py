"""Writes results.csv, slices.csv, results.json and files.csv over all studies of an OUT."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from data_builder.records import LOCATIONS
from dtvit_jax.decision.answer import SliceAnswer, StudyAnswer
from dtvit_jax.prediction.records import FILE_COLUMNS, FileRow
from dtvit_jax.prediction.study_folder import (
    FILES,
    RESULTS,
    StudyFolders,
    csv_text,
    put,
    read_file_rows,
)

Row = dict[str, str | int]

P_LOCATIONS = tuple(f"p_{name}" for name in LOCATIONS)
STUDY_COLUMNS = (
    "study",
    "subject",
    "decision",
    "location",
    "p_hemorrhage",
    *P_LOCATIONS,
    "threshold",
    "point",
    "slices",
    "outliers",
    "worst_slice",
    "reasons",
    "remarks",
)
SLICE_COLUMNS = (
    "key",
    "subject",
    "study",
    "position_mm",
    "decision",
    "called_location",
    "p_hemorrhage",
    *P_LOCATIONS,
    "outlier",
)
_DIGITS = 6


def write_tables(out: Path, folders: StudyFolders, strays: Iterable[FileRow]) -> None:
    """Writes the four tables of all finished studies; `strays` are files that name no study."""
    studies: list[Row] = []
    slices: list[Row] = []
    files: list[FileRow] = []
    all_results = []
    for results, rows in folders.finished():
        all_results.append(results)
        files += rows
        if results.study is None:
            row: Row = dict.fromkeys(STUDY_COLUMNS, "")
            studies.append(row | {"study": results.key, "reasons": results.refusal})
        else:
            studies.append(study_row(results.study))
            slices += slice_rows(results.study)
    in_studies = {file.file for file in files}
    files += [stray for stray in strays if stray.file not in in_studies]
    files.sort(key=lambda file: (file.study == "", file.study, file.file))
    put(out / "results.csv", csv_text(STUDY_COLUMNS, studies))
    put(out / "slices.csv", csv_text(SLICE_COLUMNS, slices))
    put(out / FILES, csv_text(FILE_COLUMNS, map(dataclasses.asdict, files)))
    as_json = {"studies": [dataclasses.asdict(results) for results in all_results]}
    put(out / RESULTS, json.dumps(as_json, indent=1) + "\n")


def strays_before(out: Path) -> list[FileRow]:
    """Reads the files of no study that earlier runs listed. Raises InputError."""
    return [row for row in read_file_rows(out / FILES) if not row.study]


def worst_first(answer: StudyAnswer) -> list[SliceAnswer]:
    """Sorts a study's slices from the most to the least probable hemorrhage."""
    return sorted(answer.slices, key=lambda each: (-each.p_hemorrhage, each.key))


def study_row(answer: StudyAnswer) -> Row:
    """The row of an answered study in results.csv; cells without a probability are empty."""
    return {
        "study": answer.key,
        "subject": answer.subject,
        "decision": answer.decision,
        "location": answer.location,
        "p_hemorrhage": "" if answer.p_hemorrhage is None else _digits(answer.p_hemorrhage),
        **({} if answer.p_location is None else _locations(answer.p_location)),
        "threshold": _digits(answer.threshold),
        "point": answer.point,
        "slices": len(answer.slices),
        "outliers": sum(each.outlier > 1 for each in answer.slices),
        "worst_slice": worst_first(answer)[0].key,
        "reasons": "; ".join(answer.reasons),
        "remarks": "; ".join(answer.remarks),
    }


def slice_rows(answer: StudyAnswer) -> list[Row]:
    """The rows of a study in slices.csv; a location is given where the slice's decision is ICH."""
    return [
        {
            "key": each.key,
            "subject": answer.subject,
            "study": answer.key,
            "position_mm": "" if each.position_mm is None else f"{each.position_mm:.3f}",
            "decision": each.decision,
            "called_location": _likeliest(each.p_location) if each.decision == "ich" else "",
            "p_hemorrhage": _digits(each.p_hemorrhage),
            **_locations(each.p_location),
            "outlier": f"{each.outlier:.3f}",
        }
        for each in answer.slices
    ]


def _likeliest(p: tuple[float, float, float]) -> str:
    return LOCATIONS[max(range(3), key=lambda i: p[i])]


def _locations(p: tuple[float, float, float]) -> dict[str, str]:
    return dict(zip(P_LOCATIONS, map(_digits, p), strict=True))


def _digits(p: float) -> str:
    return f"{p:.{_DIGITS}f}"
