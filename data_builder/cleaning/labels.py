"""Joins the rows of `labels.csv` with slices: what a person states about slices, studies, subjects.

A row without study and slice is about its subject. A row about a slice comes before one about its
study, and that before one about its subject.
"""

import dataclasses
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_builder.cleaning.label_rows import Label, read_rows
from data_builder.cleaning.unmatched import UnmatchedRow, folder_names, known_names, likely_cause
from data_builder.errors import InputError
from data_builder.pseudonyms import Pseudonyms

LEVELS = ("slice", "study", "subject")


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
        [label for path in paths for label in read_rows(source, path, pseudonyms)], pseudonyms
    )


def subject_keys(subject: str, pseudonyms: Pseudonyms) -> list[str]:
    """The pseudonyms of a Patient ID in the forms of Unicode that a header may have it in."""
    return [pseudonyms.subject(unicodedata.normalize(form, subject)) for form in ("NFC", "NFD")]


class Labels:
    """Looks up the rows that are about a slice."""

    def __init__(self, rows: list[Label], pseudonyms: Pseudonyms) -> None:
        self._rows, self._pseudonyms = rows, pseudonyms
        self._matched: dict[Label, set[PurePosixPath]] = {}  # the folders of its name
        self._seen: list[SliceNames] = []
        self._by_name: dict[tuple[str, str], list[Label]] = {}
        for label in rows:
            for name in self._label_names(label):
                self._by_name.setdefault((label.level, name), []).append(label)

    def _label_names(self, label: Label) -> list[str]:
        """The texts of `_names_at` by which a slice matches this row."""
        if label.level == "subject":
            return subject_keys(label.subject, self._pseudonyms)
        studies = [*label.folders, self._pseudonyms.study(label.study)]
        if label.level == "study":
            return studies
        if label.number is not None:
            return [f"{study} {label.number}" for study in studies]
        return [self._pseudonyms.slice(label.slice), label.slice]

    def of(self, names: SliceNames) -> Verdict:
        """The verdict of all rows on a slice.

        Raises InputError where two rows of one level disagree, or two name different subjects.
        """
        self._seen.append(names)
        decided: dict[str, _Statement] = {}
        for level in LEVELS:
            for label in self._about(names, level):
                folders = self._matched.setdefault(label, set())
                folders.update(_folders_named(label, names.path))
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
        for name in dict.fromkeys(self._names_at(level, names)):
            for label in self._by_name.get((level, name), ()):
                if names.path.is_relative_to(label.folder):
                    same = label.level != "slice" or label.number is not None or not label.study
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
        studies = list(dict.fromkeys([names.study, *folder_names(names.path)]))
        if level == "study":
            return studies
        numbered = [f"{study} {names.number}" for study in studies if names.number is not None]
        return [names.instance_uid, *numbered]

    def of_several_folders(self) -> list[str]:
        """The places of the rows that have matched slices in several folders of one name."""
        return [label.where for label, folders in self._matched.items() if len(folders) > 1]

    def unmatched(self, files: Iterable[PurePosixPath]) -> list[UnmatchedRow]:
        """The rows that `of` has matched to no slice, with their likely causes.

        `files` are the paths of all files of the source, used or not.
        """
        rows = [label for label in self._rows if label not in self._matched]
        files = list(files) if rows else []
        unmatched = []
        known = {}
        for label in rows:
            if label.folder not in known:
                seen = [one for one in self._seen if one.path.is_relative_to(label.folder)]
                known[label.folder] = known_names(
                    [one.path for one in seen],
                    [path for path in files if path.is_relative_to(label.folder)],
                    {one.study for one in seen},
                    {subject for one in seen for subject in one.subjects},
                )
            cause = likely_cause(label, known[label.folder], self._pseudonyms)
            unmatched.append(UnmatchedRow(label.file, label.line, cause))
        return unmatched


def _folders_named(label: Label, path: PurePosixPath) -> list[PurePosixPath]:
    """The outermost folder above `path` that the cell `study` names; empty where it names none."""
    for folder in reversed(path.parents):
        if label.study and not {*folder_names(folder / "file")}.isdisjoint(label.folders):
            return [folder]
    return []


def _decide(decided: dict[str, _Statement], column: str, statement: _Statement) -> None:
    """Keeps the first statement; raises InputError where one of its level disagrees with it."""
    first = decided.setdefault(column, statement)
    if first.level == statement.level and first.cells != statement.cells:
        raise InputError(
            f"{statement.where}, column {column}: it contradicts {first.where} about a slice: "
            "correct one of them"
        )
