"""Prints the audit of a source folder or of built data sets as text and tables."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from data_builder.errors import InputError
from data_builder.parallel.threads import in_order
from data_builder.pseudonyms import Pseudonyms, check_key_place
from data_builder.records import CLASSES, FACTS, LOCATIONS, Record
from data_builder.shards.audit import (
    ClassCounts,
    Findings,
    LabelCounts,
    audit,
    confounds,
    counts,
    facts_by_label,
    leak,
)
from data_builder.shards.files import damaged_shards, data_sets, is_data_set, open_data_set
from data_builder.shards.groups import by_subject, shown_contents
from data_builder.shards.growth import ASIDE
from data_builder.shards.metadata import read_metadata, subjects_aside
from data_builder.shards.near_duplicates import (
    NEAR,
    Contents,
    NearDuplicates,
    compare,
    contents_of,
    read_near_duplicates,
)
from data_builder.shards.sources import load_source_key, open_source
from data_builder.shards.split_file import read_splits
from data_builder.shards.splits import SPLITS, SplitPlan, divide
from data_builder.shards.subjects import SubjectsRead, doubts_of_records, subjects_read

_MOST_VALUES = 15  # rows of a fact's table; the rarer values share one more row


@dataclasses.dataclass(frozen=True)
class Report:
    """Text to print, and the exit status: 1 for a leak, subjects in doubt or a damaged shard."""

    text: str
    status: int


def audit_path(path: Path, plan: SplitPlan, key: str | None, splits: Path | None) -> Report:
    """Audits the data set `path`, the data sets in it, or a source folder.

    A source is audited as `plan` would divide it, or as the file `splits` does. Raises InputError
    where there is nothing to audit.
    """
    folders = [path] if is_data_set(path) else data_sets(path)
    if folders:
        reports = [_data_set_report(folder) for folder in folders]
        text = "\n\n".join(report.text for report in reports)
        return Report(text, max(report.status for report in reports))
    check_key_place(key, {"SRC": path})
    source = open_source(path, Pseudonyms(load_source_key(key, path)))
    subjects = subjects_read(source)
    duplicates = read_near_duplicates(source.records)
    if splits is None:
        side_of = _divided(source.records, plan, duplicates, subjects["doubts"])
        title = f"{source.kind} folder, as it would be split ({plan.name})"
    else:
        side_of = _read_sides(splits, source.records)
        title = f"{source.kind} folder, as {splits.name} splits it"
    if source.companions:
        title += f", {source.companions} companions of macOS (._*) passed over"
    return _report(title, source.records, side_of, duplicates, subjects)


def _divided(
    records: Sequence[Record], plan: SplitPlan, duplicates: NearDuplicates, doubts: Sequence[str]
) -> dict[str, str]:
    """Slice key -> the side that `build` would give it; InputError has the doubts, if there are."""
    try:
        return divide(records, plan, shown_contents(records, duplicates)).side_of
    except InputError as error:
        if not doubts:
            raise
        raise InputError(f"{error}; the subjects are in doubt: {'; '.join(doubts)}") from error


def _read_sides(path: Path, records: Sequence[Record]) -> dict[str, str]:
    side_of = {row["key"]: row["split"] for row in read_splits(path)}
    wrong = sorted(set(side_of.values()) - {*SPLITS, ASIDE})
    if wrong:
        raise InputError(f"{path}: split is {wrong[0]!r}: give one of {', '.join(SPLITS)}")
    missing = [record.key for record in records if record.key not in side_of]
    if missing:
        raise InputError(
            f"{path} has no row for {len(missing)} of {len(records)} slices, such as {missing[0]}: "
            "give the file that was made with the same --key"
        )
    return side_of


def _data_set_report(folder: Path) -> Report:
    damaged = damaged_shards(folder)
    if damaged:
        return Report("\n".join([f"{folder}", *(f"damaged: {message}" for message in damaged)]), 1)
    builder = open_data_set(folder)
    facts = {
        row["key"]: tuple((name, row[name]) for name in FACTS if row.get(name))
        for row in read_splits(folder / "splits.csv")
    }
    records: list[Record] = []
    side_of: dict[str, str] = {}
    contents = []
    for side in SPLITS:
        stored, contents_of_side = _read_side(builder, side, facts)
        records += stored
        side_of |= {record.key: side for record in stored}
        contents.append(contents_of_side)
    metadata = read_metadata(folder)
    published = metadata["source_kind"] == "published"
    subjects = metadata.get("subjects") or SubjectsRead(
        read_from="a source that an earlier version built",
        doubts=doubts_of_records(records, published),
        unknown=["what the subjects were read from: audit the source to see it"],
        way_out="",
    )
    return _report(str(folder), records, side_of, compare(_joined(contents), records), subjects)


def _read_side(
    builder: tfds.core.DatasetBuilder, side: str, facts: Mapping[str, tuple]
) -> tuple[list[Record], Contents]:
    """Reads the records of one side and the contents of their images, one image at a time."""
    stored = builder.as_data_source(side)
    records: list[Record] = []

    def images() -> Iterator[UInt8[np.ndarray, "rows columns"]]:
        for row in in_order(stored.__getitem__, range(len(stored)), f"reading {side}"):
            records.append(_record(row, facts))
            yield row["image"][..., 0]

    contents = contents_of(images(), len(stored))
    return records, contents


def _record(row: Mapping[str, Any], facts: Mapping[str, tuple]) -> Record:
    key = row["key"].decode()
    return Record(
        key=key,
        image="",
        hemorrhage=int(row["hemorrhage"]),
        location=LOCATIONS[row["location"]] if row["hemorrhage"] else "",
        subject=row["subject"].decode(),
        study=row["study"].decode(),
        position_mm=float(row["position_mm"]),
        digest=row["digest"].decode(),
        facts=facts.get(key, ()),
    )


def _joined(contents: Sequence[Contents]) -> Contents:
    return Contents(
        np.concatenate([one.tissue for one in contents]),
        np.concatenate([one.picture for one in contents]),
    )


def _report(
    title: str,
    records: Sequence[Record],
    side_of: dict[str, str],
    duplicates: NearDuplicates,
    subjects: SubjectsRead,
) -> Report:
    findings = audit(records, side_of, duplicates)
    test = leak(records, side_of)
    lines = [
        title,
        f"{len(records)} slices of {len({r.subject for r in records})} subjects, read from "
        f"{subjects['read_from']}",
        "",
        *table_1(records),
        "",
        *_side_table(counts(records, side_of)),
        *[
            line
            for name, values in facts_by_label(records).items()
            for line in _fact_table(name, values)
        ],
        *[f"confound: {message}" for message in confounds(records)],
        "",
        *_copies(findings),
        f"test slices with a sibling in training: {test['with_sibling_in_training']} of "
        f"{test['test_slices']}",
        *[f"set aside, would join two sides: {s}" for s in subjects_aside(records, side_of)],
        *[f"leak: {message}" for message in findings.leaks],
        *[f"subjects in doubt: {message}" for message in subjects["doubts"]],
        *[f"not known: {message}" for message in subjects["unknown"]],
    ]
    if subjects["doubts"] and not findings.leaks:
        lines.append("a leak between subjects can't be excluded: they are in doubt")
    elif not findings.leaks:
        lines.append("no leak between the subjects as read: the sides share no subject, no slice")
    return Report("\n".join(lines), 1 if findings.leaks or subjects["doubts"] else 0)


def table_1(records: Sequence[Record]) -> list[str]:
    """The paper's Table 1 for any data set: sex over subjects, ICH and location over slices."""
    sexes = [_sex(slices) for slices in by_subject(records).values()]
    ich = sum(record.hemorrhage for record in records)
    locations = Counter(record.location for record in records if record.hemorrhage)
    rows: list[Sequence] = [("Attribute", "Total", "Value", "Number", "Percentage")]
    for name, values in (
        ("Sex (subjects)", [("Male", sexes.count("M")), ("Female", sexes.count("F"))]),
        ("ICH (slices)", [("Yes", ich), ("No", len(records) - ich)]),
        ("Location (slices)", [(name.capitalize(), locations[name]) for name in LOCATIONS]),
    ):
        total = sum(number for _, number in values)
        for value, number in values:
            percentage = f"{number / total:.2%}" if total else "-"
            rows.append((name, total, value, number, percentage))
    return _aligned(rows)


def _sex(slices: Sequence[Record]) -> str:
    """The commonest sex in a subject's slices; '' where none is known."""
    sexes = Counter(sex for record in slices if (sex := dict(record.facts).get("sex")))
    return sexes.most_common(1)[0][0] if sexes else ""


def _side_table(table: Mapping[str, ClassCounts]) -> list[str]:
    rows: list[Sequence] = [("Side", *CLASSES, "(slices / subjects)")]
    for side, count in table.items():
        cells = [f"{count['slices'][name]} / {count['subjects'][name]}" for name in CLASSES]
        rows.append((side, *cells, ""))
    return _aligned(rows)


def _fact_table(name: str, values: Mapping[str, LabelCounts]) -> list[str]:
    rows: list[Sequence] = [(name, "ICH", "normal")]
    commonest = sorted(values, key=lambda value: -sum(values[value].values()))
    rows += [
        (value or "unknown", values[value]["ICH"], values[value]["normal"])
        for value in sorted(commonest[:_MOST_VALUES])
    ]
    rare = [values[value] for value in commonest[_MOST_VALUES:]]
    if rare:
        sums = [sum(count[label] for count in rare) for label in ("ICH", "normal")]
        rows.append((f"{len(rare)} other values", *sums))
    return ["", *_aligned(rows)]


def _copies(findings: Findings) -> list[str]:
    return [
        f"slices of several subjects, byte for byte: {findings.shared_identical}",
        f"pairs of near slices of two subjects (within {NEAR:g} gray levels): "
        f"{findings.shared_near}",
        f"slices with too little tissue to be compared: {findings.too_empty}",
        *[f"one slice under two labels: {' = '.join(keys)}" for keys in findings.two_labels],
    ]


def _aligned(rows: Sequence[Sequence]) -> list[str]:
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
