"""The record of finished files that a run leaves behind, so that the next one goes on from it."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from data_builder.cleaning.clean_file import FileResult
from data_builder.errors import InputError
from data_builder.pseudonyms import Lookup

_SECONDS_BETWEEN_FLUSHES = 1.0
_END = '"the end"'


class Journal:
    """`out/.journal.jsonl`: the settings, then one finished file a line; pseudonyms only.

    Holds a lock on the folder while it is open. A file counts as finished while its size is the
    same, it was not changed after the journal was last written, and its images are there.
    """

    def __init__(self, out: Path, settings: dict, lookup: Lookup | None) -> None:
        """Raises InputError where `out` can't be written, is in use, or has other settings."""
        self._out, self._settings, self._lookup = out, settings, lookup
        self._path = out / ".journal.jsonl"
        self._waiting: list[FileResult] = []
        self._flushed = time.monotonic()
        self._started = time.time()
        self.finished = False  # whether the last run came to its end
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"the folder given with --out can't be written ({error.strerror}): give another"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise InputError("another run is writing to --out: wait for it to end") from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.flush()
        self._file.close()

    def load(self, source: Path, files: dict[str, PurePosixPath]) -> dict[str, FileResult]:
        """Results of earlier runs that still hold, by file."""
        self._file.seek(0)
        written = os.fstat(self._file.fileno()).st_mtime
        head, *lines = self._file.read().split("\n")
        if not lines:  # new, or cut short in its first line
            self._file.truncate(0)
            self._file.write(json.dumps(self._settings, sort_keys=True) + "\n")
            self._file.flush()
            return {}
        self._check(json.loads(head))
        self.finished = lines[-2:] == [_END, ""]
        if lines[-1]:  # a line cut short by a kill is ended, so that the next starts afresh
            self._file.write("\n")
        found = {}
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                result = FileResult(**json.loads(line))
                found[result.file] = result
        return {
            name: result
            for name, result in found.items()
            if name in files and self._holds(result, source / files[name], written)
        }

    def _check(self, earlier: dict) -> None:
        other = [name for name, value in self._settings.items() if earlier.get(name) != value]
        if other:
            raise InputError(
                f"--out holds slices with another {', '.join(other)}: give a new folder, "
                "or the same SRC, --key and options as before"
            )

    def _holds(self, result: FileResult, path: Path, written: float) -> bool:
        try:
            state = path.stat()
        except OSError:
            return False
        same = state.st_size == result.size and state.st_mtime <= written
        return same and all((self._out / row["image"]).is_file() for row in result.rows)

    def add(self, result: FileResult) -> None:
        """Takes a finished file; it is on disk within a second or so, its lookup first."""
        self._waiting.append(result)
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Puts all that was added on disk."""
        waiting, self._waiting = self._waiting, []
        if self._lookup:
            self._lookup.add(pair for result in waiting for pair in result.meanings)
        self._file.write("".join(map(_line, waiting)))
        self._file.flush()
        self._flushed = time.monotonic()

    def finish(self, results: Iterable[FileResult]) -> None:
        """Rewrites the journal in order: the same files give the same bytes, however they came."""
        lines = [json.dumps(self._settings, sort_keys=True) + "\n"]
        lines += [_line(result) for result in sorted(results, key=lambda one: one.file)]
        lines.append(_END + "\n")
        draft = self._path.with_name(self._path.name + ".new")
        draft.write_text("".join(lines), encoding="utf-8")
        os.utime(draft, (self._started, self._started))  # what changes from now on is new
        draft.replace(self._path)


def _line(result: FileResult) -> str:
    return json.dumps(vars(result) | {"meanings": []}, sort_keys=True) + "\n"
