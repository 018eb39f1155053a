"""A finished study on disk: OUT/studies/KEY, which is there as a whole or not at all."""

import contextlib
import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_builder.errors import InputError
from dtvit_jax.decision.answer import SliceAnswer, StudyAnswer

FILE_COLUMNS = ("file", "study", "use", "slices", "reason", "detail")
"""Of files.csv: 'use' is 'used', 'refused' or 'own words'; 'slices' those that were answered."""

RESULTS, REPORT, FILES = "results.json", "report.html", "files.csv"
_STATE, _TOLD = ".state.json", ".told"
_DRAFT, _OLD = ".draft-", ".old-"


@dataclasses.dataclass(frozen=True)
class Finished:
    """A study that has its answer, or the reason why there is none.

    Attributes:
      key: its pseudonym.
      answer: None where it has none; `refusal` then says why.
      folder: OUT/studies/KEY.
      sources: the files that were used, in the order of `SliceAnswer.file`: private.
      objects: DICOM objects under OUT/dicom/KEY.
      files: its rows of files.csv.
      before: it was done by an earlier run, and is as it was.
    """

    key: str
    answer: StudyAnswer | None
    refusal: str
    folder: Path
    sources: tuple[Path, ...] = ()
    objects: tuple[Path, ...] = ()
    files: tuple[dict[str, Any], ...] = ()
    before: bool = False


class StudyFolders:
    """The studies under one OUT. Cleans up what a run that was killed left."""

    def __init__(self, out: Path) -> None:
        self.root = out / "studies"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for old in self.root.glob(f"{_OLD}*"):  # killed between two renames
                place = self.root / old.name.removeprefix(_OLD)
                if place.exists():
                    shutil.rmtree(old)
                else:
                    old.rename(place)
            for draft in self.root.glob(f"{_DRAFT}*"):
                shutil.rmtree(draft)
        except OSError as error:
            raise unwritable(error) from error

    def images(self, key: str) -> Path:
        """Where the cleaned slices of a study lie until it is finished."""
        return self.root / f"{_DRAFT}images-{key}"

    @contextlib.contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """An empty folder that becomes OUT/studies/KEY when the block ends without an error."""
        draft, place, old = (self.root / f"{start}{key}" for start in (_DRAFT, "", _OLD))
        try:
            draft.mkdir()
            yield draft
            if place.exists():
                place.rename(old)
            draft.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise unwritable(error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def state(self, key: str) -> dict[str, Any]:
        """What `write_state` wrote for a finished study; empty where it is not finished."""
        try:
            return json.loads((self.root / key / _STATE).read_text())
        except (OSError, ValueError):
            return {}

    def is_told(self, key: str) -> bool:
        """Whether whoever waits for answers was told of this one (`mark_told`)."""
        return (self.root / key / _TOLD).is_file()

    def mark_told(self, key: str) -> None:
        """Notes it; a new answer of the study is a new folder, and told again."""
        try:
            (self.root / key / _TOLD).touch()
        except OSError as error:
            raise unwritable(error) from error

    def finished(self) -> list[str]:
        """The keys of finished studies, sorted."""
        return sorted(path.parent.name for path in self.root.glob(f"stu-*/{RESULTS}"))

    def results(self, key: str) -> dict[str, Any]:
        """results.json of a finished study. Raises InputError where it is damaged."""
        try:
            return json.loads((self.root / key / RESULTS).read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"studies/{key}/{RESULTS} in --out is damaged: remove that folder and try again"
            ) from error

    def files(self, key: str) -> list[dict[str, str]]:
        """Its rows of files.csv."""
        return read_rows(self.root / key / FILES)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """What a later run asks to know whether the study is done."""
    (folder / _STATE).write_text(json.dumps(state, sort_keys=True) + "\n")


def answer_of(results: dict[str, Any]) -> StudyAnswer | None:
    """The answer in a study's results.json."""
    stored = results["study"]
    if stored is None:
        return None
    slices = [
        SliceAnswer(**one | {"p_location": tuple(one["p_location"])}) for one in stored["slices"]
    ]
    tuples = {name: tuple(stored[name]) for name in ("p_location", "reasons")}
    return StudyAnswer(**stored | tuples | {"slices": tuple(slices)})


def unwritable(error: OSError) -> InputError:
    """The line for a full disk and its like."""
    return InputError(
        f"--out can't be written ({error.strerror or type(error).__name__}): mend it, and the same "
        "command goes on"
    )


def csv_text(columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> str:
    """A table as text; keys that are no columns are left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that this program wrote; none where it is missing."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def put(path: Path, text: str) -> None:
    """Writes a file whole or not at all; one that stays the same is not touched."""
    data = text.encode()
    try:
        if path.is_file() and path.read_bytes() == data:
            return
        draft = path.with_name(f".{path.name}.draft")
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise unwritable(error) from error
