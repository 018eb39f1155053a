"""Decides whose a slice is: as labels.csv states, by Patient ID, or, without one, its study's."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from typing import TypedDict

from data_builder.cleaning.labels import subject_keys
from data_builder.cleaning.results import CleanedSlice, LabelledSlice, Origin
from data_builder.pseudonyms import Pseudonyms

STATE_SUBJECTS = "give each person one name in the column subject of labels.csv"
"""The way out where headers do not tell people apart."""


class SubjectCounts(TypedDict):
    """How many subjects were read from what, as cleaning.json has it under `subjects`.

    `without_id` are the pseudonyms of those read from a study, because Patient ID is empty.
    `issuer_in_part` counts Patient IDs that stand with and without an issuer, as two subjects.
    """

    by_patient_id: int
    by_labels: int
    without_id: list[str]
    issuer_in_part: int


def subjects_of_patients(slices: Iterable[CleanedSlice]) -> dict[str, set[str]]:
    """Patient ID (without its issuer) -> its subjects; all are pseudonyms."""
    subjects = defaultdict(set)
    for row in slices:
        subjects[row.patient].add(row.subject)
    return subjects


def subject_of(
    row: CleanedSlice,
    stated: str,
    of_patient: Mapping[str, Set[str]],
    pseudonyms: Pseudonyms,
) -> tuple[str, Origin]:
    """The subject's pseudonym, and what it was read from; `stated` is the cell of labels.csv.

    A stated Patient ID is the header's subject, with its issuer, unless that ID also stands with
    another issuer or without one: then the statement makes them one.
    """
    if not stated:
        # Without a Patient ID the header's subject is the study.
        return row.subject, "study" if row.patient == pseudonyms.subject("") else "Patient ID"
    keys = subject_keys(stated, pseudonyms)
    if row.subject in keys or (row.patient in keys and len(of_patient[row.patient]) == 1):
        return row.subject, "labels.csv"
    return keys[0], "labels.csv"


def files_of_mixed_studies(rows: Iterable[LabelledSlice]) -> dict[str, int]:
    """File -> how many patients its study has, where that is over one by the headers alone."""
    patients, files = defaultdict(set), defaultdict(set)
    for row in rows:
        if row.subject_from != "labels.csv":
            patients[row.study].add(row.subject)
            files[row.study].add(row.file)
    return {
        file: len(people)
        for study, people in patients.items()
        if len(people) > 1
        for file in files[study]
    }


def count_subjects(rows: Iterable[LabelledSlice]) -> SubjectCounts:
    """Counts the subjects of a manifest by what they were read from."""
    origin: dict[str, Origin] = {}
    ids = defaultdict(set)
    for row in rows:
        origin[row.subject] = row.subject_from
        if row.subject_from == "Patient ID":
            ids[row.patient].add(row.subject)
    count = Counter(origin.values())
    return {
        "by_patient_id": count["Patient ID"],
        "by_labels": count["labels.csv"],
        "without_id": sorted(subject for subject, read in origin.items() if read == "study"),
        "issuer_in_part": sum(
            patient in subjects and len(subjects) > 1 for patient, subjects in ids.items()
        ),
    }
