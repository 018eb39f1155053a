"""`labels.csv` beside DICOM: what a person says of slices, studies or subjects.

Columns: study (folder name or Study Instance UID), subject (optional), slice (SOP Instance UID, its
pseudonym, or instance number, or the frame's number in a file of several; empty: the whole study),
keep (1, 0 or empty), hemorrhage (1, 0 or empty), location (of an ICH). A row without study and
slice is about its subject. The closest row that says a thing decides it: slice before study before
subject.
"""

import csv
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from data_builder.errors import InputError
from data_builder.pseudonyms import Pseudonyms
from data_builder.records import LOCATIONS

NAME = "labels.csv"
LEVELS = ("slice", "study", "subject")
_NEEDED = ("study", "hemorrhage", "location")
_KNOWN = ("study", "subject", "slice", "keep", "hemorrhage", "location")


@dataclasses.dataclass(frozen=True)
class Label:
    """One row. `folder` is its file's place in the source; `where` names the line, safe to print.

    `study`, `subject` and `slice` are the cells as written: private.
    """

    folder: PurePosixPath
    where: str
    level: str
    study: str
    subject: str
    slice: str
    keep: str
    hemorrhage: str
    location: str


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a slice was found and what names it, for `Labels.of`.

    `study`, `subjects` (Patient ID with its issuer, and without) and `instance_uid` are pseudonyms;
    `number` is the frame's where a file has
    several, else the instance number.
    """

    path: PurePosixPath
    study: str
    subjects: tuple[str, ...]
    instance_uid: str
    number: int | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the labels say of one slice; empty where they say nothing. `subject` is private."""

    keep: str = ""
    hemorrhage: str = ""
    location: str = ""
    level: str = ""
    subject: str = ""


def read_labels(source: Path, paths: Iterable[PurePosixPath], pseudonyms: Pseudonyms) -> "Labels":
    """All rows of the files `paths` inside `source`. Raises InputError with line and column."""
    return Labels(
        [label for path in paths for label in _rows(source, path, pseudonyms)], pseudonyms
    )


def _rows(source: Path, path: PurePosixPath, pseudonyms: Pseudonyms) -> Iterator[Label]:
    name = NAME if len(path.parts) == 1 else f"{NAME} ({pseudonyms.file(str(path))})"
    try:
        with (source / path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = [cell.strip().lower() for cell in reader.fieldnames or ()]
            missing = [column for column in _NEEDED if column not in reader.fieldnames]
            if missing:
                raise InputError(
                    f"{name} line 1: the column {missing[0]} is missing: its columns are "
                    + ",".join(_KNOWN)
                )
            for row in reader:
                cells = {key: (row.get(key) or "").strip() for key in _KNOWN}
                if row.get(None):
                    raise InputError(f"{name} line {reader.line_num}: more cells than columns")
                if any(cells.values()):
                    yield _label(cells, path.parent, f"{name} line {reader.line_num}")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text: save it as CSV in UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"{name} can't be read as CSV: save it as CSV in UTF-8") from error


def _label(cells: dict[str, str], folder: PurePosixPath, where: str) -> Label:
    def require(fine: bool, column: str, rule: str) -> None:
        if not fine:
            raise InputError(f"{where}, column {column}: {rule}")

    hemorrhage, location = cells["hemorrhage"], cells["location"].lower()
    require(cells["keep"] in ("", "0", "1"), "keep", "must be 1, 0 or empty")
    require(hemorrhage in ("", "0", "1"), "hemorrhage", "must be 1, 0 or empty")
    if hemorrhage == "1":
        rule = f"must be one of {', '.join(LOCATIONS)} where hemorrhage is 1"
        require(location in LOCATIONS, "location", rule)
    else:
        require(location == "", "location", "must be empty where hemorrhage is not 1")
    require(bool(cells["study"] or cells["slice"] or cells["subject"]), "study", "is empty")
    numbered = cells["slice"].isdigit()
    require(bool(cells["study"]) or not numbered, "study", "is needed with an instance number")
    level = "slice" if cells["slice"] else "study" if cells["study"] else "subject"
    return Label(folder=folder, where=where, level=level, **(cells | {"location": location}))


class Labels:
    """The rows, found by what they name."""

    def __init__(self, rows: list[Label], pseudonyms: Pseudonyms) -> None:
        self._rows, self._pseudonyms = rows, pseudonyms
        self._matched: set[str] = set()
        self._by_name: dict[tuple[str, str], list[Label]] = {}
        for label in rows:
            for name in self._names(label):
                self._by_name.setdefault((label.level, name), []).append(label)

    def _names(self, label: Label) -> list[str]:
        """Every text that `_candidates` may make for a slice that this row is about."""
        if label.level == "subject":
            return [self._pseudonyms.subject(label.subject)]
        folder, study = label.study.strip("/"), self._pseudonyms.study(label.study)
        if label.level == "study":
            return [folder, study]
        if label.slice.isdigit():
            number = int(label.slice)
            return [f"{folder} {number}", f"{study} {number}"]
        return [self._pseudonyms.slice(label.slice), label.slice]

    def of(self, place: Place) -> Verdict:
        """What all rows together say of a slice. Raises InputError where two disagree."""
        said: dict[str, tuple[str, ...]] = {}
        for level in LEVELS:
            for label in self._about(place, level):
                self._matched.add(label.where)
                kept, found = (label.keep,), (label.hemorrhage, label.location)
                for what, told in (("keep", kept), ("hemorrhage", found)):
                    if told[0]:
                        self._say(said, what, (*told, level, label.where))
                if label.subject:
                    self._say(said, "subject", (label.subject, "", label.where))
        keep = said.get("keep", ("",))[0]
        hemorrhage, location, level, _ = said.get("hemorrhage", ("", "", "", ""))
        return Verdict(keep, hemorrhage, location, level, said.get("subject", ("",))[0])

    @staticmethod
    def _say(said: dict[str, tuple[str, ...]], what: str, told: tuple[str, ...]) -> None:
        """Keeps the first to say it; another row of its level that says else is an error."""
        first = said.setdefault(what, told)
        if first[-2] == told[-2] and first[:-1] != told[:-1]:
            raise InputError(
                f"{told[-1]}, column {what}: it says of a slice what {first[-1]} denies: mend one"
            )

    def _about(self, place: Place, level: str) -> Iterator[Label]:
        for name in self._candidates(place, level):
            for label in self._by_name.get((level, name), ()):
                if place.path.is_relative_to(label.folder):
                    same = label.level != "slice" or label.slice.isdigit() or not label.study
                    if same or self._in_study(label, place):
                        yield label

    def _in_study(self, label: Label, place: Place) -> bool:
        names = set(self._names(dataclasses.replace(label, level="study")))
        return bool(names & set(self._candidates(place, "study")))

    @staticmethod
    def _candidates(place: Place, level: str) -> list[str]:
        if level == "subject":
            return list(dict.fromkeys(place.subjects))
        folders = place.path.parent
        paths = [str(folder) for folder in (folders, *folders.parents)]
        studies = list(dict.fromkeys([place.study, *folders.parts, *paths]))
        if level == "study":
            return studies
        numbered = [f"{study} {place.number}" for study in studies if place.number is not None]
        return [place.instance_uid, *numbered]

    def unmatched(self) -> list[str]:
        """The rows that `of` was never asked about, by line, without what they say."""
        return [label.where for label in self._rows if label.where not in self._matched]
