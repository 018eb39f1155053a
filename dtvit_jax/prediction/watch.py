"""A folder that is being fed: each study is answered once, when it has been quiet for a while."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from data_builder.cleaning.clean_folder import walk
from data_builder.errors import InputError
from data_builder.parallel.processes import InOrder, Lost
from data_builder.pseudonyms import Pseudonyms
from dtvit_jax.prediction.intake import (
    SECONDS_TO_LOOK,
    Found,
    Look,
    StudyFiles,
    group,
    look,
    unseen,
)
from dtvit_jax.prediction.session import Session
from dtvit_jax.prediction.study_folder import Finished

QUIET_SECONDS = 30.0
POLL_SECONDS = 2.0

Stamp = tuple[int, int]
"""A file's size and time of change."""


@dataclasses.dataclass
class _Seen:
    """A file's stamp, since when (time.monotonic) it has it, and what a look at it then told."""

    stamp: Stamp
    since: float
    found: Found | None = None


class Watch:
    """The files of a folder and how long they have been quiet.

    A file is looked at when two polls in a row find it unchanged; a study is quiet when none of its
    files has changed for `quiet_seconds`. Files that come later make a new answer of the whole
    study. Hidden files and folders are left alone, so that
    what is being written can have a name with a dot until it is whole.
    """

    def __init__(self, folder: Path, key: bytes, jobs: int, quiet_seconds: float) -> None:
        """Raises InputError where the folder does not exist."""
        if not folder.is_dir():
            raise InputError("the folder to watch does not exist: make it, or give another")
        self._folder, self._key, self._jobs = folder.resolve(), key, jobs
        self._quiet = quiet_seconds
        self._files: dict[str, _Seen] = {}
        self._pseudonyms = Pseudonyms(key)

    def poll(self, now: float) -> tuple[list[StudyFiles], list[Found]]:
        """Studies that are quiet at time `now` (seconds, monotonic), and quiet files of none."""
        steady = self._update(now)
        self._look([path for path in steady if self._files[path].found is None])
        looked = [seen.found for seen in self._files.values() if seen.found]
        studies, strays = group(looked)
        return (
            [study for study in studies if self._all_quiet(study.files, now)],
            [found for found in strays if self._all_quiet([found], now)],
        )

    def _update(self, now: float) -> list[str]:
        """Takes in what the folder holds; the files that are as the last poll found them."""
        there: dict[str, Stamp] = {}
        for inner in walk(self._folder):
            if not any(part.startswith(".") for part in inner.parts):
                with contextlib.suppress(OSError):  # gone meanwhile
                    state = (self._folder / inner).stat()
                    there[str(self._folder / inner)] = (state.st_size, state.st_mtime_ns)
        for path in self._files.keys() - there.keys():
            del self._files[path]
        steady = []
        for path, stamp in there.items():
            seen = self._files.get(path)
            if seen is None or seen.stamp != stamp:
                self._files[path] = _Seen(stamp, now)
            else:
                steady.append(path)
        return steady

    def _look(self, paths: list[str]) -> None:
        looks = [Look(path, self._pseudonyms.file(path), self._key) for path in sorted(paths)]
        if not looks:
            return
        for task, at in InOrder(looks, look, self._jobs, lambda _: SECONDS_TO_LOOK):
            self._files[task.path].found = unseen(task) if isinstance(at, Lost) else at

    def _all_quiet(self, files: Iterable[Found], now: float) -> bool:
        return all(now - self._files[found.path].since >= self._quiet for found in files)


def watch(
    session: Session,
    watched: Watch,
    on_finished: Callable[[Finished], None],
    *,
    poll_seconds: float = POLL_SECONDS,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Answers what comes into the watched folder until `stop()`, or Ctrl-C.

    on_finished: called after a study is on disk, at least once for each answer: after a kill
    between the two it is called when the program runs again. `Finished.sources` are its files; the
    callback may remove them. Raises InputError where OUT can't be written.
    """
    settled: set[StudyFiles] = set()
    while not stop():
        studies, strays = watched.poll(time.monotonic())
        new = [study for study in studies if study not in settled]
        session.answer_quiet(new, strays, on_finished)
        settled = set(studies)
        time.sleep(poll_seconds)
