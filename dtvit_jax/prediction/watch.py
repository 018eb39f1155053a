"""Watches a folder that studies arrive in, and answers each once when it has been quiet."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from data_builder.errors import InputError
from data_builder.files import is_folder, walk
from data_builder.pseudonyms import Pseudonyms
from dtvit_jax.prediction.intake import (
    BUILDER_FILES,
    IdentifyTask,
    InputFile,
    StudyFiles,
    group_by_study,
    identified,
    identify_all,
)
from dtvit_jax.prediction.session import Session

POLL_SECONDS = 2.0

Stamp = tuple[int, ...]
"""A file's size, times of its last change and of its status's, ns, and inode.

The time of the status can't be set, so that a file with other content has another stamp.
"""


@dataclasses.dataclass
class _WatchedFile:
    """A file's stamp, since when it has it (time.monotonic), and the identity read last.

    `read` is whether the identity was read under this stamp; it is once the file is steady.
    """

    stamp: Stamp
    since: float
    identity: InputFile | None = None
    read: bool = False

    @property
    def study(self) -> str:
        """The study's key; empty where none is known."""
        return self.identity.study if self.identity else ""


class Watch:
    """The files of a folder and how long each has been quiet.

    A file is identified when two polls in a row see it unchanged; a study is quiet when none of its
    files has come, changed or gone for `quiet_seconds`. A poll reads no file whose stamp it knows.
    Hidden files and folders are ignored, so that a writer can use a name with a dot until a file is
    whole.
    """

    def __init__(self, folder: Path, key: bytes, jobs: int, quiet_seconds: float) -> None:
        """Raises InputError where the folder does not exist."""
        if not is_folder(folder):
            raise InputError("the folder to watch does not exist: make it, or give another")
        self._folder, self._key, self._jobs = folder.resolve(), key, jobs
        self._quiet = quiet_seconds
        self._files: dict[str, _WatchedFile] = {}
        self._lost_a_file: dict[str, float] = {}  # study -> when (time.monotonic)
        self._pseudonyms = Pseudonyms(key)

    def poll(self, now: float) -> tuple[list[StudyFiles], list[InputFile]]:
        """Quiet studies at time `now` (seconds, monotonic), and quiet files that name no study."""
        steady = self._update(now)
        self._identify([path for path in steady if not self._files[path].read], now)
        identities = [file.identity for file in self._files.values() if file.identity]
        studies, strays = group_by_study(identities)
        return (
            [study for study in studies if self._is_quiet(study, now)],
            [file for file in strays if self._all_quiet([file], now)],
        )

    def _update(self, now: float) -> list[str]:
        """Reads the folder; returns the files that did not change since the last poll."""
        stamps: dict[str, Stamp] = {}
        for inner in walk(self._folder):
            if not any(part.startswith(".") for part in inner.parts):
                with contextlib.suppress(OSError):  # removed meanwhile
                    status = (self._folder / inner).stat()
                    stamps[str(self._folder / inner)] = (
                        status.st_size,
                        status.st_mtime_ns,
                        status.st_ctime_ns,
                        status.st_ino,
                    )
        for path in self._files.keys() - stamps.keys():
            self._lost_a_file[self._files.pop(path).study] = now
        steady = []
        for path, stamp in stamps.items():
            file = self._files.get(path)
            if file is None:
                self._files[path] = _WatchedFile(stamp, now)
            elif file.stamp != stamp:  # it stays one of its study, which waits for it
                self._files[path] = _WatchedFile(stamp, now, file.identity)
            else:
                steady.append(path)
        return steady

    def _identify(self, paths: list[str], now: float) -> None:
        if not paths:
            return
        tasks = [IdentifyTask(path, self._pseudonyms.file(path), self._key) for path in paths]
        for task, result in identify_all(tasks, self._jobs):
            file, identity = self._files[task.path], identified(task, result)
            if file.study != identity.study:
                self._lost_a_file[file.study] = now
            file.identity, file.read = identity, True

    def _is_quiet(self, study: StudyFiles, now: float) -> bool:
        lost_at = self._lost_a_file.get(study.key, -math.inf)
        return now - lost_at >= self._quiet and self._all_quiet(study.files, now)

    def _all_quiet(self, files: Iterable[InputFile], now: float) -> bool:
        return all(
            file.read and now - file.since >= self._quiet
            for file in (self._files[each.path] for each in files)
        )


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
    settled: set[StudyFiles | InputFile] = set()
    while not stop():
        studies, strays = watched.poll(time.monotonic())
        new = [stray for stray in strays if stray not in settled]
        if any(Path(stray.path).name in BUILDER_FILES for stray in new):
            settled = set()  # the tables of cleaned images came, which say what is a phantom
        session.answer_new([study for study in studies if study not in settled], new)
        # What changes is not quiet for a poll at least, and so not settled any more.
        settled = {*studies, *strays}
        time.sleep(poll_seconds)
