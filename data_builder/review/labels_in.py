"""Turns a labels.csv into the decisions of one reader."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from data_builder.cleaning.labels import SliceNames, Verdict, read_labels
from data_builder.cleaning.unmatched import UnmatchedRow
from data_builder.pseudonyms import Pseudonyms
from data_builder.review.folder import Folder
from data_builder.review.store import Change


def label_changes(
    path: Path, folder: Folder, pseudonyms: Pseudonyms, paths: dict[str, PurePosixPath]
) -> tuple[list[Change], list[UnmatchedRow]]:
    """Returns the changes for this folder's slices, and the rows that match none of them.

    Studies and slices are named by UID, by the pseudonyms that the page shows or, with `paths`
    (pseudonym of a file -> its path in the DICOM folder), by folder and number. A label of a whole
    study becomes a decision on the study. Raises InputError with line and column.
    """
    labels = read_labels(path.parent, [PurePosixPath(path.name)], pseudonyms)
    journal = _journal_rows(folder)
    changes: list[Change] = []
    for study, keys in folder.studies.items():
        verdicts = {}
        for key in keys:
            row = folder.rows[key]
            unknown = {"subject": row["subject"], "patient": row["subject"]}
            cleaned = journal.get((row["file"], key), unknown)
            verdicts[key] = labels.of(
                SliceNames(
                    paths.get(row["file"], PurePosixPath("unknown")),
                    study,
                    (cleaned["subject"], cleaned["patient"]),
                    cleaned.get("instance_uid", key),
                    int(row["frame"]) if row["frame"] else cleaned.get("instance"),
                )
            )
        changes += _changes(study, verdicts)
    return changes, labels.unmatched(paths.values())


def _changes(study: str, verdicts: dict[str, Verdict]) -> list[Change]:
    """Changes of the study where all its slices have the same label, else of each slice."""
    changes = []
    general = {_label(verdict) for verdict in verdicts.values() if verdict.level != "slice"} - {""}
    whole = general.pop() if len(general) == 1 else ""
    if whole:
        changes.append(Change(study, "label", whole))
    keeps = {verdict.keep for verdict in verdicts.values()}
    one_keep = keeps.pop() if len(keeps) == 1 else ""
    if one_keep:
        changes.append(Change(study, "keep", one_keep))
    for key, verdict in verdicts.items():
        label = _label(verdict)
        if label and not (whole and verdict.level != "slice"):
            changes.append(Change(key, "label", label))
        if verdict.keep and not one_keep:
            changes.append(Change(key, "keep", verdict.keep))
    return changes


def _label(verdict: Verdict) -> str:
    if not verdict.hemorrhage:
        return ""
    return verdict.location if verdict.hemorrhage == "1" else "normal"


def _journal_rows(folder: Folder) -> dict[tuple[str, str], dict[str, Any]]:
    """File and slice key -> what clean's journal knows of the slice; empty without a journal."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    journal = folder.path / ".journal.jsonl"
    if not journal.is_file():
        return rows
    for line in journal.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line) if line.endswith("}") else {}  # a kill may cut the last line
        for row in entry.get("rows", ()):
            rows[row["file"], row["key"]] = row
    return rows
