"""Reads the rows of a `labels.csv` as people's programs write it.

Columns: study (folder name or Study Instance UID), subject (optional), slice (SOP Instance UID, its
pseudonym, or instance number, or the frame's number in a file of several; empty: the whole study),
keep (1, 0 or empty), hemorrhage (1, 0 or empty), location (of a hemorrhage). Spreadsheets and
pandas also write ';' or tabs for commas, a first line 'sep=;', 1.0 or 'True' for 1, and 'site\\001'
for 'site/001': what has one meaning is read, all else is an error.
"""

import contextlib
import csv
import dataclasses
import io
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data_builder.errors import InputError
from data_builder.files import size_of
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import LOCATIONS

NAME = "labels.csv"
COLUMNS = ("study", "subject", "slice", "keep", "hemorrhage", "location")
_REQUIRED = ("study", "hemorrhage", "location")
_SEPARATORS = ",;\t"
_YES_OR_NO = {"true": "1", "false": "0"}
_WHOLE = re.compile(r"(\d{1,12})(?:[.,]0+)?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Label:
    """One row. `folder` is that of its file in the source; `file` and `line` are safe to print.

    `study`, `subject` and `slice` are the cells in Unicode's form NFC: private. `number` is the
    slice as an instance's or a frame's number, None where it is none.
    """

    folder: PurePosixPath
    file: str
    line: int
    level: str
    study: str
    subject: str
    slice: str
    keep: str
    hemorrhage: str
    location: str

    @property
    def where(self) -> str:
        """The row's place, for messages."""
        return f"{self.file} line {self.line}"

    @property
    def number(self) -> int | None:
        """The number that the cell `slice` holds."""
        return whole_number(self.slice)

    @property
    def folders(self) -> tuple[str, ...]:
        """The names or paths of folders that the cell `study` may mean: as it is, with '/'."""
        raw = self.study.strip("/")
        path = str(PurePosixPath(raw.replace("\\", "/").strip("/")))
        return (raw,) if path in (raw, ".") else (raw, path)


def whole_number(text: str) -> int | None:
    """The number of '7', '007', '7.0' or '7,0'; None for any other text."""
    match = _WHOLE.fullmatch(text)
    return int(match[1]) if match else None


def read_rows(source: Path, path: PurePosixPath, pseudonyms: Pseudonyms) -> Iterator[Label]:
    """Yields the rows of the file `path` inside `source`; an empty row is left out.

    Raises InputError with the line and column of a bad cell.
    """
    name = NAME if len(path.parts) == 1 else f"{NAME} ({pseudonyms.file(str(path))})"
    if size_of(source / path) < 0:
        raise InputError(f"{name} can't be read: it is no plain file, or its path is too long")
    try:
        text = (source / path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: save it as CSV in UTF-8") from error
    except OSError as error:
        raise InputError(f"{name} can't be read ({error.strerror}): mend or remove it") from error
    try:
        for line, cells in _cells(text, name):
            yield _label(cells, path.parent, name, line)
    except csv.Error as error:
        raise InputError(f"{name} can't be read as CSV: save it as CSV in UTF-8") from error


def _cells(text: str, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of COLUMNS of each row that is not empty."""
    first, _, rest = text.partition("\n")
    stated = re.fullmatch(r'"?sep=(.)"?[,;\t]*', first.rstrip("\r"), re.IGNORECASE)
    start = 1 if stated else 0
    reader, columns = _reader(rest if stated else text, stated[1] if stated else "")
    for column in _REQUIRED:
        if column not in columns:
            raise InputError(
                f"{name} line {start + 1}: the column {column} is missing: its columns are "
                + ",".join(COLUMNS)
            )
    for column in COLUMNS:
        if columns.count(column) > 1:
            raise InputError(f"{name} line {start + 1}: the column {column} is there twice")
    for row in reader:
        line = start + reader.line_num
        if any(cell.strip() for cell in row[len(columns) :]):
            raise InputError(f"{name} line {line}: more cells than columns")
        written = dict(zip(columns, row, strict=False))
        cells = {column: _clean(written.get(column, "")) for column in COLUMNS}
        if any(cells.values()):
            yield line, cells


def _reader(text: str, separator: str) -> tuple[Any, list[str]]:
    """The csv reader of the rows after the first, and the names of the columns.

    Without a stated separator it is the one that makes `study` a column of its own.
    """
    for candidate in separator or _SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=candidate, strict=True)
        columns: list[str] = []
        with contextlib.suppress(csv.Error):  # quotes end before another separator
            columns = [_clean(cell).lower() for cell in next(reader, [])]
        if "study" in columns:
            break
    return reader, columns


def _clean(cell: str) -> str:
    return unicodedata.normalize("NFC", cell.strip())


def _label(cells: dict[str, str], folder: PurePosixPath, file: str, line: int) -> Label:
    def require(valid: bool, column: str, rule: str) -> None:
        if not valid:
            raise InputError(f"{file} line {line}, column {column}: {rule}")

    keep, hemorrhage = _bit(cells["keep"]), _bit(cells["hemorrhage"])
    location = cells["location"].lower()
    require(keep is not None, "keep", "must be 1, 0 or empty")
    require(hemorrhage is not None, "hemorrhage", "must be 1, 0 or empty")
    if hemorrhage == "1":
        rule = f"must be one of {', '.join(LOCATIONS)} where hemorrhage is 1"
        require(location in LOCATIONS, "location", rule)
    else:
        require(location == "", "location", "must be empty where hemorrhage is not 1")
    require(bool(cells["study"] or cells["slice"] or cells["subject"]), "study", "is empty")
    numbered = whole_number(cells["slice"]) is not None
    require(bool(cells["study"]) or not numbered, "study", "is needed with an instance number")
    level = "slice" if cells["slice"] else "study" if cells["study"] else "subject"
    values = {"keep": keep or "", "hemorrhage": hemorrhage or "", "location": location}
    return Label(folder=folder, file=file, line=line, level=level, **(cells | values))


def _bit(cell: str) -> str | None:
    """'1', '0' or '' as a cell means it; None for anything else."""
    number = whole_number(cell)
    if number in (0, 1):
        return str(number)
    return _YES_OR_NO.get(cell.lower()) if cell else ""
