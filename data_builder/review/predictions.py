"""A trained model's probabilities, as an order of work: a `predictions.csv` of evaluation."""

import csv
import statistics
from pathlib import Path

from data_builder.errors import InputError
from data_builder.review.folder import Folder

ORDERS = ("likely", "unsure")
"""Likely hemorrhages first, or those first of which the model is least sure."""


def read_predictions(path: Path, folder: Folder) -> dict[str, float]:
    """Slice key -> the probability of a hemorrhage, for the slices of this folder.

    A slice predicted several times (in folds, say) gets the mean. Raises InputError with the line.
    """
    found: dict[str, list[float]] = {}
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
                    found.setdefault(row["key"], []).append(probability)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"the file {path.name!r} given with --predictions can't be read as CSV"
        ) from error
    if not found:
        raise InputError(
            f"{path.name} speaks of no slice of this folder: its keys are of another one, or were "
            "made under another --key"
        )
    return {key: statistics.fmean(each) for key, each in found.items()}


def order_of(folder: Folder, probabilities: dict[str, float], by: str) -> list[str]:
    """The studies by their likeliest slice (or the one nearest to 0.5); unknown ones last."""

    def rank(study: str) -> float:
        known = [probabilities[key] for key in folder.studies[study] if key in probabilities]
        if not known:
            return 2.0
        return 1 - max(known) if by == "likely" else min(abs(p - 0.5) for p in known)

    return sorted(folder.studies, key=rank)
