"""A data set that grows: who was placed before keeps the place, newcomers fill what lacks most."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from data_builder.shards.groups import Shown

ASIDE = "aside"
"""Instead of a side: the slices of a newcomer that would join two sides. They go nowhere."""

Place = str | int
"""A side, a fold, or ASIDE."""


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What an earlier division says, by content digest, so that pseudonyms do not matter.

    `owner_of` names subjects as they were called then. `side_of` is empty where the division was
    made for another fold; `fold_of` where there are no folds.
    """

    owner_of: Mapping[str, str]
    side_of: Mapping[str, str]
    fold_of: Mapping[str, int]

    def still_here(self, shown: Shown) -> dict[str, set[str]]:
        """Subject -> whom of the earlier subjects it is: those of whose slices it has the most."""
        held: dict[str, Counter] = defaultdict(Counter)
        for subject, names in shown.items():
            for name in names & self.owner_of.keys():
                held[self.owner_of[name]][subject] += 1
        same: dict[str, set[str]] = {subject: set() for subject in shown}
        for owner, found in held.items():
            most = max(found.values())
            for subject, n in found.items():
                if n == most:
                    same[subject].add(owner)
        return same


def place(
    order: Sequence[str],
    shown: Shown,
    earlier: Earlier,
    place_of: Mapping[str, Any],
    shares: Mapping[Any, float],
    stratum: Callable[[Sequence[str]], str],
) -> dict[str, Place]:
    """Subject -> place, for the subjects in `order`; `stratum` gives the class of some of them.

    `place_of` is one of `earlier`'s two tables. A subject who was there stays. A newcomer that
    shares content with somebody goes to that place too, or is set ASIDE where that would be two
    places. The other newcomers, a group at a time, go where their class is furthest below its
    share.
    """
    placed: dict[str, Place] = {}
    sets = DisjointSet([*order, *{name for subject in order for name in shown[subject]}])
    place_of_set: dict[str, Place | None] = {
        name: place_of[name] for name in sets if name in place_of
    }

    def join(subject: str, where: Place | None) -> None:
        for name in shown[subject]:
            if place_of_set.get(sets[name]) in (None, where):
                sets.merge(subject, name)
        place_of_set[sets[subject]] = where

    were_at = defaultdict(set)
    for name, where in place_of.items():
        were_at[earlier.owner_of[name]].add(where)
    same = earlier.still_here(shown)
    for subject in order:
        known = {where for owner in same[subject] for where in were_at[owner]}
        if len(known) == 1:
            (placed[subject],) = known
            join(subject, placed[subject])
        elif known:
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
