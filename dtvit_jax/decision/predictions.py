"""The table of predictions and truths, one row per slice, and its file, predictions.csv.

`dtvit_jax.evaluate` reads a file of any other program too, if it has the columns `key`, `subject`
and `p_hemorrhage`.
"""

import csv
import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from data_builder.errors import InputError
from data_builder.files import draft_of
from data_builder.records import LOCATIONS

COLUMNS = (
    "key",
    "subject",
    "split",
    "hemorrhage",
    "location",
    "p_hemorrhage",
    *(f"p_{name}" for name in LOCATIONS),
    "study",
    "fold",
)
REQUIRED = ("key", "subject", "p_hemorrhage")
UNKNOWN = -1
"""The value of an integer column for an unknown truth or fold."""

_ROUNDING = 0.02  # three probabilities rounded to two decimals sum to 1 within this
_EXACT = 1e-6  # float32 ones within this: they are not rescaled


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A table with one row per slice (after `aggregation.by_subject`: per subject).

    Raises ValueError for columns of different lengths.

    Attributes:
      key, subject, study: pseudonyms; study may be empty.
      hemorrhage: 1 ICH, 0 normal, -1 unknown.
      location: index into LOCATIONS, -1 if normal or unknown.
      p_hemorrhage: in [0, 1].
      p_location: given ICH; rows sum to 1, or are nan where the system has no location task.
      split: side of the data set; may be empty.
      fold: -1 if there is none.
    """

    key: Shaped[np.ndarray, " n"]
    subject: Shaped[np.ndarray, " n"]
    hemorrhage: Int[np.ndarray, " n"]
    location: Int[np.ndarray, " n"]
    p_hemorrhage: Float[np.ndarray, " n"]
    p_location: Float[np.ndarray, "n 3"]
    split: Shaped[np.ndarray, " n"]
    study: Shaped[np.ndarray, " n"]
    fold: Int[np.ndarray, " n"]

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in dataclasses.fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.key)

    def select(self, rows: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> "Predictions":
        """Returns the rows of a mask, or those of an index array in its order."""
        columns = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)}
        return Predictions(**columns)


def write_csv(path: str | os.PathLike[str], predictions: Predictions) -> None:
    """Writes predictions.csv, whole or not at all.

    Probabilities have the fewest digits that give the same number back, in their own precision:
    a float32 is written with the digits of a float32.
    """
    with (
        draft_of(Path(path)) as draft,
        draft.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in range(len(predictions)):
            writer.writerow(_cells(predictions, row))


def _cells(table: Predictions, row: int) -> list[str]:
    def known(value: Any) -> str:
        return "" if value == UNKNOWN else str(value)

    def digits(value: Any) -> str:
        return "" if np.isnan(value) else np.format_float_positional(value, trim="-")

    location = int(table.location[row])
    return [
        str(table.key[row]),
        str(table.subject[row]),
        str(table.split[row]),
        known(table.hemorrhage[row]),
        "" if location == UNKNOWN else LOCATIONS[location],
        digits(table.p_hemorrhage[row]),
        *(digits(p) for p in table.p_location[row]),
        str(table.study[row]),
        known(table.fold[row]),
    ]


def read_csv(path: str | os.PathLike[str]) -> Predictions:
    """Reads the predictions.csv of this or another system.

    Columns may be in any order; further columns are ignored; those not in REQUIRED may be absent
    or empty. Raises InputError that names the line and the column of a bad value, but never the
    value: in another system's file it may be a person's name.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _parse(csv.reader(file, strict=True), path.name)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a .csv file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: not UTF-8 text; save it as a UTF-8 .csv file") from error
    except csv.Error as error:
        raise InputError(f"{path.name}: not a .csv file ({error}); save it as one") from error


class _Row(NamedTuple):
    """A checked line of predictions.csv; the fields are the columns of `Predictions`."""

    key: str
    subject: str
    hemorrhage: int
    location: int
    p_hemorrhage: float
    p_location: list[float]
    split: str
    study: str
    fold: int


def _parse(reader: Any, name: str) -> Predictions:
    """Parses a csv.reader; `name` is the file's, for messages."""
    header = [cell.strip() for cell in next(reader, [])]
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise InputError(
            f"{name}, line 1: no column {', '.join(missing)}; the columns are {', '.join(COLUMNS)}"
        )
    if len(set(header)) != len(header):
        raise InputError(f"{name}, line 1: a column occurs twice; keep one of them")
    positions = {column: header.index(column) for column in COLUMNS if column in header}
    rows: list[_Row] = []
    lines: dict[str, int] = {}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{name}, line {reader.line_num}"
        if len(cells) != len(header):
            raise InputError(
                f"{where}: {len(cells)} cells under {len(header)} columns; correct the line"
            )
        row = _row({column: cells[i].strip() for column, i in positions.items()}, where)
        if row.key in lines:
            raise InputError(
                f"{where}, column key: the key of line {lines[row.key]} again; give each slice once"
            )
        lines[row.key] = reader.line_num
        rows.append(row)
    if not rows:
        raise InputError(f"{name}: no slice in it; give a row for each slice")
    return Predictions(
        key=np.array([row.key for row in rows]),
        subject=np.array([row.subject for row in rows]),
        split=np.array([row.split for row in rows]),
        hemorrhage=np.array([row.hemorrhage for row in rows], np.int8),
        location=np.array([row.location for row in rows], np.int8),
        p_hemorrhage=np.array([row.p_hemorrhage for row in rows], np.float64),
        p_location=np.array([row.p_location for row in rows], np.float64),
        study=np.array([row.study for row in rows]),
        fold=np.array([row.fold for row in rows], np.int32),
    )


def _row(cells: dict[str, str], where: str) -> _Row:
    """Checks one line, given its cells by column; `where` names it in messages."""

    def bad(column: str, wanted: str) -> InputError:
        return InputError(f"{where}, column {column}: {wanted}")

    def probability(column: str) -> float:
        try:
            value = float(cells.get(column, ""))
        except ValueError:
            value = np.nan
        if not 0 <= value <= 1:  # false for nan
            raise bad(column, "must be a probability, a number from 0 to 1")
        return value

    for column in ("key", "subject"):
        if not cells[column]:
            raise bad(column, "is empty; give each slice a key and a subject")
    truth = cells.get("hemorrhage", "")
    if truth not in ("", "0", "1"):
        raise bad("hemorrhage", "must be 1 (ICH), 0 (normal) or empty (unknown)")
    location = cells.get("location", "")
    if location not in ("", *LOCATIONS):
        raise bad("location", f"must be {', '.join(LOCATIONS)} or empty")
    if location and truth != "1":
        raise bad("location", "must be empty where hemorrhage is not 1")
    names = [f"p_{name}" for name in LOCATIONS]
    p_location = [np.nan] * len(names)
    if any(cells.get(column, "") for column in names):
        p_location = [probability(column) for column in names]
        if abs(sum(p_location) - 1) > _ROUNDING:
            raise bad(names[0], f"{' + '.join(names)} must add up to 1")
        if abs(sum(p_location) - 1) > _EXACT:
            p_location = [p / sum(p_location) for p in p_location]
    fold = cells.get("fold", "")
    if fold and not (fold.isascii() and fold.isdigit()):
        raise bad("fold", "must be a whole number or empty")
    return _Row(
        key=cells["key"],
        subject=cells["subject"],
        hemorrhage=int(truth) if truth else UNKNOWN,
        location=LOCATIONS.index(location) if location else UNKNOWN,
        p_hemorrhage=probability("p_hemorrhage"),
        p_location=p_location,
        split=cells.get("split", ""),
        study=cells.get("study", ""),
        fold=int(fold) if fold else UNKNOWN,
    )
