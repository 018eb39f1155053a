"""From the store to a folder that `build` takes: manifest.csv, its images, and the audit."""

import contextlib
import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from data_builder.errors import InputError
from data_builder.records import LOCATIONS, MANIFEST_COLUMNS
from data_builder.review.folder import Folder
from data_builder.review.outcome import agreement, finals
from data_builder.review.readings import Final
from data_builder.review.store import Store

DECISION_COLUMNS = (
    "id", "action", "at", "reader", "settles", "target", "field", "value", "before", "undoes"
)  # fmt: skip


def export(folder: Folder, store: Store, out: Path) -> dict[str, Any]:
    """Writes manifest.csv, cleaning.json, images (hard links), decisions.csv and review.json.

    Readers are numbered there and notes are left out: names and free text stay in the store. Open
    disagreements get no label, so `build` leaves them out. Returns counts. Raises InputError.
    """
    if out.resolve() == folder.path.resolve():
        raise InputError("--export is the reviewed folder itself: give another")
    final, _ = finals(folder, store)
    rows = [_row(folder.rows[key], final[key]) for key in folder.rows]
    names = {name: f"reader {number}" for number, name in enumerate(store.readers(), 1)}
    for decision in store.history():
        names.setdefault(decision.reader, f"reader {len(names) + 1}")
    counts = _counts(final, rows)
    told = agreement(folder, store)
    for each in told["readers"]:
        each["name"] = names[each["name"]]
    for task in told["tasks"].values():
        for pair in task["cohen"]:
            pair["readers"] = [names[name] for name in pair["readers"]]
    cleaning = folder.cleaning | {"review": counts}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for row in rows:
            _link(folder, row, out)
        _put(out / "cleaning.json", json.dumps(cleaning, indent=2, sort_keys=True) + "\n")
        _put(out / "review.json", json.dumps(counts | told, indent=2) + "\n")
        with _whole(out / "decisions.csv") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(DECISION_COLUMNS)
            for decision in store.history():
                if decision.field != "note":
                    writer.writerow(decision._replace(reader=names[decision.reader]))
        with _whole(out / "manifest.csv") as file:
            table = csv.DictWriter(file, MANIFEST_COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows({name: row[name] for name in MANIFEST_COLUMNS} for row in rows)
    except OSError as error:
        raise InputError(
            f"the folder to export to, {out.name!r}, can't be written ({error.strerror}): give "
            "another"
        ) from error
    return counts


def _row(row: dict[str, str], final: Final) -> dict[str, str]:
    """The manifest's row with the final word; what nobody spoke of keeps what it had."""
    if final.status == "unread":
        return row
    if final.status == "open":
        told = ("", "", "", "")
    elif final.outcome == "dropped":
        told = ("0", "", "", "")
    elif final.outcome == "kept":
        told = ("1", row["hemorrhage"], row["location"], row["label_level"])
    elif final.outcome == "ich":  # without a place no task can use it
        told = ("1", "", "", "")
    elif final.outcome == "normal":
        told = ("1", "0", "", final.level)
    else:
        told = ("1", "1", final.outcome, final.level)
    return row | dict(zip(("keep", "hemorrhage", "location", "label_level"), told, strict=True))


def _counts(final: dict[str, Final], rows: list[dict[str, str]]) -> dict[str, Any]:
    used = [row for row in rows if row["keep"] != "0" and row["hemorrhage"]]
    classes = Counter(row["location"] or "normal" for row in used)
    return {
        "slices": len(rows),
        "labelled": len(used),
        "classes": {name: classes[name] for name in ("normal", *LOCATIONS)},
        "dropped": sum(row["keep"] == "0" for row in rows),
        "open": sum(word.status == "open" for word in final.values()),
        "without_place": sum(word.outcome == "ich" for word in final.values()),
        "unread": sum(word.status == "unread" for word in final.values()),
        "settled": sum(word.status == "settled" for word in final.values()),
    }


def _link(folder: Folder, row: dict[str, str], out: Path) -> None:
    """The slice's image in the new folder: the same file where it can be linked, else a copy."""
    image = folder.image(row["key"])
    if image is None:
        if row["keep"] != "0" and row["hemorrhage"]:
            raise InputError(f"the image of slice {row['key']} is missing: run clean again")
        return
    place = out / image.relative_to(folder.path.resolve())
    if place.exists() and place.samefile(image):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.new")
    draft.unlink(missing_ok=True)
    try:
        os.link(image, draft)
    except OSError:  # another disk, or one without links
        shutil.copyfile(image, draft)
    draft.replace(place)


def _put(path: Path, text: str) -> None:
    with _whole(path) as file:
        file.write(text)


@contextlib.contextmanager
def _whole(path: Path):
    """A text file that appears when it is complete."""
    draft = path.with_name(f".{path.name}.new")
    with draft.open("w", newline="", encoding="utf-8") as file:
        yield file
    draft.replace(path)
