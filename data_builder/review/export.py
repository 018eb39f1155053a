"""Exports a review as a folder that `build` takes: manifest.csv, images, decisions and counts."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TypedDict

from data_builder.errors import InputError
from data_builder.files import csv_text, draft_of, write_whole
from data_builder.records import LOCATIONS, MANIFEST_COLUMNS
from data_builder.review.folder import Folder, Row
from data_builder.review.outcome import AgreementReport, agreement, finals
from data_builder.review.readings import Final
from data_builder.review.store import Decision, Store


class ExportCounts(TypedDict):
    """Numbers of slices in an export, as review.json has them.

    `open`: readers disagree or one is unsure; `without_place`: ICH without a location; both are
    left without a label. `unread`: without a decision, and as they were.
    """

    slices: int
    labelled: int
    classes: dict[str, int]
    dropped: int
    open: int
    without_place: int
    unread: int
    settled: int


def export(folder: Folder, store: Store, out: Path) -> ExportCounts:
    """Writes manifest.csv, cleaning.json, images (hard links), decisions.csv and review.json.

    Readers are numbered and notes left out: names and free text stay in the store. Slices on which
    readers disagree get no label, so `build` leaves them out. Raises InputError.
    """
    if out.resolve() == folder.path.resolve():
        raise InputError("--export is the reviewed folder itself: give another")
    final, _ = finals(folder, store)
    rows = [_row(folder.rows[key], final[key]) for key in folder.rows]
    numbers = _reader_numbers(store)
    counts = _counts(final, rows)
    report = _numbered(agreement(folder, store), numbers)
    cleaning = {**folder.cleaning, "review": counts}
    decisions = [
        decision._replace(reader=numbers[decision.reader])
        for decision in store.history()
        if decision.field != "note"
    ]
    cells = ([row[column] for column in MANIFEST_COLUMNS] for row in rows)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for row in rows:
            _link(folder, row, out)
        write_whole(out / "cleaning.json", json.dumps(cleaning, indent=2, sort_keys=True) + "\n")
        write_whole(out / "review.json", json.dumps({**counts, **report}, indent=2) + "\n")
        write_whole(out / "decisions.csv", csv_text(Decision._fields, decisions))
        write_whole(
            out / "manifest.csv", csv_text(MANIFEST_COLUMNS, cells)
        )  # last: now it is complete
    except OSError as error:
        raise InputError(
            f"the folder to export to, {out.name!r}, can't be written ({error.strerror}): give "
            "another"
        ) from error
    return counts


def _reader_numbers(store: Store) -> dict[str, str]:
    """Reader's name -> 'reader 1' and so on, those with decisions on slices first."""
    names = dict.fromkeys([*store.readers(), *(row.reader for row in store.history())])
    return {name: f"reader {number}" for number, name in enumerate(names, 1)}


def _numbered(report: AgreementReport, numbers: dict[str, str]) -> AgreementReport:
    """The report with numbers instead of readers' names."""
    for reader in report["readers"]:
        reader["name"] = numbers[reader["name"]]
    for task in report["tasks"].values():
        for pair in task["cohen"]:
            pair["readers"] = [numbers[name] for name in pair["readers"]]
    return report


def _row(row: Row, final: Final) -> Row:
    """The row of manifest.csv with the final outcome; without a decision it stays as it was."""
    if final.status == "unread":
        return row
    if final.status == "open":
        cells = ("", "", "", "")
    elif final.outcome == "dropped":
        cells = ("0", "", "", "")
    elif final.outcome == "kept":
        cells = ("1", row["hemorrhage"], row["location"], row["label_level"])
    elif final.outcome == "ich":  # neither task can use an ICH without a location
        cells = ("1", "", "", "")
    elif final.outcome == "normal":
        cells = ("1", "0", "", final.level)
    else:
        cells = ("1", "1", final.outcome, final.level)
    return row | dict(zip(("keep", "hemorrhage", "location", "label_level"), cells, strict=True))


def _counts(final: dict[str, Final], rows: list[Row]) -> ExportCounts:
    labelled = [row for row in rows if row["keep"] != "0" and row["hemorrhage"]]
    classes = Counter(row["location"] or "normal" for row in labelled)
    return {
        "slices": len(rows),
        "labelled": len(labelled),
        "classes": {name: classes[name] for name in ("normal", *LOCATIONS)},
        "dropped": sum(row["keep"] == "0" for row in rows),
        "open": sum(one.status == "open" for one in final.values()),
        "without_place": sum(one.outcome == "ich" for one in final.values()),
        "unread": sum(one.status == "unread" for one in final.values()),
        "settled": sum(one.status == "settled" for one in final.values()),
    }


def _link(folder: Folder, row: Row, out: Path) -> None:
    """Links the slice's image into the new folder, or copies it where links are not possible."""
    image = folder.image(row["key"])
    if image is None:
        if row["keep"] != "0" and row["hemorrhage"]:
            raise InputError(f"the image of slice {row['key']} is missing: run clean again")
        return
    target = out / image.relative_to(folder.path.resolve())
    if target.exists() and target.samefile(image):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(target) as draft:
        draft.unlink(missing_ok=True)  # left by a killed process with this id
        try:
            os.link(image, draft)
        except OSError:  # another disk, or one without links
            shutil.copyfile(image, draft)
