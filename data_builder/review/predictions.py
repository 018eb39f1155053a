"""Reads a model's predictions.csv and orders the studies by its probabilities."""

import csv
import statistics
from pathlib import Path

from data_builder.errors import InputError
from data_builder.review.folder import Folder

ORDERS = ("likely", "unsure")
"""Most likely hemorrhages first, or those of which the model is least certain."""


def read_predictions(path: Path, folder: Folder) -> dict[str, float]:
    """Slice key -> probability of ICH, for slices of this folder.

    A slice with several predictions (from folds, for example) gets their mean. Raises InputError
    with line and column.
    """
    by_key: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for column in ("key", "p_hemorrhage"):
                if column not in (reader.fieldnames or ()):
                    raise InputError(
                        f"{path.name} line 1: the column {column} is missing: give a "
                        "predictions.csv that evaluation wrote"
                    )
            for row in reader:
                try:
                    probability = float(row["p_hemorrhage"])
                except (TypeError, ValueError):
                    probability = -1.0
                if not 0 <= probability <= 1:
                    raise InputError(
                        f"{path.name} line {reader.line_num}, column p_hemorrhage: must be a "
                        "number from 0 to 1"
                    )
                if row["key"] in folder.rows:
                    by_key.setdefault(row["key"], []).append(probability)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"the file {path.name!r} given with --predictions can't be read as CSV: "
            "give a predictions.csv that evaluation wrote"
        ) from error
    if not by_key:
        raise InputError(
            f"{path.name} has no slice of this folder: give the predictions on this folder, made "
            "with the same --key"
        )
    return {key: statistics.fmean(values) for key, values in by_key.items()}


def order_of(folder: Folder, probabilities: dict[str, float], by: str) -> list[str]:
    """Orders the studies by their most likely slice, or by the one nearest to 0.5.

    `by` is one of ORDERS. Studies without predictions come last.
    """

    def rank(study: str) -> float:
        values = [probabilities[key] for key in folder.studies[study] if key in probabilities]
        if not values:
            return 2.0
        return 1 - max(values) if by == "likely" else min(abs(p - 0.5) for p in values)

    return sorted(folder.studies, key=rank)
