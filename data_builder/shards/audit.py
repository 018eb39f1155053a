"""Audits a division: counts, leaks between sides, slices with two labels, confounds."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypedDict

from data_builder.records import CLASSES, FACTS, Record
from data_builder.shards.groups import by_subject, stratum
from data_builder.shards.growth import ASIDE
from data_builder.shards.near_duplicates import NEAR, NearDuplicates
from data_builder.shards.splits import SPLITS


class AuditSummary(TypedDict):
    """Counts of an audit, as metadata.json has them."""

    near_gray_levels: float
    subjects_on_two_sides: int
    identical_across_sides: int
    near_pairs_across_sides: int
    slices_under_two_labels: int
    identical_across_subjects: int
    near_pairs_across_subjects: int
    slices_with_too_little_tissue: int


class Leak(TypedDict):
    """How many test slices there are, and how many of them have a sibling in training."""

    test_slices: int
    with_sibling_in_training: int


class ClassCounts(TypedDict):
    """Slices and subjects of each class of CLASSES."""

    slices: dict[str, int]
    subjects: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Findings:
    """The result of an audit: keys of subjects and slices, and counts.

    Near pairs come with their distance in gray levels. A slice 'across' sides, or subjects, is
    there several times; `shared_identical` counts contents, `shared_near` pairs.
    """

    both_sides: list[str]
    identical_across: list[list[str]]
    near_across: list[tuple[str, str, float]]
    two_labels: list[list[str]]
    shared_identical: int
    shared_near: int
    too_empty: int

    @property
    def leaks(self) -> list[str]:
        """One message for each kind of leak; empty where the sides share nothing."""
        messages = []
        if self.both_sides:
            messages.append(
                f"{len(self.both_sides)} subject(s) are on more than one side: "
                + _some(self.both_sides)
            )
        if self.identical_across:
            messages.append(
                f"{len(self.identical_across)} slice(s) are on more than one side, "
                f"byte for byte: {_some([' = '.join(keys) for keys in self.identical_across])}"
            )
        if self.near_across:
            pairs = [f"{one} ~ {other} ({d:.1f})" for one, other, d in self.near_across]
            messages.append(
                f"{len(pairs)} pair(s) of near slices (within {NEAR:g} gray levels) are on two "
                f"sides: {_some(pairs)}"
            )
        return messages

    def summary(self) -> AuditSummary:
        """The counts, for a data set's metadata."""
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


def audit(
    records: Sequence[Record], side_of: Mapping[str, str], duplicates: NearDuplicates
) -> Findings:
    """Finds what `records` share across sides and labels; ignores slices that are set aside.

    Slices with too little tissue count for subjects, but are never copies.
    """
    sides_of = defaultdict(set)
    same = defaultdict(list)
    for record, comparable in zip(records, duplicates.comparable, strict=True):
        if side_of[record.key] == ASIDE:
            continue
        sides_of[record.subject].add(side_of[record.key])
        if comparable:
            same[record.digest].append(record)
    copies = [slices for _, slices in sorted(same.items()) if len(slices) > 1]
    near = [
        (records[i], records[j], float(distance))
        for (i, j), distance in zip(duplicates.pairs, duplicates.distances, strict=True)
        if records[i].digest != records[j].digest
        and ASIDE not in (side_of[records[i].key], side_of[records[j].key])
    ]
    return Findings(
        both_sides=sorted(subject for subject, sides in sides_of.items() if len(sides) > 1),
        identical_across=[
            [r.key for r in slices]
            for slices in copies
            if len({side_of[r.key] for r in slices}) > 1
        ],
        near_across=[
            (one.key, other.key, distance)
            for one, other, distance in near
            if side_of[one.key] != side_of[other.key]
        ],
        two_labels=[
            [r.key for r in slices] for slices in copies if len({r.stratum for r in slices}) > 1
        ]
        + [[one.key, other.key] for one, other, _ in near if one.stratum != other.stratum],
        shared_identical=sum(len({r.subject for r in slices}) > 1 for slices in copies),
        shared_near=len(near),
        too_empty=int((~duplicates.comparable).sum()),
    )


def leak(records: Sequence[Record], side_of: Mapping[str, str]) -> Leak:
    """Counts the test slices, and those with a sibling (a slice of their subject) in training."""
    trained = {r.subject for r in records if side_of[r.key] == "train"}
    test = [r for r in records if side_of[r.key] == "test"]
    return {
        "test_slices": len(test),
        "with_sibling_in_training": sum(r.subject in trained for r in test),
    }


def counts(records: Sequence[Record], side_of: Mapping[str, str]) -> dict[str, ClassCounts]:
    """Counts slices and subjects by class on each side. A subject is ICH if any slice of it is."""
    table: dict[str, ClassCounts] = {}
    for side in SPLITS:
        subset = [record for record in records if side_of[record.key] == side]
        slices = Counter(record.stratum for record in subset)
        subjects = Counter(stratum(group) for group in by_subject(subset).values())
        table[side] = {
            "slices": {name: slices[name] for name in CLASSES},
            "subjects": {name: subjects[name] for name in CLASSES},
        }
    return table


LabelCounts = dict[str, int]
"""'ICH' and 'normal' -> number of slices."""


def facts_by_label(records: Sequence[Record]) -> dict[str, dict[str, LabelCounts]]:
    """Column of FACTS -> value ('' where unknown) -> its ICH and normal slices.

    A column without any known value is left out.
    """
    table: dict[str, dict[str, LabelCounts]] = {}
    for name in FACTS:
        count: Counter = Counter()
        for record in records:
            count[dict(record.facts).get(name, ""), record.hemorrhage] += 1
        values = sorted({value for value, _ in count})
        if values != [""]:
            table[name] = {v: {"ICH": count[v, 1], "normal": count[v, 0]} for v in values}
    return table


def confounds(records: Sequence[Record]) -> list[str]:
    """One message for each fact (year, scanner, ...) that alone separates ICH and normal slices."""
    messages = []
    for name, values in sorted(facts_by_label(records).items()):
        labels = [{label for label, n in of.items() if n} for v, of in values.items() if v]
        classes = set().union(*labels)
        if len(classes) == 1:
            messages.append(f"'{name}' is known for {classes.pop()} slices only: a total confound")
        elif all(len(one) == 1 for one in labels):
            messages.append(f"no '{name}' is shared by ICH and normal slices: a total confound")
    return messages


def _some(items: list[str], most: int = 10) -> str:
    left = len(items) - most
    return ", ".join(items[:most]) + (f" and {left} more" if left > 0 else "")
