"""Divides slices into training, validation and test: by subject and content, or by slice.

The split by slice is the one of the paper; it leaks (`audit.leak`) and exists for comparison.
"""

import dataclasses
import functools
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from data_builder.errors import InputError
from data_builder.records import CLASSES, Record
from data_builder.shards.groups import Shown, by_subject, shown_contents, stratum, subject_groups
from data_builder.shards.growth import ASIDE, EarlierDivision, grow

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
VALIDATION_OF_THE_REST = 8
"""With folds, one of this many groups outside the test fold is for validation."""

_SHARES_OF_THE_REST = {
    "train": 1 - 1 / VALIDATION_OF_THE_REST,
    "validation": 1 / VALIDATION_OF_THE_REST,
}

_Strata = dict[str, list[list[str]]]
"""Class of CLASSES -> its groups of subjects, in random order."""


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """How to divide: by 'subject' or 'slice', into 80/10/10 (`folds` 0) or with `fold` as test."""

    by: str = "subject"
    folds: int = 0
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a value out of range."""
        if self.by not in ("subject", "slice"):
            raise InputError(f"split is {self.by!r}: give 'subject' or 'slice'")
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"folds is {self.folds}: give 0 (one 80/10/10 split) or at least 2")
        if not 0 <= self.fold < max(self.folds, 1):
            raise InputError(f"fold is {self.fold}: give one of 0 to {max(self.folds, 1) - 1}")

    @property
    def name(self) -> str:
        """The plan as a part of a data set's name."""
        fold = f"_fold{self.fold}of{self.folds}" if self.folds else ""
        return f"{self.by}_seed{self.seed}{fold}"


@dataclasses.dataclass(frozen=True)
class Division:
    """Slice key -> side of SPLITS, or ASIDE; slice key -> fold whose test has it (-1: no folds)."""

    side_of: dict[str, str]
    fold_of: dict[str, int]


def divide(
    records: Sequence[Record],
    plan: SplitPlan,
    shown: Shown | None = None,
    earlier: EarlierDivision | None = None,
) -> Division:
    """Assigns every slice to a side and, with folds, to the fold that tests it.

    By subject, subjects that share content (`shown`; None: equal digests) stay together and each
    class of CLASSES is divided in the same shares. The order depends on content digests and the
    seed alone, so two sites with the same data get the same sides. Subjects of an `earlier`
    division stay where they were; newcomers go as in `growth.grow`. By slice, as in the paper,
    slices of one subject get to several sides.

    Raises:
      InputError: one class only, or a class with fewer than three groups of subjects.
    """
    _check_classes(records)
    if plan.by == "slice":
        return _divide_slices(records, plan)
    if shown is None:
        shown = shown_contents(records)
    return _divide_subjects(records, plan, shown, earlier)


def _divide_slices(records: Sequence[Record], plan: SplitPlan) -> Division:
    ranked = sorted(records, key=lambda r: (_rank(plan.seed, r.digest), r.stratum, r.key))
    keys = [record.key for record in ranked]
    folds = _folds(len(ranked), plan.folds)
    sides = _sides(folds, plan)
    return Division(dict(zip(keys, sides, strict=True)), dict(zip(keys, folds, strict=True)))


def _divide_subjects(
    records: Sequence[Record], plan: SplitPlan, shown: Shown, earlier: EarlierDivision | None
) -> Division:
    slices = by_subject(records)
    strata = _random_strata(slices, shown, plan.seed)
    _check_strata(strata)
    order = [subject for groups in strata.values() for group in groups for subject in group]
    stratum_of = functools.partial(_stratum_of, slices)
    if earlier and plan.folds:
        even = dict.fromkeys(range(plan.folds), 1 / plan.folds)
        fold_of = grow(order, shown, earlier, earlier.fold_of, even, stratum_of)
        shown = {subject: contents for subject, contents in shown.items() if subject in fold_of}
        strata = _cut_by_fold(_random_strata(slices, shown, plan.seed), fold_of)
    else:
        fold_of = _deal_folds(strata, plan.folds)
    side_of = _deal_sides(strata, fold_of, plan)
    if earlier and earlier.side_of:
        # With folds the test side is the fold; the earlier sides decide on the rest alone.
        shares = _SHARES_OF_THE_REST if plan.folds else SHARES
        tested = {subject: side for subject, side in side_of.items() if side not in shares}
        rest = [subject for subject in order if side_of.get(subject) in shares]
        side_of = tested | grow(rest, shown, earlier, earlier.side_of, shares, stratum_of)
    return Division(
        {record.key: side_of.get(record.subject, ASIDE) for record in records},
        {
            record.key: fold_of[record.subject] if record.subject in side_of else -1
            for record in records
        },
    )


def _check_classes(records: Sequence[Record]) -> None:
    present = {record.hemorrhage for record in records}
    if present != {0, 1}:
        only = "ICH" if present == {1} else "normal"
        raise InputError(f"the source has {only} slices only: add slices of the other class")


def _check_strata(strata: _Strata) -> None:
    for name, groups in strata.items():
        if len(groups) < 3:
            raise InputError(
                f"class {name} has {len(groups)} subject(s), too few to split by subject: "
                "give at least 3, one for each side"
            )


def _random_strata(slices: Mapping[str, list[Record]], shown: Shown, seed: int) -> _Strata:
    """The groups of each class in the random order of `seed`; subjects within one by name."""
    members = defaultdict(list)
    for subject, group in subject_groups(shown).items():
        members[group].append(subject)
    ranked = defaultdict(list)
    for subjects in members.values():
        records = [record for subject in subjects for record in slices[subject]]
        digests = sorted(record.digest for record in records)
        ranked[stratum(records)].append((_rank(seed, digests[0]), digests, sorted(subjects)))
    return {name: [group for *_, group in sorted(ranked[name])] for name in CLASSES if ranked[name]}


def _stratum_of(slices: Mapping[str, list[Record]], subjects: Sequence[str]) -> str:
    return stratum(record for subject in subjects for record in slices[subject])


def _cut_by_fold(strata: _Strata, fold_of: Mapping[str, int]) -> _Strata:
    """Cuts up groups whose subjects an earlier division has put into several folds."""
    cut: _Strata = {name: [] for name in strata}
    for name, groups in strata.items():
        for group in groups:
            pieces = defaultdict(list)
            for subject in group:
                pieces[fold_of[subject]].append(subject)
            cut[name].extend(pieces.values())
    return cut


def _deal_folds(strata: _Strata, folds: int) -> dict[str, int]:
    """Subject -> fold, dealt to groups in turn; the turn goes on from one class to the next."""
    groups = [group for groups in strata.values() for group in groups]
    dealt = zip(groups, _folds(len(groups), folds), strict=True)
    return {subject: fold for group, fold in dealt for subject in group}


def _deal_sides(strata: _Strata, fold_of: Mapping[str, int], plan: SplitPlan) -> dict[str, str]:
    """Subject -> side, class by class."""
    side_of: dict[str, str] = {}
    for groups in strata.values():
        sides = _sides([fold_of[group[0]] for group in groups], plan)
        for group, side in zip(groups, sides, strict=True):
            side_of |= dict.fromkeys(group, side)
    return side_of


def _rank(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()


def _folds(n: int, folds: int) -> list[int]:
    """The folds of `n` units in random order; -1 without folds."""
    return [i % folds if folds else -1 for i in range(n)]


def _sides(folds: Sequence[int], plan: SplitPlan) -> list[str]:
    """The sides of units in random order, from the fold of each."""
    n = len(folds)
    if not plan.folds:
        train = int(SHARES["train"] * n)
        validation = max(int(SHARES["validation"] * n), 1)
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
