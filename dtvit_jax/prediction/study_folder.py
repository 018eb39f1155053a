"""Stores finished studies in OUT/studies/KEY; each folder exists as a whole or not at all."""

import contextlib
import csv
import io
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_builder.errors import InputError
from data_builder.files import DRAFT, write_whole
from dtvit_jax.prediction.records import FileRow, StudyResults, StudyState

RESULTS, REPORT, FILES = "results.json", "report.html", "files.csv"
_STATE = ".state.json"
_OLD = ".old-"


class StudyFolders:
    """The studies under one OUT, which this process has locked.

    The constructor removes what a killed run left. Raises InputError where OUT can't be written.
    """

    def __init__(self, out: Path) -> None:
        self.root = out / "studies"
        self._left_out: set[str] = set()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for old in self.root.glob(f"{_OLD}*"):  # killed between two renames
                study = self.root / old.name.removeprefix(_OLD)
                if study.exists():
                    shutil.rmtree(old)
                else:
                    old.rename(study)
            for draft in self.root.glob(f"{DRAFT}*"):
                shutil.rmtree(draft)
            for draft in out.glob(f"{DRAFT}*"):
                draft.unlink()
        except OSError as error:
            raise unwritable(error) from error

    def images(self, key: str) -> Path:
        """The folder of a study's cleaned slices until it is finished."""
        return self.root / f"{DRAFT}images-{key}"

    @contextlib.contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """Yields an empty folder that becomes OUT/studies/KEY when the block ends without error."""
        draft, study, old = (self.root / f"{start}{key}" for start in (DRAFT, "", _OLD))
        try:
            draft.mkdir()
            yield draft
            if study.exists():
                study.rename(old)
            draft.rename(study)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise unwritable(error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def state(self, key: str) -> StudyState | None:
        """The state of a finished study; None where it is missing. Raises InputError if damaged."""
        try:
            return StudyState.from_json(json.loads((self.root / key / _STATE).read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(key, _STATE) from error

    def is_whole(self, key: str) -> bool:
        """Whether all files of a finished study are there."""
        return all((self.root / key / name).is_file() for name in (RESULTS, REPORT, FILES))

    def finished(self) -> Iterator[tuple[StudyResults, list[FileRow]]]:
        """Reads results and file rows of the finished studies, sorted by key.

        A damaged study is left out, with a line on standard error the first time.
        """
        for key in sorted(path.parent.name for path in self.root.glob(f"stu-*/{RESULTS}")):
            try:
                study = self.results(key), self.files(key)
            except InputError as error:
                if key not in self._left_out:
                    print(
                        f"{error}: left out of the tables until PATH has the study again",
                        file=sys.stderr,
                    )
                self._left_out.add(key)
            else:
                yield study

    def results(self, key: str) -> StudyResults:
        """Reads results.json of a finished study. Raises InputError where it is damaged."""
        try:
            return StudyResults.from_json(json.loads((self.root / key / RESULTS).read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(key, RESULTS) from error

    def files(self, key: str) -> list[FileRow]:
        """Reads files.csv of a finished study. Raises InputError where it is damaged."""
        try:
            return read_file_rows(self.root / key / FILES)
        except InputError as error:
            raise _damaged(key, FILES) from error


def _damaged(key: str, name: str) -> InputError:
    return InputError(f"studies/{key}/{name} in --out is damaged")


def write_state(folder: Path, state: StudyState) -> None:
    """Writes the state of a study into its folder. Raises OSError."""
    write_whole(folder / _STATE, json.dumps(state.to_json(), sort_keys=True) + "\n")


def unwritable(error: OSError) -> InputError:
    """The error for a folder that can't be written, such as on a full disk."""
    return InputError(
        f"--out can't be written ({error.strerror or type(error).__name__}): mend it, and the same "
        "command continues"
    )


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, str | int]]) -> str:
    """Formats a table as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_file_rows(path: Path) -> list[FileRow]:
    """Reads a files.csv; no rows where it is missing. Raises InputError where it is damaged."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [FileRow.from_csv(row) for row in csv.DictReader(file)]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"a {FILES} in --out is damaged: remove it and try again") from error


def put(path: Path, text: str) -> None:
    """Writes a file whole or not at all, unless it holds `text` already. Raises InputError."""
    try:
        if not path.is_file() or path.read_bytes() != text.encode():
            write_whole(path, text)
    except OSError as error:
        raise unwritable(error) from error
