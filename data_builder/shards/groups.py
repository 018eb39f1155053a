"""Subjects that show the same slice are one group: a split must not part them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from scipy.cluster.hierarchy import DisjointSet

from data_builder.records import LOCATIONS, Record
from data_builder.shards.near_duplicates import Likeness

Shown = dict[str, set[str]]
"""Subject -> names of what its slices show: their digests, and a name for each near pair."""


def shown_contents(records: Sequence[Record], alike: Likeness | None = None) -> Shown:
    """What each subject shows; slices with too little tissue show nothing (content.LEAST_TISSUE).

    Without `alike` every slice counts, and only equal digests are the same.
    """
    shown: Shown = {record.subject: set() for record in records}
    for i, record in enumerate(records):
        if alike is None or alike.counts[i]:
            shown[record.subject].add(record.digest)
    if alike is not None:
        for pair in alike.pairs:
            name = " ~ ".join(records[i].digest for i in pair)
            for i in pair:
                shown[records[i].subject].add(name)
    return shown


def subject_groups(shown: Shown) -> dict[str, str]:
    """Subject -> the first (by name) of all the subjects that it shares a slice's content with."""
    sets = DisjointSet(shown)
    first_with: dict[str, str] = {}
    for subject, names in shown.items():
        for name in names:
            sets.merge(subject, first_with.setdefault(name, subject))
    first: dict[str, str] = {}
    for subject in sorted(shown):
        first.setdefault(sets[subject], subject)
    return {subject: first[sets[subject]] for subject in shown}


def stratum(slices: Iterable[Record]) -> str:
    """A subject's (or group's) class: ICH if any slice is; the location of most ICH slices."""
    places = Counter(record.location for record in slices if record.hemorrhage)
    if not places:
        return "normal"
    return max(LOCATIONS, key=lambda name: (places[name], LOCATIONS.index(name)))


def by_subject(records: Sequence[Record]) -> Mapping[str, list[Record]]:
    """Each subject's slices."""
    slices = defaultdict(list)
    for record in records:
        slices[record.subject].append(record)
    return slices
