"""A data set that grows: who was placed before keeps the place, newcomers fill what lacks most."""

import csv
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from data_builder.errors import InputError
from data_builder.groups import Shown

ASIDE = "aside"
"""Instead of a side: the slices of a newcomer that would join two sides. They go nowhere."""

Place = str | int
"""A side, a fold, or ASIDE."""


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What an earlier division says, by content digest, so that pseudonyms do not matter.

    `side_of` is empty where it was made for another fold; `fold_of` where there are no folds.
    """

    side_of: Mapping[str, str]
    fold_of: Mapping[str, int]


def read_splits(path: Path) -> list[dict[str, str]]:
    """The rows of a splits.csv. Raises InputError where it is missing or none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} can't be read as CSV: build the data set again") from error
    if not rows or not {"key", "split"} <= rows[0].keys():
        raise InputError(f"{path} has no rows with the columns key and split: give another")
    return rows


def known_places(shown: Shown, place_of: Mapping[str, Any]) -> dict[str, set]:
    """Subject -> the places that an earlier division gave to slices of the same digest."""
    return {
        subject: {place_of[name] for name in names if name in place_of}
        for subject, names in shown.items()
    }


def place(
    order: Sequence[str],
    shown: Shown,
    known: Mapping[str, set],
    shares: Mapping[Any, float],
    stratum: Callable[[Sequence[str]], str],
) -> dict[str, Place]:
    """Subject -> place, for the subjects in `order`; `stratum` gives the class of some of them.

    A subject that is known in one place stays there. A newcomer that shares content with somebody
    goes to that place too, or is set ASIDE where that would be two places. The other newcomers, a
    group at a time, go where their class is furthest below its share.
    """
    placed: dict[str, Place] = {}
    sets = DisjointSet([*order, *{name for subject in order for name in shown[subject]}])
    place_of_set: dict[str, Place | None] = {}

    def join(subject: str, where: Place | None) -> None:
        for name in shown[subject]:
            sets.merge(subject, name)
        place_of_set[sets[subject]] = where

    for subject in order:
        if len(known[subject]) == 1:
            (placed[subject],) = known[subject]
            join(subject, placed[subject])
        elif known[subject]:
            placed[subject] = ASIDE
    newcomers = [subject for subject in order if subject not in placed]
    for subject in newcomers:
        met = {place_of_set.get(sets[name]) for name in shown[subject]} - {None}
        if len(met) > 1:
            placed[subject] = ASIDE
        else:
            join(subject, next(iter(met), None))
    open_groups = defaultdict(list)
    for subject in newcomers:
        if subject in placed:
            continue
        met_place = place_of_set[sets[subject]]
        if met_place is None:
            open_groups[sets[subject]].append(subject)
        else:
            placed[subject] = met_place
    counts: dict[str, Counter] = defaultdict(Counter)
    for subject, where in placed.items():
        if where != ASIDE:
            counts[stratum([subject])][where] += 1
    for group in open_groups.values():
        have = counts[stratum(group)]
        wanted = have.total() + 1
        best = max(shares, key=lambda where: shares[where] * wanted - have[where])
        placed.update(dict.fromkeys(group, best))
        have[best] += 1
    return placed
