"""Watches a folder that studies arrive in, and answers each once when it has been quiet."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from data_builder.errors import InputError
from data_builder.files import is_folder, walk
from data_builder.pseudonyms import Pseudonyms
from dtvit_jax.prediction.intake import (
    IdentifyTask,
    InputFile,
    StudyFiles,
    group_by_study,
    identified,
    identify_all,
)
from dtvit_jax.prediction.session import Session

POLL_SECONDS = 2.0

Stamp = tuple[int, int]
"""A file's size and time of its last change, ns."""


@dataclasses.dataclass
class _WatchedFile:
    """A file's stamp, since when it has it (time.monotonic), and its identity once it is steady."""

    stamp: Stamp
    since: float
    identity: InputFile | None = None


class Watch:
    """The files of a folder and how long each has been quiet.

    A file is identified when two polls in a row see it unchanged; a study is quiet when none of its
    files has changed for `quiet_seconds`. Late files give a new answer of the whole study. Hidden
    files and folders are ignored, so that a writer can use a name with a dot until a file is whole.
    """

    def __init__(self, folder: Path, key: bytes, jobs: int, quiet_seconds: float) -> None:
        """Raises InputError where the folder does not exist."""
        if not is_folder(folder):
            raise InputError("the folder to watch does not exist: make it, or give another")
        self._folder, self._key, self._jobs = folder.resolve(), key, jobs
        self._quiet = quiet_seconds
        self._files: dict[str, _WatchedFile] = {}
        self._pseudonyms = Pseudonyms(key)

    def poll(self, now: float) -> tuple[list[StudyFiles], list[InputFile]]:
        """Quiet studies at time `now` (seconds, monotonic), and quiet files that name no study."""
        steady = self._update(now)
        self._identify([path for path in steady if self._files[path].identity is None])
        identities = [file.identity for file in self._files.values() if file.identity]
        studies, strays = group_by_study(identities)
        return (
            [study for study in studies if self._all_quiet(study.files, now)],
            [file for file in strays if self._all_quiet([file], now)],
        )

    def _update(self, now: float) -> list[str]:
        """Reads the folder; returns the files that did not change since the last poll."""
        stamps: dict[str, Stamp] = {}
        for inner in walk(self._folder):
            if not any(part.startswith(".") for part in inner.parts):
                with contextlib.suppress(OSError):  # removed meanwhile
                    status = (self._folder / inner).stat()
                    stamps[str(self._folder / inner)] = (status.st_size, status.st_mtime_ns)
        for path in self._files.keys() - stamps.keys():
            del self._files[path]
        steady = []
        for path, stamp in stamps.items():
            file = self._files.get(path)
            if file is None or file.stamp != stamp:
                self._files[path] = _WatchedFile(stamp, now)
            else:
                steady.append(path)
        return steady

    def _identify(self, paths: list[str]) -> None:
        if not paths:
            return
        tasks = [IdentifyTask(path, self._pseudonyms.file(path), self._key) for path in paths]
        for task, result in identify_all(tasks, self._jobs):
            self._files[task.path].identity = identified(task, result)

    def _all_quiet(self, files: Iterable[InputFile], now: float) -> bool:
        return all(now - self._files[file.path].since >= self._quiet for file in files)


def watch(
    session: Session,
    watched: Watch,
    *,
    poll_seconds: float = POLL_SECONDS,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Answers studies that arrive in the watched folder until `stop()`, or Ctrl-C.

    Raises InputError where OUT can't be written.
    """
    settled: set[StudyFiles] = set()
    while not stop():
        studies, strays = watched.poll(time.monotonic())
        session.answer_new([study for study in studies if study not in settled], strays)
        settled = set(studies)
        time.sleep(poll_seconds)
