"""What a model said of every slice, beside the truth: the table and its file, predictions.csv.

The file is the meeting point of systems: `dtvit_jax.evaluate` reads one made by any other program,
as long as it has the columns `key`, `subject` and `p_hemorrhage`.
"""

import csv
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from data_builder.errors import InputError
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
"""Stands in an integer column for a truth or a fold that is not known."""

_ROUNDING = 0.02  # three probabilities rounded to two decimals still add up to 1 within it
_EXACT = 1e-6  # and float32 ones within this: they are left as they are


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A table with one row a slice (after `aggregation.by_subject`: a subject).

    hemorrhage: 1 ICH, 0 normal, -1 unknown. location: index into LOCATIONS, -1 if normal or
    unknown. p_hemorrhage: in [0, 1]. p_location: given ICH, rows sum to 1, or all nan where the
    system has no location task. fold: -1 if there is none. Raises ValueError for columns of
    different lengths.
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
        """The rows of a mask, or those of an index in its order."""
        columns = {f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)}
        return Predictions(**columns)


def write_csv(path: str | os.PathLike[str], predictions: Predictions) -> None:
    """Writes predictions.csv whole or not at all; probabilities in the fewest digits that return.

    A number of type float32 is written with float32's digits, so no digits are made up.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in range(len(predictions)):
            writer.writerow(_cells(predictions, row))
    partial.replace(path)


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
    """Reads predictions.csv, of this or another system.

    Columns may be in any order; further columns are passed over; those not in REQUIRED may be
    absent or empty. Raises InputError that names the line and the column of a bad value, but never
    the value: in another system's file it may be a person's name.
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


def _parse(reader: Any, name: str) -> Predictions:
    header = [cell.strip() for cell in next(reader, [])]
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise InputError(
            f"{name}, line 1: no column {', '.join(missing)}; the columns are {', '.join(COLUMNS)}"
        )
    if len(set(header)) != len(header):
        raise InputError(f"{name}, line 1: a column stands there twice; keep one of them")
    places = {column: header.index(column) for column in COLUMNS if column in header}
    rows: list[tuple[Any, ...]] = []
    lines: dict[str, int] = {}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{name}, line {reader.line_num}"
        if len(cells) != len(header):
            raise InputError(f"{where}: {len(cells)} cells under {len(header)} columns; mend it")
        row = _row({column: cells[place].strip() for column, place in places.items()}, where)
        if row[0] in lines:
            raise InputError(
                f"{where}, column key: the slice of line {lines[row[0]]} again; give a slice once"
            )
        lines[row[0]] = reader.line_num
        rows.append(row)
    if not rows:
        raise InputError(f"{name}: no slice in it; give a row for each slice")
    columns = list(zip(*rows, strict=True))
    return Predictions(
        key=np.array(columns[0]),
        subject=np.array(columns[1]),
        split=np.array(columns[2]),
        hemorrhage=np.array(columns[3], np.int8),
        location=np.array(columns[4], np.int8),
        p_hemorrhage=np.array(columns[5], np.float64),
        p_location=np.array(columns[6], np.float64).reshape(-1, len(LOCATIONS)),
        study=np.array(columns[7]),
        fold=np.array(columns[8], np.int32),
    )


def _row(cells: dict[str, str], where: str) -> tuple[Any, ...]:
    """One checked row, in the order of COLUMNS with the location probabilities as one entry."""

    def bad(column: str, wanted: str) -> InputError:
        return InputError(f"{where}, column {column}: {wanted}")

    def number(column: str) -> float:
        try:
            value = float(cells.get(column, ""))
        except ValueError:
            value = np.nan
        if not 0 <= value <= 1:  # nan is not
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
        p_location = [number(column) for column in names]
        if abs(sum(p_location) - 1) > _ROUNDING:
            raise bad(names[0], f"{' + '.join(names)} must add up to 1")
        if abs(sum(p_location) - 1) > _EXACT:
            p_location = [p / sum(p_location) for p in p_location]
    fold = cells.get("fold", "")
    if fold and not (fold.isascii() and fold.isdigit()):
        raise bad("fold", "must be a whole number or empty")
    return (
        cells["key"],
        cells["subject"],
        cells.get("split", ""),
        int(truth) if truth else UNKNOWN,
        LOCATIONS.index(location) if location else UNKNOWN,
        number("p_hemorrhage"),
        p_location,
        cells.get("study", ""),
        int(fold) if fold else UNKNOWN,
    )
