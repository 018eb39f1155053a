"""Stores received studies on disk until they are answered and their results sent.

    SPOOL/studies/<study's key>/<image's key>.dcm   files as received, under pseudonyms
    SPOOL/state/<study's key>.json                  which images were answered, which results wait
    SPOOL/incoming/                                 drafts

All folders have mode 700, because files carry identity. An answered study is kept, so that late
images are answered together with it, until it is too old or its room is needed. A study that is not
answered, or whose results are not sent, is never removed.
"""

import contextlib
import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path

from data_builder.errors import InputError
from data_builder.files import DRAFT, lock, make_private, write_private
from data_builder.pseudonyms import Pseudonyms

_SUFFIX = ".dcm"


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that is accepted.

    Attributes:
      object_bytes: of one object.
      study_bytes, study_objects: of one study.
      spool_bytes: of the whole spool.
      spare_bytes: free space that stays on the disk.
      associations: connections at a time.
    """

    object_bytes: int = 512 * 2**20
    study_bytes: int = 4 * 2**30
    study_objects: int = 5000
    spool_bytes: int = 32 * 2**30
    spare_bytes: int = 2**28
    associations: int = 8


class Stored(Enum):
    """The outcome of storing an object."""

    NEW = "stored"
    DUPLICATE = "there already"
    NO_ROOM = "past a limit"


@dataclasses.dataclass(frozen=True)
class _State:
    """A study's state: names of the images answered, paths of the results to be sent."""

    images: list[str] = dataclasses.field(default_factory=list)
    unsent: list[str] = dataclasses.field(default_factory=list)


class Spool:
    """The spool in `folder`, locked against other processes; its methods are thread-safe.

    keep_seconds: how long an answered study is kept. Raises InputError where the folder can't be
    made or is in use.
    """

    def __init__(
        self, folder: Path, key: bytes, limits: Limits, keep_seconds: float = 86400.0
    ) -> None:
        self.limits, self._keep, self._pseudonyms = limits, keep_seconds, Pseudonyms(key)
        self._mutex = threading.Lock()
        try:
            make_private(folder)
            self._studies = make_private(folder / "studies")
            self._state = make_private(folder / "state")
            self._incoming = make_private(folder / "incoming")
            self._lock = (folder / ".lock").open("w")
        except OSError as error:
            raise InputError(
                f"the spool can't be written ({error.strerror}): give another with --spool"
            ) from error
        if not lock(self._lock):
            self._lock.close()
            raise InputError(
                "another listener works on the spool: end it, or give another with --spool"
            )
        for drafts in (self._incoming, self._state):  # of a process that was killed
            for draft in drafts.glob(f"{DRAFT}*"):
                draft.unlink()
        self._sizes = {
            study.name: {image.name: image.stat().st_size for image in study.glob(f"*{_SUFFIX}")}
            for study in self._studies.iterdir()
        }
        # Arrival times before a restart are not known, so the quiet time starts anew.
        self._arrived = dict.fromkeys(self._sizes, time.monotonic())

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def store(self, data: bytes, study_uid: str, instance_uid: str) -> Stored:
        """Stores one DICOM file; it is on disk when this returns. Raises OSError."""
        study = self._pseudonyms.study(study_uid)
        name = self._pseudonyms.slice(instance_uid) + _SUFFIX
        with self._mutex:
            images = self._sizes.get(study, {})
            if name in images:
                return Stored.DUPLICATE
            if not self._fits(study, images, len(data)):
                return Stored.NO_ROOM
            write_private(make_private(self._studies / study) / name, data, self._incoming)
            self._sizes.setdefault(study, {})[name] = len(data)
            self._arrived[study] = time.monotonic()
            return Stored.NEW

    def complete(self, quiet_seconds: float) -> list[Path]:
        """Folders of studies with unanswered images and no new one for `quiet_seconds`."""
        now = time.monotonic()
        with self._mutex:
            return [
                self._studies / study
                for study in sorted(self._sizes, key=lambda each: self._arrived[each])
                if now - self._arrived[study] >= quiet_seconds and self._waiting(study)
            ]

    def images(self, study: Path) -> list[str]:
        """Names of the images of a study."""
        with self._mutex:
            return sorted(self._sizes.get(study.name, ()))

    def answered(self, study: Path, images: Iterable[str], objects: Sequence[Path]) -> None:
        """Records that `images` were answered, and that `objects` are to be sent."""
        with self._mutex:
            unsent = [*self._read(study.name).unsent, *map(str, objects)]
            self._write(study.name, _State(sorted(images), list(dict.fromkeys(unsent))))

    def unsent(self) -> dict[str, list[Path]]:
        """Objects to be sent, by study's key."""
        with self._mutex:
            states = {path.stem: self._read(path.stem) for path in self._state.glob("*.json")}
            return {
                study: [Path(each) for each in states[study].unsent]
                for study in sorted(states)
                if states[study].unsent
            }

    def sent(self, study: str, objects: Iterable[Path]) -> None:
        """Records that `objects` need not be sent any more."""
        done = set(map(str, objects))
        with self._mutex:
            state = self._read(study)
            unsent = [each for each in state.unsent if each not in done]
            self._write(study, dataclasses.replace(state, unsent=unsent))

    def expire(self) -> None:
        """Removes studies that were answered and sent more than `keep_seconds` ago."""
        with self._mutex:
            for study in self._removable():
                if time.time() - self._answered_at(study) > self._keep:
                    self._remove(study)

    def _fits(self, study: str, images: dict[str, int], size: int) -> bool:
        limits = self.limits
        if size > limits.object_bytes or len(images) >= limits.study_objects:
            return False
        if sum(images.values()) + size > limits.study_bytes:
            return False
        if self._has_room(size):
            return True
        for oldest in self._removable():
            if oldest != study:
                self._remove(oldest)
                if self._has_room(size):
                    return True
        return False

    def _has_room(self, size: int) -> bool:
        held = sum(sum(each.values()) for each in self._sizes.values())
        free = shutil.disk_usage(self._incoming).free
        return held + size <= self.limits.spool_bytes and size + self.limits.spare_bytes <= free

    def _waiting(self, study: str) -> bool:
        return bool(self._sizes[study].keys() - set(self._read(study).images))

    def _removable(self) -> list[str]:
        done = [
            study
            for study in self._sizes
            if not self._waiting(study) and not self._read(study).unsent
        ]
        return sorted(done, key=self._answered_at)

    def _answered_at(self, study: str) -> float:
        path = self._state / f"{study}.json"
        return path.stat().st_mtime if path.exists() else 0.0

    def _remove(self, study: str) -> None:
        shutil.rmtree(self._studies / study, ignore_errors=True)
        (self._state / f"{study}.json").unlink(missing_ok=True)
        del self._sizes[study], self._arrived[study]

    def _read(self, study: str) -> _State:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return _State(**json.loads((self._state / f"{study}.json").read_text()))
        return _State()

    def _write(self, study: str, state: _State) -> None:
        text = json.dumps(dataclasses.asdict(state))
        write_private(self._state / f"{study}.json", text.encode())
