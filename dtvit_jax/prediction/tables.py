"""The tables over all studies of an OUT: results.csv, slices.csv, results.json, files.csv."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_builder.records import LOCATIONS
from dtvit_jax.decision.answer import SliceAnswer, StudyAnswer
from dtvit_jax.prediction.study_folder import (
    FILE_COLUMNS,
    FILES,
    RESULTS,
    StudyFolders,
    answer_of,
    csv_text,
    put,
    read_rows,
)

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
DIGITS = 6


def write_tables(out: Path, folders: StudyFolders, strays: Iterable[dict[str, Any]]) -> None:
    """Writes the four tables from all finished studies; `strays` are files of no study."""
    studies, slices, told, files = [], [], [], []
    for key in folders.finished():
        results = folders.results(key)
        told.append(results)
        files += folders.files(key)
        answer = answer_of(results)
        if answer is None:
            studies.append({"study": key, "decision": "", "reasons": results["refusal"]})
            continue
        studies.append(study_row(answer))
        slices += slice_rows(answer)
    known = {row["file"] for row in files}
    files += [row for row in strays if row["file"] not in known]
    files.sort(key=lambda row: (row["study"] == "", row["study"], row["file"]))
    put(out / "results.csv", csv_text(STUDY_COLUMNS, studies))
    put(out / "slices.csv", csv_text(SLICE_COLUMNS, slices))
    put(out / FILES, csv_text(FILE_COLUMNS, files))
    put(out / RESULTS, json.dumps({"studies": told}, indent=1) + "\n")


def strays_before(out: Path) -> list[dict[str, str]]:
    """Files of no study that earlier runs have listed."""
    return [row for row in read_rows(out / FILES) if not row["study"]]


def worst_first(answer: StudyAnswer) -> list[SliceAnswer]:
    """A study's slices from the most to the least probable hemorrhage."""
    return sorted(answer.slices, key=lambda each: (-each.p_hemorrhage, each.key))


def study_row(answer: StudyAnswer) -> dict[str, Any]:
    """A study's row of results.csv."""
    return {
        "study": answer.key,
        "subject": answer.subject,
        "decision": answer.decision,
        "location": answer.location,
        "p_hemorrhage": _digits(answer.p_hemorrhage),
        **_locations(answer.p_location),
        "threshold": _digits(answer.threshold),
        "point": answer.point,
        "slices": len(answer.slices),
        "outliers": sum(each.outlier > 1 for each in answer.slices),
        "worst_slice": worst_first(answer)[0].key,
        "reasons": "; ".join(answer.reasons),
    }


def slice_rows(answer: StudyAnswer) -> list[dict[str, Any]]:
    """A study's rows of slices.csv; location only where the slice's decision is ICH."""
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


def study_results(
    key: str, answer: StudyAnswer | None, refusal: str, about: dict[str, Any]
) -> dict[str, Any]:
    """A study's results.json. about: what all studies of a model share."""
    told = None if answer is None else dataclasses.asdict(answer)
    return {"key": key, "refusal": refusal, "study": told, **about}


def _likeliest(p: tuple[float, float, float]) -> str:
    return LOCATIONS[max(range(3), key=lambda i: p[i])]


def _locations(p: tuple[float, float, float]) -> dict[str, str]:
    return dict(zip(P_LOCATIONS, map(_digits, p), strict=True))


def _digits(p: float) -> str:
    return f"{p:.{DIGITS}f}"
