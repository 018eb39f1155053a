"""Received studies on disk, until they are answered and their results sent.

    SPOOL/studies/<study's key>/<image's key>.dcm   as received; names are pseudonyms
    SPOOL/state/<study's key>.json                  which of them were answered, what is to be sent
    SPOOL/incoming/                                 what is being written

Mode 700 throughout. An answered study stays for late images to be read together with it, until it
is too old or its room is needed; one that is not answered, or whose results are not sent, is never
removed.
"""

import contextlib
import dataclasses
import fcntl
import json
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path

from data_builder.errors import InputError
from data_builder.files import DRAFT, make_private, write_private
from data_builder.pseudonyms import Pseudonyms

_SUFFIX = ".dcm"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is taken in, at most: bytes of one object, of a study, of the whole spool; objects of a
    study; associations at a time. `spare_bytes` stay free on the disk.
    """

    object_bytes: int = 512 * 2**20
    study_bytes: int = 4 * 2**30
    study_objects: int = 5000
    spool_bytes: int = 32 * 2**30
    spare_bytes: int = 2**28
    associations: int = 8


class Stored(Enum):
    """What became of an object."""

    NEW = "stored"
    DUPLICATE = "there already"
    NO_ROOM = "past a limit"


class Spool:
    """The spool in `folder`, which no other program works on meanwhile; safe to use from threads.

    keep_seconds: how long an answered study stays. Raises InputError where the folder can't be
    made or is in use.
    """

    def __init__(
        self, folder: Path, key: bytes, limits: Limits, keep_seconds: float = 86400.0
    ) -> None:
        self.limits, self._keep, self._pseudonyms = limits, keep_seconds, Pseudonyms(key)
        self._lock = threading.Lock()
        try:
            make_private(folder)
            self._studies = make_private(folder / "studies")
            self._state = make_private(folder / "state")
            self._incoming = make_private(folder / "incoming")
            self._held = (folder / ".lock").open("w")
        except OSError as error:
            raise InputError(
                f"the spool can't be written ({error.strerror}): give another with --spool"
            ) from error
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._held.close()
            raise InputError(
                "another listener works on the spool: end it, or give another with --spool"
            ) from None
        for place in (self._incoming, self._state):  # what a kill left
            for draft in place.glob(f"{DRAFT}*"):
                draft.unlink()
        self._sizes = {
            study.name: {image.name: image.stat().st_size for image in study.glob(f"*{_SUFFIX}")}
            for study in self._studies.iterdir()
        }
        # Nobody knows how long ago an image came before a restart, so the quiet time starts anew.
        self._arrived = dict.fromkeys(self._sizes, time.monotonic())

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def store(self, data: bytes, study_uid: str, instance_uid: str) -> Stored:
        """Takes in one DICOM file; it is on disk when this returns. Raises OSError."""
        study = self._pseudonyms.study(study_uid)
        name = self._pseudonyms.slice(instance_uid) + _SUFFIX
        with self._lock:
            images = self._sizes.get(study, {})
            if name in images:
                return Stored.DUPLICATE
            if not self._fits(study, images, len(data)):
                return Stored.NO_ROOM
            place = make_private(self._studies / study)
            write_private(place / name, data, self._incoming)
            self._sizes.setdefault(study, {})[name] = len(data)
            self._arrived[study] = time.monotonic()
            return Stored.NEW

    def complete(self, quiet_seconds: float) -> list[Path]:
        """Folders of studies with images not answered, of which none came for the quiet time."""
        now = time.monotonic()
        with self._lock:
            return [
                self._studies / study
                for study in sorted(self._sizes, key=lambda each: self._arrived[each])
                if now - self._arrived[study] >= quiet_seconds and self._waiting(study)
            ]

    def images(self, study: Path) -> list[str]:
        """Names of the images that a study has now."""
        with self._lock:
            return sorted(self._sizes.get(study.name, ()))

    def answered(self, study: Path, images: Iterable[str], objects: Sequence[Path]) -> None:
        """Records that `images` were answered, and that `objects` are to be sent."""
        with self._lock:
            unsent = [*self._read(study.name)["unsent"], *map(str, objects)]
            self._write(study.name, sorted(images), list(dict.fromkeys(unsent)))

    def unsent(self) -> dict[str, list[Path]]:
        """Objects to be sent, by study's key."""
        with self._lock:
            found = {}
            for path in sorted(self._state.glob("*.json")):
                if unsent := self._read(path.stem)["unsent"]:
                    found[path.stem] = [Path(each) for each in unsent]
            return found

    def sent(self, study: str, objects: Iterable[Path]) -> None:
        """Records that `objects` need not be sent any more."""
        done = set(map(str, objects))
        with self._lock:
            state = self._read(study)
            left = [each for each in state["unsent"] if each not in done]
            self._write(study, state["images"], left)

    def expire(self) -> None:
        """Removes studies that were answered and sent longer ago than they are kept."""
        with self._lock:
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
        return bool(self._sizes[study].keys() - set(self._read(study)["images"]))

    def _removable(self) -> list[str]:
        done = [
            study
            for study in self._sizes
            if not self._waiting(study) and not self._read(study)["unsent"]
        ]
        return sorted(done, key=self._answered_at)

    def _answered_at(self, study: str) -> float:
        path = self._state / f"{study}.json"
        return path.stat().st_mtime if path.exists() else 0.0

    def _remove(self, study: str) -> None:
        shutil.rmtree(self._studies / study, ignore_errors=True)
        (self._state / f"{study}.json").unlink(missing_ok=True)
        del self._sizes[study], self._arrived[study]

    def _read(self, study: str) -> dict[str, list[str]]:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self._state / f"{study}.json").read_text())
        return {"images": [], "unsent": []}

    def _write(self, study: str, images: list[str], unsent: list[str]) -> None:
        text = json.dumps({"images": images, "unsent": unsent})
        write_private(self._state / f"{study}.json", text.encode())
