"""Extends an earlier division: known subjects keep their subset, newcomers fill up each class.

A subset is a side of the split or a fold; both are assigned in the same three steps (`grow`).
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from scipy.cluster.hierarchy import DisjointSet

from data_builder.shards.groups import Shown

ASIDE = "aside"
"""Written instead of a side where a newcomer would join two sides: its slices are in no shard."""

Subset = TypeVar("Subset", str, int)


@dataclasses.dataclass(frozen=True)
class EarlierDivision:
    """Subject, side and fold of each content digest in the data sets that were built before.

    Digests identify slices, because the pseudonyms of two keys differ; the values of `owner_of` are
    pseudonyms of that time. `side_of` is empty where only other folds were built, `fold_of` where
    there are no folds.
    """

    owner_of: Mapping[str, str]
    side_of: Mapping[str, str]
    fold_of: Mapping[str, int]

    def same_subjects(self, shown: Shown) -> dict[str, set[str]]:
        """Subject -> the earlier subjects that it is: it has more of their slices than others."""
        shared: dict[str, Counter] = defaultdict(Counter)
        for subject, contents in shown.items():
            for name in contents & self.owner_of.keys():
                shared[self.owner_of[name]][subject] += 1
        same: dict[str, set[str]] = {subject: set() for subject in shown}
        for owner, slices in shared.items():
            most = max(slices.values())
            for subject, count in slices.items():
                if count == most:
                    same[subject].add(owner)
        return same


class _Clusters(Generic[Subset]):
    """Subjects joined by content that they share; a cluster belongs to one subset, or none yet."""

    def __init__(
        self, subjects: Sequence[str], shown: Shown, subset_of: Mapping[str, Subset]
    ) -> None:
        self._shown = shown
        self._sets = DisjointSet([*subjects, *{name for s in subjects for name in shown[s]}])
        self._subset_of_root: dict[str, Subset | None] = {
            name: subset_of[name] for name in self._sets if name in subset_of
        }

    def root(self, name: str) -> str:
        """The name that stands for the whole cluster of a subject or content."""
        return self._sets[name]

    def subset(self, name: str) -> Subset | None:
        """The subset of the cluster of a subject or content."""
        return self._subset_of_root.get(self.root(name))

    def subsets_of_contents(self, subject: str) -> set[Subset]:
        """The subsets that the contents of `subject` belong to."""
        subsets = (self.subset(name) for name in self._shown[subject])
        return {subset for subset in subsets if subset is not None}

    def join(self, subject: str, subset: Subset | None) -> None:
        """Joins `subject` with its contents, those of other subsets excepted, in `subset`."""
        for name in self._shown[subject]:
            if self.subset(name) in (None, subset):
                self._sets.merge(subject, name)
        self._subset_of_root[self.root(subject)] = subset


def grow(
    subjects: Sequence[str],
    shown: Shown,
    earlier: EarlierDivision,
    subset_of: Mapping[str, Subset],
    shares: Mapping[Subset, float],
    stratum: Callable[[Sequence[str]], str],
) -> dict[str, Subset]:
    """Assigns `subjects` to the subsets of `shares`; a subject missing from the result is aside.

    `subset_of` is `side_of` or `fold_of` of `earlier`; `shares` add up to 1; `stratum` gives the
    class of a group of subjects. Three steps: subjects of the earlier division keep their subset;
    newcomers that share content with a subset join it; the other newcomers go, group by group, to
    the subset that is furthest below its share of their class. A subject is set aside where its
    slices, or the content that it shares, belong to two subsets.
    """
    earlier_subsets = _earlier_subsets(shown, earlier, subset_of)
    clusters = _Clusters(subjects, shown, subset_of)
    assigned = _keep_known(subjects, earlier_subsets, clusters)
    newcomers = [subject for subject in subjects if not earlier_subsets[subject]]
    linked, unlinked_groups = _follow_contents(newcomers, clusters)
    assigned |= linked
    return assigned | _fill_shares(unlinked_groups, assigned, shares, stratum)


def _earlier_subsets(
    shown: Shown, earlier: EarlierDivision, subset_of: Mapping[str, Subset]
) -> dict[str, set[Subset]]:
    """Subject -> the subsets of the earlier subjects that it is; empty for a newcomer."""
    subsets_of_owner: dict[str, set[Subset]] = defaultdict(set)
    for digest, subset in subset_of.items():
        subsets_of_owner[earlier.owner_of[digest]].add(subset)
    return {
        subject: {subset for owner in owners for subset in subsets_of_owner[owner]}
        for subject, owners in earlier.same_subjects(shown).items()
    }


def _keep_known(
    subjects: Sequence[str],
    earlier_subsets: Mapping[str, set[Subset]],
    clusters: _Clusters[Subset],
) -> dict[str, Subset]:
    """Step 1: subjects of one earlier subset stay in it."""
    assigned = {}
    for subject in subjects:
        if len(earlier_subsets[subject]) == 1:
            (assigned[subject],) = earlier_subsets[subject]
            clusters.join(subject, assigned[subject])
    return assigned


def _follow_contents(
    newcomers: Sequence[str], clusters: _Clusters[Subset]
) -> tuple[dict[str, Subset], list[list[str]]]:
    """Step 2: newcomers join the subset of their contents; also returns groups without a subset.

    A newcomer with contents of two subsets is in neither result.
    """
    joined = []
    for subject in newcomers:
        subsets = clusters.subsets_of_contents(subject)
        if len(subsets) < 2:
            clusters.join(subject, next(iter(subsets), None))
            joined.append(subject)
    assigned: dict[str, Subset] = {}
    groups: dict[str, list[str]] = defaultdict(list)
    for subject in joined:  # after all joins: a later newcomer may link an earlier one to a subset
        subset = clusters.subset(subject)
        if subset is None:
            groups[clusters.root(subject)].append(subject)
        else:
            assigned[subject] = subset
    return assigned, list(groups.values())


def _fill_shares(
    groups: Sequence[Sequence[str]],
    assigned: Mapping[str, Subset],
    shares: Mapping[Subset, float],
    stratum: Callable[[Sequence[str]], str],
) -> dict[str, Subset]:
    """Step 3: each group goes where its class is furthest below its share."""
    counts: dict[str, Counter[Subset]] = defaultdict(Counter)
    for subject, subset in assigned.items():
        counts[stratum([subject])][subset] += 1
    filled: dict[str, Subset] = {}
    for group in groups:
        count = counts[stratum(group)]
        total = count.total() + 1
        lacking = {subset: share * total - count[subset] for subset, share in shares.items()}
        neediest = max(lacking, key=lacking.__getitem__)
        filled |= dict.fromkeys(group, neediest)
        count[neediest] += 1
    return filled
