"""Says how the subjects of a source were read, why they may be wrong, and what can't be known.

A split by subject is worth what its subjects are worth: where each slice is its own subject, or
all are one, the sides share people and no audit can see it. Samples of what was read are masked,
because a file name may be a person's.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from data_builder.cleaning.subjects import STATE_SUBJECTS
from data_builder.records import Record
from data_builder.shards.groups import by_subject
from data_builder.shards.published import published_identity, published_name_and_number
from data_builder.shards.sources import Source

FEWEST_SINGLES = 20
"""From so many slices on, a subject for each of them is taken for a misreading."""

_NUMBERED = re.compile(r"\d+-")
_RENAME = (
    "name the files NUMBER-SUBJECT, with an admission number at the end in yes/, or give --split "
    "slice, which claims nothing about subjects"
)
_STATE = f"{STATE_SUBJECTS}, or give --split slice, which claims nothing about subjects"


class SubjectsRead(TypedDict):
    """How subjects were read, as metadata.json has it.

    `doubts` are reasons why the subjects are not people, each of which forbids a split by subject;
    `unknown` is what nobody can see in the data.
    """

    read_from: str
    doubts: list[str]
    unknown: list[str]
    way_out: str


def masked(text: str) -> str:
    """The form of a text without its content: letters become one a, digits 9, rare signs '?'."""
    signs = [_mask(sign) for sign in unicodedata.normalize("NFC", text)]
    return re.sub("a+", "a", "".join(signs))


def _mask(sign: str) -> str:
    if sign.isdigit():
        return "9"
    if sign.isalpha() or unicodedata.category(sign).startswith("M"):
        return "a"
    return sign if sign.isascii() and sign.isprintable() else "?"


def subjects_read(source: Source) -> SubjectsRead:
    """How the subjects of a source folder were read."""
    if source.kind == "published":
        return {
            "read_from": f"file names: {_samples(source.records)}",
            "doubts": [
                *_doubts_of_names(source.records),
                *doubts_of_records(source.records, labels_are_subjects=True),
            ],
            "unknown": list(_unknown_of_names(source.records)),
            "way_out": _RENAME,
        }
    counts = source.cleaning.get("subjects")  # None in folders of an earlier version
    return {
        "read_from": _headers(counts) if counts else "headers, by an earlier version of clean",
        "doubts": list(_doubts_of_headers(source, counts)),
        "unknown": list(_unknown_of_headers(source, counts)),
        "way_out": _STATE,
    }


def _doubts_of_headers(source: Source, counts: Mapping[str, int] | None) -> Iterator[str]:
    if counts and not (counts["by_patient_id"] or counts["without_id"]):
        return  # labels.csv states every subject
    missing = {record.subject for record in source.records} & source.without_id
    if missing:
        yield f"{len(missing)} subject(s) are studies whose Patient ID is empty, not people"
    yield from doubts_of_records(source.records, labels_are_subjects=False)


def doubts_of_records(records: Sequence[Record], labels_are_subjects: bool) -> list[str]:
    """The doubts that need no names: one subject, a subject for each slice, or several locations.

    `labels_are_subjects`: a label is one of a subject (the published layout), so that a subject has
    one location; else a person may have bleeds at two.
    """
    slices = by_subject(records)
    if len(slices) == 1:
        studies = len({record.study for record in records})
        what = f"all {len(records)} slices"
        what += f", of {studies} studies," if studies > 1 else ""
        return [f"{what} are of one subject: a name or Patient ID that all share"]
    doubts = []
    parts = [("", records)]
    if labels_are_subjects:  # names are read in another way in no/ and in yes/
        parts = [
            (f" in {folder}/", [record for record in records if record.hemorrhage == hemorrhage])
            for hemorrhage, folder in enumerate(("no", "yes"))
        ]
    for where, part in parts:
        if len(part) >= FEWEST_SINGLES and len(by_subject(part)) == len(part):
            doubts.append(f"each of the {len(part)} slices{where} is a subject of its own")
    several = _with_several_locations(records)
    if several and labels_are_subjects:
        doubts.append(
            f"{len(several)} of {len(slices)} subjects have slices of several locations, such as "
            f"{several[0]}"
        )
    return doubts


def _with_several_locations(records: Sequence[Record]) -> list[str]:
    locations = defaultdict(set)
    for record in records:
        if record.hemorrhage:
            locations[record.subject].add(record.location)
    return sorted(subject for subject, places in locations.items() if len(places) > 1)


def _names(records: Sequence[Record]) -> list[tuple[str, str, int]]:
    """Of each slice of the published layout: file name without suffix, identity, hemorrhage."""
    stems = [(Path(record.image).stem, record.hemorrhage) for record in records]
    return [(stem, published_identity(stem, bool(ich)), ich) for stem, ich in stems]


def _samples(records: Sequence[Record]) -> str:
    """The commonest forms of names and of what they were read as, in no/ and in yes/."""
    forms: dict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for stem, identity, hemorrhage in _names(records):
        forms[hemorrhage][masked(stem), masked(identity)] += 1
    return ", ".join(
        f"in {folder}/ such as {name!r} read as subject {identity!r}"
        for hemorrhage, folder in enumerate(("no", "yes"))
        for (name, identity), _ in forms[hemorrhage].most_common(1)
    )


def _doubts_of_names(records: Sequence[Record]) -> Iterator[str]:
    names = _names(records)
    empty = [stem for stem, identity, _ in names if not identity]
    if empty:
        yield f"{len(empty)} file name(s) hold no subject, such as {masked(empty[0])!r}"
    odd = _without_number(names)
    if 2 * len(odd) > len(names):
        yield (
            f"{len(odd)} of {len(names)} file names do not begin with a number and '-', as "
            f"published ones do, such as {masked(odd[0])!r}"
        )


def _without_number(names: Sequence[tuple[str, str, int]]) -> list[str]:
    return [stem for stem, _, _ in names if not _NUMBERED.match(stem)]


def _unknown_of_names(records: Sequence[Record]) -> Iterator[str]:
    names = _names(records)
    yield "whether one person stands under two names or numbers"
    numbers = defaultdict(set)
    without = 0
    for stem, _, hemorrhage in names:
        if hemorrhage:
            name, number = published_name_and_number(stem)
            without += not number
            if name and number:
                numbers[name].add(number)
    if several := sum(len(of_name) > 1 for of_name in numbers.values()):
        yield f"whether {several} name(s) that stand under several admission numbers are one person"
    if without:
        yield f"whose {without} ICH slice(s) without an admission number are: their name was taken"
    labels = defaultdict(set)
    for _, identity, hemorrhage in names:
        labels[identity].add(hemorrhage)
    if both := sum(len(of_subject) > 1 for of_subject in labels.values()):
        yield f"whether {both} subject(s) with slices in no/ and in yes/ are one person each"
    if odd := len(_without_number(names)):
        yield f"whose {odd} slice(s) without a number and '-' before the subject are"


def _headers(counts: Mapping[str, int]) -> str:
    parts = [
        (counts["by_patient_id"], "by Patient ID"),
        (counts["by_labels"], "by labels.csv"),
        (counts["without_id"], "by study, as Patient ID is empty"),
    ]
    return "headers: " + ", ".join(f"{count} {how}" for count, how in parts if count)


def _unknown_of_headers(source: Source, counts: Mapping[str, int] | None) -> Iterator[str]:
    yield "whether one person has two Patient IDs (another visit, hospital or spelling)"
    if not counts:
        yield "whether a Patient ID was empty: clean the scans again into a new folder to see it"
    elif counts["issuer_in_part"]:
        yield (
            f"whether {counts['issuer_in_part']} Patient ID(s) with and without an issuer, taken "
            "for two subjects each, are one person"
        )
    studies = {
        subject: len({record.study for record in slices})
        for subject, slices in by_subject(source.records).items()
    }
    subject, most = max(studies.items(), key=lambda item: item[1])
    if len(studies) > 1 and most > 2 and 2 * most > sum(studies.values()):
        yield f"whether {subject}, with {most} of {sum(studies.values())} studies, is one person"
    if several := _with_several_locations(source.records):
        yield (
            f"whether {len(several)} subject(s) with slices of several locations, such as "
            f"{several[0]}, are one person each"
        )
