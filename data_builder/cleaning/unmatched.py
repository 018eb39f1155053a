"""Finds the likely cause why a row of labels.csv matches no slice, and lists such rows.

A cause repeats nothing of the row or of the source: a cell may hold a person's name or number.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import PurePosixPath
from typing import NamedTuple

from data_builder.cleaning.label_rows import Label
from data_builder.pseudonyms import Pseudonyms

NAME = "unmatched_labels.csv"

_LONGEST_ID = 16  # digits of a number whose zeros may be lost
_SHORTENED = re.compile(r"\d([.,]\d+)?E\+?\d+", re.IGNORECASE)


class UnmatchedRow(NamedTuple):
    """A row of unmatched_labels.csv: the file and line of a row of labels.csv, and the cause."""

    file: str
    line: int
    cause: str

    @property
    def where(self) -> str:
        """The row's place, for messages."""
        return f"{self.file} line {self.line}"


class Known(NamedTuple):
    """What labels might have named.

    `used` are the names and paths of folders with slices that were used, `others` those of all
    files, `files` the files' names, all in form NFC; `studies` and `subjects` are pseudonyms.
    """

    used: set[str]
    others: set[str]
    files: set[str]
    studies: Set[str]
    subjects: Set[str]


def folder_names(path: PurePosixPath) -> Iterator[str]:
    """The names by which a label may call a folder above a file: each part, and each path."""
    for folder in path.parents:
        yield unicodedata.normalize("NFC", str(folder))
        if folder.name:
            yield unicodedata.normalize("NFC", folder.name)


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def _without_decimals(name: str) -> str:
    return _without_zeros(re.sub(r"(?<=\d)[.,]0+$", "", name))


def _compact(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


_FOLDS: tuple[tuple[Callable[[str], str], str], ...] = (
    (_without_zeros, "has this number with zeros before it, which spreadsheets remove"),
    (_without_decimals, "has this number without decimals, which spreadsheets and pandas add"),
    (str.casefold, "differs in upper and lower case only"),
    (_compact, "differs in spaces, case or the form of letters only"),
)


def likely_cause(label: Label, known: Known, pseudonyms: Pseudonyms) -> str:
    """The likely cause why no slice that was used is named by `label`."""
    if label.level == "subject":
        return _cause_of_subject(label.subject, known, pseudonyms)
    named = known.used.intersection(label.folders)
    if label.study and not named and pseudonyms.study(label.study) not in known.studies:
        return _cause_of_study(label, known)
    where = "the study" if label.study else "the source"
    if label.number is not None:
        return f"{where} has no slice of this number that was used"
    if unicodedata.normalize("NFC", label.slice) in known.files:
        return "slice holds a file's name: give its SOP Instance UID or its instance number"
    return f"{where} has no slice of this SOP Instance UID that was used"


def _cause_of_study(label: Label, known: Known) -> str:
    if known.others.intersection(label.folders):
        return "the folder is there, but none of its files was used (refused.csv has the reasons)"
    for fold, cause in _FOLDS:
        if {fold(name) for name in label.folders} & {fold(name) for name in known.others}:
            return f"a folder {cause}"
    if _SHORTENED.fullmatch(label.study):
        return "a spreadsheet has shortened this number: enter it as text"
    if PurePosixPath(label.folders[-1]).name in known.others:
        return "the last folder of this path is there: give the path inside SRC"
    if not known.others:
        return "no study has this UID or pseudonym; names of folders need --dicom"
    return "no folder that this file speaks for, and no study, has this name"


def _cause_of_subject(subject: str, known: Known, pseudonyms: Pseudonyms) -> str:
    plain = re.sub(r"(?<=\d)[.,]0+$", "", subject)
    zeros = ["0" * more + plain for more in range(1, _LONGEST_ID)]
    for spellings, (_, cause) in zip(
        (zeros, [plain], [subject.upper(), subject.lower()]), _FOLDS, strict=False
    ):
        if any(pseudonyms.subject(spelling) in known.subjects for spelling in spellings):
            return f"a Patient ID {cause}"
    return "no slice that was used has this Patient ID"


def unmatched_table(rows: Sequence[UnmatchedRow]) -> str:
    """The text of unmatched_labels.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(UnmatchedRow._fields)
    writer.writerows(rows)
    return text.getvalue()


def known_names(
    used: Iterable[PurePosixPath],
    files: Iterable[PurePosixPath],
    studies: Set[str],
    subjects: Set[str],
) -> Known:
    """Collects the names from the paths of the used files and of all files."""
    files = list(files)
    source = {"."}
    return Known(
        {name for path in used for name in folder_names(path)} - source,
        {name for path in files for name in folder_names(path)} - source,
        {unicodedata.normalize("NFC", path.name) for path in files},
        studies,
        subjects,
    )
