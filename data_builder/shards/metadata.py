"""Describes a data set: settings, counts, leaks and confounds, for every later report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from data_builder.errors import InputError
from data_builder.records import Record
from data_builder.shards.audit import (
    AuditSummary,
    ClassCounts,
    Leak,
    audit,
    confounds,
    counts,
    leak,
)
from data_builder.shards.growth import ASIDE
from data_builder.shards.near_duplicates import NearDuplicates
from data_builder.shards.sources import Source
from data_builder.shards.splits import Division, SplitPlan
from data_builder.shards.subjects import SubjectsRead, subjects_read

NAMES = {
    "phantom": "synthetic heads",
    "published": "slices in the published layout",
    "cleaned": "slices cleaned from DICOM",
}
"""The names of data sets in reports, by source; they are a part of metadata.json."""


class Metadata(TypedDict):
    """metadata.json of a data set. `digest` is the source's fingerprint.

    Data sets of earlier versions lack `subjects`.
    """

    name: str
    source_kind: str
    phantom: bool
    split: str
    folds: int
    fold: int
    seed: int
    size: int
    digest: str
    cleaning: dict[str, Any]
    counts: dict[str, ClassCounts]
    set_aside: list[str]
    leak: Leak
    audit: AuditSummary
    confounds: list[str]
    subjects: SubjectsRead


def describe(
    source: Source, plan: SplitPlan, size: int, division: Division, duplicates: NearDuplicates
) -> Metadata:
    """Describes the data set of `source` as `division` splits it.

    Raises InputError where a split by subject leaks.
    """
    records, side_of = source.records, division.side_of
    findings = audit(records, side_of, duplicates)
    if plan.by == "subject" and findings.leaks:
        raise InputError(
            f"this split by subject leaks: {'; '.join(findings.leaks)}: build into a new "
            "--data_dir, where no earlier data set fixes the sides"
        )
    kind = "phantom" if source.phantom else source.kind
    return {
        "name": NAMES[kind],
        "source_kind": kind,
        "phantom": source.phantom,
        "split": plan.by,
        "folds": plan.folds,
        "fold": plan.fold,
        "seed": plan.seed,
        "size": size,
        "digest": source.fingerprint,
        "cleaning": source.cleaning,
        "counts": counts(records, side_of),
        "set_aside": subjects_aside(records, side_of),
        "leak": leak(records, side_of),
        "audit": findings.summary(),
        "confounds": confounds(records),
        "subjects": subjects_read(source),
    }


def subjects_aside(records: Sequence[Record], side_of: dict[str, str]) -> list[str]:
    """The subjects whose slices are on no side, sorted."""
    return sorted({record.subject for record in records if side_of[record.key] == ASIDE})


def read_metadata(folder: Path) -> Metadata:
    """Reads a data set's metadata without opening the data set. Raises InputError."""
    try:
        return json.loads((folder / "metadata.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / 'metadata.json'} is missing or damaged: remove the folder and build it "
            "again"
        ) from error
