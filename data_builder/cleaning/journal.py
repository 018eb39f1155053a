"""Keeps the record of finished files from which the next run goes on."""

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_builder.cleaning.results import CleanedSlice, FileResult
from data_builder.errors import InputError
from data_builder.files import DRAFT, draft_of, lock
from data_builder.parallel.threads import in_order
from data_builder.pseudonyms import Lookup, Pseudonyms

NAME = ".journal.jsonl"
_SECONDS_BETWEEN_FLUSHES = 1.0


class Journal:
    """`out/.journal.jsonl`: the settings, then a line for each finished file; pseudonyms only.

    Holds a lock on the folder while it is open. A file counts as finished while it has the same
    bytes, whatever its times.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], lookup: Lookup | None) -> None:
        """Raises InputError where `out` cannot be written or another run writes to it."""
        self._out, self._settings, self._lookup = out, settings, lookup
        self._path = out / NAME
        self._waiting: list[FileResult] = []
        self._flushed = time.monotonic()
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"the folder given with --out can't be written ({error.strerror}): give another"
            ) from error
        if not lock(self._file):
            self._file.close()
            raise InputError("another run is writing to --out: wait for it to end")
        for draft in out.glob(f"{DRAFT}*-{NAME}"):  # of a run that was killed
            draft.unlink()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.flush()
        self._file.close()

    def load(
        self, source: Path, files: Mapping[str, PurePosixPath], pseudonyms: Pseudonyms
    ) -> dict[str, FileResult]:
        """The results of earlier runs that still hold, by file.

        Reads every file that has the size that it had. Raises InputError where the earlier runs
        had other settings, or these can't be read.
        """
        self._file.seek(0)
        head, *lines = self._file.read().split("\n")
        if not lines:  # new, or cut short in its first line
            self._file.truncate(0)
            self._file.write(json.dumps(self._settings, sort_keys=True) + "\n")
            self._file.flush()
            return {}
        self._check(head)
        if lines[-1]:  # ends a line that a kill cut short
            self._file.write("\n")
        results = {}
        for line in lines:
            # A line cut short, or the mark that earlier versions wrote at the end.
            with contextlib.suppress(ValueError, TypeError):
                result = _result(json.loads(line))
                results[result.file] = result
        present = [result for name, result in results.items() if name in files]

        def holds(result: FileResult) -> bool:
            return _holds(result, source / files[result.file], pseudonyms)

        checked = in_order(holds, present, "comparing") if present else ()
        return {result.file: result for result, same in zip(present, checked, strict=True) if same}

    def _check(self, head: str) -> None:
        try:
            earlier = json.loads(head)
        except ValueError:
            earlier = None
        if not isinstance(earlier, dict):
            raise InputError(f"{NAME} in --out is damaged: give a new folder")
        changed = [name for name, value in self._settings.items() if earlier.get(name) != value]
        if changed:
            raise InputError(
                f"--out holds slices with another {', '.join(changed)}: give a new folder, "
                "or the same SRC, --key and options as before"
            )

    def add(self, result: FileResult) -> None:
        """Adds a finished file; it is on disk within about a second, its meanings first."""
        self._waiting.append(result)
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Writes all added files to disk."""
        waiting, self._waiting = self._waiting, []
        if self._lookup:
            self._lookup.add(pair for result in waiting for pair in result.meanings)
        self._file.write("".join(map(_line, waiting)))
        self._file.flush()
        self._flushed = time.monotonic()

    def finish(self, results: Iterable[FileResult]) -> None:
        """Rewrites the journal in the order of files: the same files give the same bytes."""
        lines = [json.dumps(self._settings, sort_keys=True) + "\n"]
        lines += [_line(result) for result in sorted(results, key=lambda result: result.file)]
        with draft_of(self._path) as draft:
            draft.write_text("".join(lines), encoding="utf-8")


def _holds(result: FileResult, path: Path, pseudonyms: Pseudonyms) -> bool:
    """Whether the file has the bytes that the result is of."""
    try:
        if path.stat().st_size != result.size:
            return False
    except OSError:
        return False
    return bool(result.content) and pseudonyms.content(path) == result.content


def _line(result: FileResult) -> str:
    """A line of the journal: all of a result but its meanings, which are private."""
    values = vars(result) | {"rows": [vars(row) for row in result.rows], "meanings": []}
    return json.dumps(values, sort_keys=True) + "\n"


def _result(values: Any) -> FileResult:
    """The result that a line of the journal holds. Raises TypeError for any other value."""
    if not isinstance(values, dict):
        raise TypeError("not a result")
    rows = [CleanedSlice(**row) for row in values.get("rows", [])]
    return FileResult(**(values | {"rows": rows}))
