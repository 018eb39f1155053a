"""Reads `labels.csv`: what a person states about slices, studies or subjects.

Columns: study (folder name or Study Instance UID), subject (optional), slice (SOP Instance UID, its
pseudonym, or instance number, or the frame's number in a file of several; empty: the whole study),
keep (1, 0 or empty), hemorrhage (1, 0 or empty), location (of a hemorrhage). A row without study
and slice is about its subject. A row about a slice comes before one about its study, and that
before one about its subject.
"""

import csv
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_builder.errors import InputError
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import LOCATIONS

NAME = "labels.csv"
LEVELS = ("slice", "study", "subject")
_REQUIRED = ("study", "hemorrhage", "location")
_COLUMNS = ("study", "subject", "slice", "keep", "hemorrhage", "location")


@dataclasses.dataclass(frozen=True)
class Label:
    """One row. `folder` is that of its file in the source; `where` names the line, safe to print.

    `study`, `subject` and `slice` are the cells as written: private.
    """

    folder: PurePosixPath
    where: str
    level: str
    study: str
    subject: str
    slice: str
    keep: str
    hemorrhage: str
    location: str


@dataclasses.dataclass(frozen=True)
class SliceNames:
    """All that a label may name a slice by.

    `path` is that of its file in the source. `study`, `subjects` (Patient ID with its issuer, and
    without) and `instance_uid` are pseudonyms; `number` is the frame's where a file has several,
    else the instance number.
    """

    path: PurePosixPath
    study: str
    subjects: tuple[str, ...]
    instance_uid: str
    number: int | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the labels state about one slice, empty where they state nothing.

    `level` is that of the row with the hemorrhage, one of LEVELS. `subject` is private.
    """

    keep: str = ""
    hemorrhage: str = ""
    location: str = ""
    level: str = ""
    subject: str = ""


class _Statement(NamedTuple):
    """The cells of a row that decide one thing, the row's level and its line."""

    cells: tuple[str, ...]
    level: str
    where: str


def read_labels(source: Path, paths: Iterable[PurePosixPath], pseudonyms: Pseudonyms) -> "Labels":
    """Reads all rows of the files `paths` inside `source`.

    Raises InputError with the line and column of a bad cell.
    """
    return Labels(
        [label for path in paths for label in _rows(source, path, pseudonyms)], pseudonyms
    )


def _rows(source: Path, path: PurePosixPath, pseudonyms: Pseudonyms) -> Iterator[Label]:
    name = NAME if len(path.parts) == 1 else f"{NAME} ({pseudonyms.file(str(path))})"
    try:
        with (source / path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = [cell.strip().lower() for cell in reader.fieldnames or ()]
            missing = [column for column in _REQUIRED if column not in reader.fieldnames]
            if missing:
                raise InputError(
                    f"{name} line 1: the column {missing[0]} is missing: its columns are "
                    + ",".join(_COLUMNS)
                )
            for row in reader:
                cells = {column: (row.get(column) or "").strip() for column in _COLUMNS}
                if row.get(None):
                    raise InputError(f"{name} line {reader.line_num}: more cells than columns")
                if any(cells.values()):
                    yield _label(cells, path.parent, f"{name} line {reader.line_num}")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: save it as CSV in UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"{name} can't be read as CSV: save it as CSV in UTF-8") from error


def _label(cells: dict[str, str], folder: PurePosixPath, where: str) -> Label:
    def require(valid: bool, column: str, rule: str) -> None:
        if not valid:
            raise InputError(f"{where}, column {column}: {rule}")

    hemorrhage, location = cells["hemorrhage"], cells["location"].lower()
    require(cells["keep"] in ("", "0", "1"), "keep", "must be 1, 0 or empty")
    require(hemorrhage in ("", "0", "1"), "hemorrhage", "must be 1, 0 or empty")
    if hemorrhage == "1":
        rule = f"must be one of {', '.join(LOCATIONS)} where hemorrhage is 1"
        require(location in LOCATIONS, "location", rule)
    else:
        require(location == "", "location", "must be empty where hemorrhage is not 1")
    require(bool(cells["study"] or cells["slice"] or cells["subject"]), "study", "is empty")
    numbered = cells["slice"].isdigit()
    require(bool(cells["study"]) or not numbered, "study", "is needed with an instance number")
    level = "slice" if cells["slice"] else "study" if cells["study"] else "subject"
    return Label(folder=folder, where=where, level=level, **(cells | {"location": location}))


class Labels:
    """Looks up the rows that are about a slice."""

    def __init__(self, rows: list[Label], pseudonyms: Pseudonyms) -> None:
        self._rows, self._pseudonyms = rows, pseudonyms
        self._matched: set[str] = set()
        self._by_name: dict[tuple[str, str], list[Label]] = {}
        for label in rows:
            for name in self._label_names(label):
                self._by_name.setdefault((label.level, name), []).append(label)

    def _label_names(self, label: Label) -> list[str]:
        """The texts of `_names_at` by which a slice matches this row."""
        if label.level == "subject":
            return [self._pseudonyms.subject(label.subject)]
        folder, study = label.study.strip("/"), self._pseudonyms.study(label.study)
        if label.level == "study":
            return [folder, study]
        if label.slice.isdigit():
            number = int(label.slice)
            return [f"{folder} {number}", f"{study} {number}"]
        return [self._pseudonyms.slice(label.slice), label.slice]

    def of(self, names: SliceNames) -> Verdict:
        """The verdict of all rows on a slice.

        Raises InputError where two rows of one level disagree, or two name different subjects.
        """
        decided: dict[str, _Statement] = {}
        for level in LEVELS:
            for label in self._about(names, level):
                self._matched.add(label.where)
                if label.keep:
                    _decide(decided, "keep", _Statement((label.keep,), level, label.where))
                if label.hemorrhage:
                    cells = (label.hemorrhage, label.location)
                    _decide(decided, "hemorrhage", _Statement(cells, level, label.where))
                if label.subject:
                    _decide(decided, "subject", _Statement((label.subject,), "", label.where))
        nothing = _Statement(("", ""), "", "")
        hemorrhage = decided.get("hemorrhage", nothing)
        return Verdict(
            keep=decided.get("keep", nothing).cells[0],
            hemorrhage=hemorrhage.cells[0],
            location=hemorrhage.cells[1],
            level=hemorrhage.level,
            subject=decided.get("subject", nothing).cells[0],
        )

    def _about(self, names: SliceNames, level: str) -> Iterator[Label]:
        for name in self._names_at(level, names):
            for label in self._by_name.get((level, name), ()):
                if names.path.is_relative_to(label.folder):
                    same = label.level != "slice" or label.slice.isdigit() or not label.study
                    if same or self._in_study(label, names):
                        yield label

    def _in_study(self, label: Label, names: SliceNames) -> bool:
        of_label = self._label_names(dataclasses.replace(label, level="study"))
        return bool(set(of_label) & set(self._names_at("study", names)))

    @staticmethod
    def _names_at(level: str, names: SliceNames) -> list[str]:
        """The texts by which a row of this level may name the slice."""
        if level == "subject":
            return list(dict.fromkeys(names.subjects))
        folder = names.path.parent
        paths = [str(parent) for parent in (folder, *folder.parents)]
        studies = list(dict.fromkeys([names.study, *folder.parts, *paths]))
        if level == "study":
            return studies
        numbered = [f"{study} {names.number}" for study in studies if names.number is not None]
        return [names.instance_uid, *numbered]

    def unmatched(self) -> list[str]:
        """The lines of the rows that `of` has matched to no slice, without their content."""
        return [label.where for label in self._rows if label.where not in self._matched]


def _decide(decided: dict[str, _Statement], column: str, statement: _Statement) -> None:
    """Keeps the first statement; raises InputError where one of its level disagrees with it."""
    first = decided.setdefault(column, statement)
    if first.level == statement.level and first.cells != statement.cells:
        raise InputError(
            f"{statement.where}, column {column}: it contradicts {first.where} about a slice: "
            "correct one of them"
        )
