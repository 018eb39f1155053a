"""The audit of a source or of a built data set, in words and tables."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_builder.errors import InputError
from data_builder.parallel.threads import in_order
from data_builder.pseudonyms import Pseudonyms, load_key
from data_builder.records import CLASSES, FACTS, LOCATIONS, Record
from data_builder.shards.audit import Findings, audit, confounds, facts_by_label
from data_builder.shards.files import damaged_shards, data_sets, is_data_set, open_data_set
from data_builder.shards.groups import by_subject, shown_contents
from data_builder.shards.growth import ASIDE
from data_builder.shards.near_duplicates import (
    NEAR,
    Contents,
    Likeness,
    contents_of,
    likeness,
    read_likeness,
)
from data_builder.shards.sources import open_source
from data_builder.shards.split_file import read_splits
from data_builder.shards.splits import SPLITS, SplitPlan, counts, divide, leak

_MOST_VALUES = 15


@dataclasses.dataclass(frozen=True)
class Report:
    """What to print, and the exit status: 1 where there is a leak or a damaged shard."""

    text: str
    status: int


def audit_path(path: Path, plan: SplitPlan, key: str | None, splits: Path | None) -> Report:
    """Audits a source as `plan` (or the file `splits`) divides it, or the data sets in a folder.

    Raises InputError where there is nothing to audit.
    """
    folders = [path] if is_data_set(path) else data_sets(path)
    if folders:
        reports = [_data_set(folder) for folder in folders]
        text = "\n\n".join(report.text for report in reports)
        return Report(text, max(report.status for report in reports))
    source = open_source(path, Pseudonyms(load_key(key)))
    alike = read_likeness(source.records)
    if splits is None:
        side_of = divide(source.records, plan, shown_contents(source.records, alike)).side_of
        title = f"{source.kind} folder, as it would be split ({plan.name})"
    else:
        side_of = _sides_in(splits, source.records)
        title = f"{source.kind} folder, as {splits.name} splits it"
    return _report(title, source.records, side_of, alike, confounds(source.records))


def _sides_in(path: Path, records: Sequence[Record]) -> dict[str, str]:
    side_of = {row["key"]: row["split"] for row in read_splits(path)}
    wrong = sorted(set(side_of.values()) - {*SPLITS, ASIDE})
    if wrong:
        raise InputError(f"{path}: split is {wrong[0]!r}: it is one of {', '.join(SPLITS)}")
    missing = [record.key for record in records if record.key not in side_of]
    if missing:
        raise InputError(
            f"{path} has no row for {len(missing)} of {len(records)} slices, such as {missing[0]}: "
            "give the file that was made with the same --key"
        )
    return side_of


def _data_set(folder: Path) -> Report:
    damaged = damaged_shards(folder)
    if damaged:
        return Report("\n".join([f"{folder}", *(f"damaged: {words}" for words in damaged)]), 1)
    builder = open_data_set(folder)
    facts = {
        row["key"]: tuple((name, row[name]) for name in FACTS if row.get(name))
        for row in read_splits(folder / "splits.csv")
    }
    records: list[Record] = []
    side_of: dict[str, str] = {}
    pictures = []
    for side in SPLITS:
        stored = builder.as_data_source(side)
        rows = in_order(stored.__getitem__, range(len(stored)), f"reading {side}")
        part = contents_of(_images(rows, side, records, side_of, facts), len(stored))
        pictures.append(part)
    return _report(
        str(folder), records, side_of, likeness(_joined(pictures), records), confounds(records)
    )


def _images(
    rows: Iterable[dict],
    side: str,
    records: list[Record],
    side_of: dict[str, str],
    facts: Mapping[str, tuple],
) -> Iterator[np.ndarray]:
    """Yields the images of stored rows, and notes what else they say."""
    for row in rows:
        key = row["key"].decode()
        record = Record(
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
        records.append(record)
        side_of[key] = side
        yield row["image"][..., 0]


def _joined(parts: Sequence[Contents]) -> Contents:
    return Contents(
        np.concatenate([part.tissue for part in parts]),
        np.concatenate([part.picture for part in parts]),
    )


def _report(
    title: str,
    records: Sequence[Record],
    side_of: dict[str, str],
    alike: Likeness,
    confounded: Sequence[str],
) -> Report:
    found = audit(records, side_of, alike)
    test = leak(records, side_of)
    aside = {r.subject for r in records if side_of[r.key] == ASIDE}
    lines = [
        title,
        f"{len(records)} slices of {len({r.subject for r in records})} subjects",
        "",
        *table_1(records),
        "",
        *_sides(counts(records, side_of)),
        *[line for name, values in facts_by_label(records).items() for line in _fact(name, values)],
        *[f"confound: {words}" for words in confounded],
        "",
        *_copies(found),
        f"test slices with a sibling in training: {test['with_sibling_in_training']} of "
        f"{test['test_slices']}",
        *[f"set aside, would join two sides: {subject}" for subject in sorted(aside)],
        *[f"leak: {words}" for words in found.leaks],
    ]
    if not found.leaks:
        lines.append("no leak: the sides share no subject and no slice")
    return Report("\n".join(lines), 1 if found.leaks else 0)


def table_1(records: Sequence[Record]) -> list[str]:
    """The paper's Table 1 for any data set: sex over subjects, ICH and location over slices."""
    sexes = [_sex(slices) for slices in by_subject(records).values()]
    known = [(name, sexes.count(code)) for name, code in (("Male", "M"), ("Female", "F"))]
    ich = sum(record.hemorrhage for record in records)
    where = Counter(record.location for record in records if record.hemorrhage)
    rows: list[Sequence] = [("Attribute", "Total", "Value", "Number", "Percentage")]
    for name, values in (
        ("Sex (subjects)", known),
        ("ICH (slices)", [("Yes", ich), ("No", len(records) - ich)]),
        ("Location (slices)", [(place.capitalize(), where[place]) for place in LOCATIONS]),
    ):
        total = sum(number for _, number in values)
        for value, number in values:
            part = f"{number / total:.2%}" if total else "-"
            rows.append((name, total, value, number, part))
    return _aligned(rows)


def _sex(slices: Sequence[Record]) -> str:
    known = Counter(sex for record in slices if (sex := dict(record.facts).get("sex")))
    return known.most_common(1)[0][0] if known else ""


def _sides(table: Mapping[str, Mapping]) -> list[str]:
    rows: list[Sequence] = [("Side", *CLASSES, "(slices / subjects)")]
    for side, of in table.items():
        cells = [f"{of['slices'][name]} / {of['subjects'][name]}" for name in CLASSES]
        rows.append((side, *cells, ""))
    return _aligned(rows)


def _fact(name: str, values: Mapping[str, Mapping[str, int]]) -> list[str]:
    rows: list[Sequence] = [(name, "ICH", "normal")]
    most = sorted(values, key=lambda value: -sum(values[value].values()))
    rows += [
        (value or "unknown", values[value]["ICH"], values[value]["normal"])
        for value in sorted(most[:_MOST_VALUES])
    ]
    rest = [values[value] for value in most[_MOST_VALUES:]]
    if rest:
        told = [sum(of[label] for of in rest) for label in ("ICH", "normal")]
        rows.append((f"{len(rest)} other values", *told))
    return ["", *_aligned(rows)]


def _copies(found: Findings) -> list[str]:
    lines = [
        f"slices of several subjects, byte for byte: {found.shared_identical}",
        f"pairs of near slices of two subjects (within {NEAR:g} gray levels): {found.shared_near}",
        f"slices with too little tissue to be compared: {found.too_empty}",
    ]
    lines += [f"one slice under two labels: {' = '.join(keys)}" for keys in found.two_labels]
    return lines


def _aligned(rows: Sequence[Sequence]) -> list[str]:
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
