"""Training, validation and test sides: by subject, by content, seeded; by slice only when asked."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from data_builder.errors import InputError
from data_builder.records import CLASSES, Record
from data_builder.shards.groups import Shown, by_subject, shown_contents, stratum, subject_groups
from data_builder.shards.growth import ASIDE, Earlier, place

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
VALIDATION_OF_THE_REST = 8
"""With folds, one group in this many of those that are not in the test fold validates."""

_SHARES_OF_THE_REST = {
    "train": 1 - 1 / VALIDATION_OF_THE_REST,
    "validation": 1 / VALIDATION_OF_THE_REST,
}


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """How to divide: `by` 'subject' or 'slice'; `folds` 0 gives 80/10/10, else `fold` tests."""

    by: str = "subject"
    folds: int = 0
    fold: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.by not in ("subject", "slice"):
            raise InputError(f"split is {self.by!r}: give 'subject' or 'slice'")
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"folds is {self.folds}: give 0 (one 80/10/10 split) or 2 and more")
        if not 0 <= self.fold < max(self.folds, 1):
            raise InputError(f"fold {self.fold} is not one of 0 to {max(self.folds, 1) - 1}")

    @property
    def name(self) -> str:
        """The plan as a part of a data set's name."""
        fold = f"_fold{self.fold}of{self.folds}" if self.folds else ""
        return f"{self.by}_seed{self.seed}{fold}"


@dataclasses.dataclass(frozen=True)
class Division:
    """Slice key -> side of SPLITS, or ASIDE; slice key -> fold that tests it (-1: no folds)."""

    side_of: dict[str, str]
    fold_of: dict[str, int]


def divide(
    records: Sequence[Record],
    plan: SplitPlan,
    shown: Shown | None = None,
    earlier: Earlier | None = None,
) -> Division:
    """Where every slice goes.

    By subject, subjects that share a slice's content (`shown`; None: by digest) stay together, and
    every class of CLASSES is divided alike; the order comes from content digests and the seed
    alone, so that two sites with the same data get the same sides. Subjects that an `earlier`
    division knows keep their place; `earlier.place` tells what newcomers get. By slice, as the
    paper did, siblings end on both sides.

    Raises:
      InputError: one class only, or a class with fewer than three subjects.
    """
    _check_classes(records)
    if plan.by == "slice":
        ranked = sorted(records, key=lambda r: (_rank(plan.seed, r.digest), r.stratum, r.key))
        folds = _folds(len(ranked), plan.folds, offset=0)
        sides = _sides(folds, plan)
        keys = [record.key for record in ranked]
        return Division(dict(zip(keys, sides, strict=True)), dict(zip(keys, folds, strict=True)))
    links = shown_contents(records) if shown is None else shown
    slices = by_subject(records)
    strata = _strata(slices, links, plan.seed)
    for name, groups in strata.items():
        if len(groups) < 3:
            raise InputError(
                f"class {name} has {len(groups)} subject(s), too few to split by subject: "
                "it needs at least 3, one for each side"
            )

    def grow(known: Earlier, places: Mapping, shares: dict, among: Sequence[str]) -> dict:
        def class_of(subjects: Sequence[str]) -> str:
            return stratum(record for subject in subjects for record in slices[subject])

        return place(among, links, known, places, shares, class_of)

    order = [subject for groups in strata.values() for group in groups for subject in group]
    side_of: dict[str, str] = {}
    fold_of: dict[str, int] = dict.fromkeys(order, -1)
    if earlier and plan.folds:
        even = dict.fromkeys(range(plan.folds), 1 / plan.folds)
        fold_of = grow(earlier, earlier.fold_of, even, order)
        left_out = {subject for subject, fold in fold_of.items() if fold == ASIDE}
        side_of = dict.fromkeys(left_out, ASIDE)
        links = {subject: names for subject, names in links.items() if subject not in left_out}
        strata = _parted(_strata(slices, links, plan.seed), fold_of)
    offset = 0
    for groups in strata.values():
        if not (earlier and plan.folds):
            folds = _folds(len(groups), plan.folds, offset)
            fold_of.update(_each(groups, folds))
            offset += len(groups)
        side_of.update(_each(groups, _sides([fold_of[group[0]] for group in groups], plan)))
    if earlier and earlier.side_of:
        if plan.folds:
            rest = [subject for subject in order if side_of[subject] in _SHARES_OF_THE_REST]
            side_of |= grow(earlier, earlier.side_of, _SHARES_OF_THE_REST, rest)
        else:
            side_of = grow(earlier, earlier.side_of, SHARES, order)
    return Division(
        {record.key: side_of[record.subject] for record in records},
        {
            record.key: -1 if side_of[record.subject] == ASIDE else fold_of[record.subject]
            for record in records
        },
    )


def leak(records: Sequence[Record], side_of: dict[str, str]) -> dict[str, int]:
    """How many test slices there are, and how many have a sibling (same subject) in training."""
    trained = {r.subject for r in records if side_of[r.key] == "train"}
    test = [r for r in records if side_of[r.key] == "test"]
    return {
        "test_slices": len(test),
        "with_sibling_in_training": sum(r.subject in trained for r in test),
    }


def counts(records: Sequence[Record], side_of: dict[str, str]) -> dict[str, dict]:
    """Slices and subjects of each class on each side. A subject is ICH if any of its slices is."""
    table = {}
    for side in SPLITS:
        here = [record for record in records if side_of[record.key] == side]
        slices = Counter(record.stratum for record in here)
        subjects = Counter(stratum(group) for group in by_subject(here).values())
        table[side] = {
            "slices": {name: slices[name] for name in CLASSES},
            "subjects": {name: subjects[name] for name in CLASSES},
        }
    return table


def _check_classes(records: Sequence[Record]) -> None:
    present = {record.hemorrhage for record in records}
    if present != {0, 1}:
        only = "ICH" if present == {1} else "normal"
        raise InputError(f"the source holds {only} slices only: training needs both classes")


def _strata(
    slices: Mapping[str, list[Record]], shown: Shown, seed: int
) -> dict[str, list[list[str]]]:
    """Class -> its groups, each a list of subjects, in the seed's random order."""
    members = defaultdict(list)
    for subject, group in subject_groups(shown).items():
        members[group].append(subject)
    ranked = defaultdict(list)
    for subjects in members.values():
        records = [record for subject in subjects for record in slices[subject]]
        digests = sorted(record.digest for record in records)
        ranked[stratum(records)].append((_rank(seed, digests[0]), digests, sorted(subjects)))
    return {name: [group for *_, group in sorted(ranked[name])] for name in CLASSES if ranked[name]}


def _parted(strata: dict[str, list[list[str]]], fold_of: dict) -> dict[str, list[list[str]]]:
    """The same with a group cut up where earlier divisions had put its subjects into two folds."""
    parted: dict[str, list[list[str]]] = {name: [] for name in strata}
    for name, groups in strata.items():
        for group in groups:
            parts = defaultdict(list)
            for subject in group:
                parts[fold_of[subject]].append(subject)
            parted[name].extend(parts.values())
    return parted


def _each(groups: list[list[str]], values: list) -> dict:
    return {
        subject: value for group, value in zip(groups, values, strict=True) for subject in group
    }


def _rank(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def _folds(n: int, folds: int, offset: int) -> list[int]:
    """Folds of `n` groups already in random order; `offset` evens them out over classes."""
    return [(i + offset) % folds if folds else -1 for i in range(n)]


def _sides(folds: list[int], plan: SplitPlan) -> list[str]:
    """Sides of groups already in random order, from the fold of each."""
    n = len(folds)
    if not plan.folds:
        train = int(0.8 * n)
        validation = max(int(0.1 * n), 1)
        train = min(train, n - validation - 1)
        return ["train"] * train + ["validation"] * validation + ["test"] * (n - train - validation)
    sides = []
    rest = 0
    for fold in folds:
        if fold == plan.fold:
            sides.append("test")
        else:
            sides.append("validation" if rest % VALIDATION_OF_THE_REST == 0 else "train")
            rest += 1
    return sides
