"""Training, validation and test sides: by subject, by content, seeded; by slice only when asked."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from data_builder.errors import InputError
from data_builder.records import CLASSES, LOCATIONS, Record

SPLITS = ("train", "validation", "test")
VALIDATION_OF_THE_REST = 8
"""With folds, one group in this many of those that are not in the test fold validates."""


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


def divide(records: Sequence[Record], plan: SplitPlan) -> dict[str, str]:
    """Slice key -> 'train', 'validation' or 'test'.

    By subject, subjects that share a slice's content stay together, and every class of CLASSES is
    divided alike; the order comes from content digests and the seed alone, so that two sites with
    the same data get the same sides. By slice, as the paper did, siblings end on both sides.

    Raises:
      InputError: one class only, or a class with fewer than three subjects.
    """
    _check_classes(records)
    if plan.by == "slice":
        keys = [r.key for r in sorted(records, key=lambda r: (_rank(plan.seed, r.digest), r.key))]
        sides = _sides(len(keys), plan, offset=0)
        return dict(zip(keys, sides, strict=True))
    group_of = content_groups(records)
    members = defaultdict(list)
    for record in records:
        members[group_of[record.subject]].append(record)
    strata = defaultdict(list)
    for group, slices in members.items():
        strata[_stratum(slices)].append((_rank(plan.seed, min(r.digest for r in slices)), group))
    side_of: dict[str, str] = {}
    offset = 0
    for name in CLASSES:
        groups = [group for _, group in sorted(strata[name])]
        if 0 < len(groups) < 3:
            raise InputError(
                f"class {name} has {len(groups)} subject(s), too few to split by subject: "
                "it needs at least 3, one for each side"
            )
        side_of.update(zip(groups, _sides(len(groups), plan, offset), strict=True))
        offset += len(groups)
    return {record.key: side_of[group_of[record.subject]] for record in records}


def content_groups(records: Sequence[Record]) -> dict[str, str]:
    """Subject -> a name for all the subjects that it shares a slice's content with."""
    parent = {record.subject: record.subject for record in records}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            parent[subject] = parent[parent[subject]]
            subject = parent[subject]
        return subject

    first_with: dict[str, str] = {}
    for record in records:
        one, other = (
            root(record.subject),
            root(first_with.setdefault(record.digest, record.subject)),
        )
        parent[max(one, other)] = min(one, other)
    return {subject: root(subject) for subject in parent}


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
        by_subject = defaultdict(list)
        for record in here:
            by_subject[record.subject].append(record)
        slices = Counter(record.stratum for record in here)
        subjects = Counter(_stratum(group) for group in by_subject.values())
        table[side] = {
            "slices": {name: slices[name] for name in CLASSES},
            "subjects": {name: subjects[name] for name in CLASSES},
        }
    return table


def confounds(records: Sequence[Record]) -> list[str]:
    """Facts (year, scanner, ...) that alone tell ICH from normal slices, in words."""
    values: dict[str, dict[int, set[str]]] = defaultdict(lambda: {0: set(), 1: set()})
    for record in records:
        for name, value in record.facts:
            values[name][record.hemorrhage].add(value)
    found = []
    for name, sides in sorted(values.items()):
        if not sides[0] or not sides[1]:
            known = "ICH" if sides[1] else "normal"
            found.append(f"'{name}' is known for {known} slices only: a total confound")
        elif not sides[0] & sides[1]:
            found.append(f"no '{name}' is shared by ICH and normal slices: a total confound")
    return found


def _check_classes(records: Sequence[Record]) -> None:
    present = {record.hemorrhage for record in records}
    if present != {0, 1}:
        only = "ICH" if present == {1} else "normal"
        raise InputError(f"the source holds {only} slices only: training needs both classes")


def _stratum(slices: Sequence[Record]) -> str:
    """A subject's (or group's) class: ICH if any slice is; the location of most ICH slices."""
    places = Counter(record.location for record in slices if record.hemorrhage)
    if not places:
        return "normal"
    return max(LOCATIONS, key=lambda name: (places[name], LOCATIONS.index(name)))


def _rank(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def _sides(n: int, plan: SplitPlan, offset: int) -> list[str]:
    """Sides of `n` groups already in random order; `offset` evens out the folds over classes."""
    if not n:
        return []
    if not plan.folds:
        train = int(0.8 * n)
        validation = max(int(0.1 * n), 1)
        train = min(train, n - validation - 1)
        return ["train"] * train + ["validation"] * validation + ["test"] * (n - train - validation)
    sides = []
    rest = 0
    for i in range(n):
        if (i + offset) % plan.folds == plan.fold:
            sides.append("test")
        else:
            sides.append("validation" if rest % VALIDATION_OF_THE_REST == 0 else "train")
            rest += 1
    return sides
