"""Groups subjects that show the same slice, because a split must keep them on one side."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from scipy.cluster.hierarchy import DisjointSet

from data_builder.records import LOCATIONS, Record
from data_builder.shards.near_duplicates import NearDuplicates

Shown = dict[str, set[str]]
"""Subject -> its contents: the digests of its slices, and one name for each pair of near slices."""


def shown_contents(records: Sequence[Record], duplicates: NearDuplicates | None = None) -> Shown:
    """The contents of each subject.

    With `duplicates`, slices with too little tissue have no content (near_duplicates.LEAST_TISSUE).
    Without it every slice has one, and only equal digests are the same content.
    """
    shown: Shown = {record.subject: set() for record in records}
    for i, record in enumerate(records):
        if duplicates is None or duplicates.comparable[i]:
            shown[record.subject].add(record.digest)
    if duplicates is not None:
        for pair in duplicates.pairs:
            name = " ~ ".join(records[i].digest for i in pair)
            for i in pair:
                shown[records[i].subject].add(name)
    return shown


def subject_groups(shown: Shown) -> dict[str, str]:
    """Subject -> the alphabetically first of all subjects that it is connected with by content."""
    sets = DisjointSet(shown)
    first_with: dict[str, str] = {}
    for subject, contents in shown.items():
        for name in contents:
            sets.merge(subject, first_with.setdefault(name, subject))
    first: dict[str, str] = {}
    for subject in sorted(shown):
        first.setdefault(sets[subject], subject)
    return {subject: first[sets[subject]] for subject in shown}


def stratum(slices: Iterable[Record]) -> str:
    """The class of a subject or group: the commonest location of its ICH slices, else 'normal'.

    Of two locations with as many slices the later one in LOCATIONS counts.
    """
    locations = Counter(record.location for record in slices if record.hemorrhage)
    if not locations:
        return "normal"
    return max(LOCATIONS, key=lambda name: (locations[name], LOCATIONS.index(name)))


def by_subject(records: Sequence[Record]) -> Mapping[str, list[Record]]:
    """Subject -> its slices."""
    slices = defaultdict(list)
    for record in records:
        slices[record.subject].append(record)
    return slices
