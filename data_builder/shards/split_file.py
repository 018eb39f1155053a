"""Writes and reads splits.csv, which lists the side of every slice of a data set."""

import csv
from collections.abc import Sequence
from pathlib import Path

from data_builder.errors import InputError
from data_builder.records import FACTS, Record
from data_builder.shards.splits import Division


def write_splits(
    path: Path, records: Sequence[Record], division: Division, comparable: Sequence[bool]
) -> None:
    """Writes splits.csv: key, subject, side, FACTS, fold and content digest of every slice.

    The digest is empty where the slice shows too little tissue to identify it (not `comparable`).
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("key", "subject", "split", *FACTS, "fold", "digest"))
        for record, identifies in zip(records, comparable, strict=True):
            facts = dict(record.facts)
            fold = division.fold_of[record.key]
            rows.writerow(
                (
                    record.key,
                    record.subject,
                    division.side_of[record.key],
                    *(facts.get(name, "") for name in FACTS),
                    "" if fold < 0 else fold,
                    record.digest if identifies else "",
                )
            )


def read_splits(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a splits.csv.

    Raises InputError for an unreadable file, no rows, or a missing column key or split.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} can't be read as CSV: build the data set again") from error
    if not rows or not {"key", "split"} <= rows[0].keys():
        raise InputError(f"{path} has no rows with the columns key and split: give another file")
    return rows
