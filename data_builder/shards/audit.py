"""Leaks between the sides of a split, slices under two labels, and what tells the classes apart."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from data_builder.records import FACTS, Record
from data_builder.shards.growth import ASIDE
from data_builder.shards.near_duplicates import NEAR, Likeness


@dataclasses.dataclass(frozen=True)
class Findings:
    """Keys of what an audit found; `near` pairs come with their distance in gray levels."""

    both_sides: list[str]
    identical_across: list[list[str]]
    near_across: list[tuple[str, str, float]]
    two_labels: list[list[str]]
    shared_identical: int
    shared_near: int
    too_empty: int

    @property
    def leaks(self) -> list[str]:
        """Sentences, one a kind of leak; none where the sides have nothing in common."""
        found = []
        if self.both_sides:
            found.append(
                f"{len(self.both_sides)} subject(s) stand on more than one side: "
                + _some(self.both_sides)
            )
        if self.identical_across:
            found.append(
                f"{len(self.identical_across)} slice(s) stand on more than one side, "
                f"byte for byte: {_some([' = '.join(keys) for keys in self.identical_across])}"
            )
        if self.near_across:
            told = [f"{one} ~ {other} ({d:.1f})" for one, other, d in self.near_across]
            found.append(
                f"{len(told)} pair(s) of near slices (within {NEAR:g} gray levels) stand on two "
                f"sides: {_some(told)}"
            )
        return found

    def summary(self) -> dict:
        """Counts, for a data set's metadata."""
        return {
            "near_gray_levels": NEAR,
            "subjects_on_two_sides": len(self.both_sides),
            "identical_across_sides": len(self.identical_across),
            "near_pairs_across_sides": len(self.near_across),
            "slices_under_two_labels": len(self.two_labels),
            "identical_across_subjects": self.shared_identical,
            "near_pairs_across_subjects": self.shared_near,
            "slices_with_too_little_tissue": self.too_empty,
        }


def audit(records: Sequence[Record], side_of: Mapping[str, str], alike: Likeness) -> Findings:
    """What `records` share across sides and labels, slices that are set aside left out.

    Slices with too little tissue count for subjects, not as copies.
    """
    sides = defaultdict(set)
    same = defaultdict(list)
    for record, counts in zip(records, alike.counts, strict=True):
        if side_of[record.key] == ASIDE:
            continue
        sides[record.subject].add(side_of[record.key])
        if counts:
            same[record.digest].append(record)
    copies = [found for _, found in sorted(same.items()) if len(found) > 1]
    near = [
        (records[i], records[j], float(distance))
        for (i, j), distance in zip(alike.pairs, alike.distances, strict=True)
        if records[i].digest != records[j].digest
        and ASIDE not in (side_of[records[i].key], side_of[records[j].key])
    ]
    return Findings(
        both_sides=sorted(subject for subject, found in sides.items() if len(found) > 1),
        identical_across=[
            [r.key for r in found] for found in copies if len({side_of[r.key] for r in found}) > 1
        ],
        near_across=[
            (one.key, other.key, distance)
            for one, other, distance in near
            if side_of[one.key] != side_of[other.key]
        ],
        two_labels=[
            [r.key for r in found] for found in copies if len({r.stratum for r in found}) > 1
        ]
        + [[one.key, other.key] for one, other, _ in near if one.stratum != other.stratum],
        shared_identical=sum(len({r.subject for r in found}) > 1 for found in copies),
        shared_near=len(near),
        too_empty=int((~alike.counts).sum()),
    )


def facts_by_label(records: Sequence[Record]) -> dict[str, dict[str, dict[str, int]]]:
    """Column of FACTS -> value ('' where unknown) -> slices that are ICH, and that are not."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for name in FACTS:
        found: Counter = Counter()
        for record in records:
            found[dict(record.facts).get(name, ""), record.hemorrhage] += 1
        values = sorted({value for value, _ in found})
        if values != [""]:
            table[name] = {v: {"ICH": found[v, 1], "normal": found[v, 0]} for v in values}
    return table


def confounds(records: Sequence[Record]) -> list[str]:
    """Facts (year, scanner, ...) that alone tell ICH from normal slices, in words."""
    found = []
    for name, values in sorted(facts_by_label(records).items()):
        known = [{label for label, n in of.items() if n} for v, of in values.items() if v]
        classes = set().union(*known)
        if len(classes) == 1:
            found.append(f"'{name}' is known for {classes.pop()} slices only: a total confound")
        elif all(len(labels) == 1 for labels in known):
            found.append(f"no '{name}' is shared by ICH and normal slices: a total confound")
    return found


def _some(words: list[str], most: int = 10) -> str:
    left = len(words) - most
    return ", ".join(words[:most]) + (f" and {left} more" if left > 0 else "")
