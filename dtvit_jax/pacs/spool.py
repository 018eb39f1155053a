"""Stores received studies on disk until they are answered and their results sent.

    SPOOL/studies/<study's key>/<image's key>.dcm   files as received, under pseudonyms
    SPOOL/state/<study's key>.json                  which images were answered, which results wait
    SPOOL/incoming/                                 drafts

All folders have mode 700, because files carry identity. An image is known by its name and the
SHA-256 of its file: a newer one of the same name and other bytes takes its place, and the study is
answered again. An answered study is kept, so that late images are answered together with it, until
it is too old or its room is needed. A study that is not answered, or whose results are not sent, is
never removed.
"""

import dataclasses
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from data_builder.errors import InputError
from data_builder.files import DRAFT, lock, make_private, sha256_of, sync
from data_builder.pseudonyms import Pseudonyms
from dtvit_jax.pacs.states import State, States

_SUFFIX = ".dcm"


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that is accepted.

    Attributes:
      object_bytes: of one object.
      study_bytes, study_objects: of one study.
      spool_bytes: of the whole spool.
      spare_bytes: free space that stays on the disk.
      incoming_bytes: of all objects that are arriving, beside those of the spool.
    """

    object_bytes: int = 512 * 2**20
    study_bytes: int = 4 * 2**30
    study_objects: int = 5000
    spool_bytes: int = 32 * 2**30
    spare_bytes: int = 2**28
    incoming_bytes: int = 2**31


class Stored(Enum):
    """The outcome of storing an object."""

    NEW = "stored"
    DUPLICATE = "there already"
    REPLACED = "stored in the place of another of the same UID"
    NO_ROOM = "past a limit"


class _Image(NamedTuple):
    size: int
    digest: str


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
            states = make_private(folder / "state")
            self.incoming = make_private(folder / "incoming")
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
        for drafts in (self.incoming, states):  # of a process that was killed
            for draft in drafts.glob(f"{DRAFT}*"):
                draft.unlink()
        self._states = States(states, self._studies)
        self._held = {
            study.name: {image.name: self._image(image) for image in study.glob(f"*{_SUFFIX}")}
            for study in self._studies.iterdir()
        }
        # Arrival times before a restart are not known, so the quiet time starts anew.
        self._arrived = dict.fromkeys(self._held, time.monotonic())

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def store(self, draft: Path, study_uid: str, instance_uid: str) -> Stored:
        """Moves a draft from `incoming` to its study, unless it is there or there is no room.

        It is on disk when this returns. Raises OSError.
        """
        study = self._pseudonyms.study(study_uid)
        name = self._pseudonyms.slice(instance_uid) + _SUFFIX
        image = _Image(draft.stat().st_size, sha256_of(draft))
        with self._mutex:
            images = self._held.get(study, {})
            before = images.get(name)
            if before == image:
                return Stored.DUPLICATE
            if not self._fits(study, {**images, name: image}):
                return Stored.NO_ROOM
            if name in self._states[study].images:  # first: a state is true after a crash, too
                self._states.write(study, self._states[study].without(name))
            sync(draft)
            draft.replace(make_private(self._studies / study) / name)
            sync(self._studies / study)
            if not images:
                sync(self._studies)
            self._held.setdefault(study, {})[name] = image
            self._arrived[study] = time.monotonic()
            return Stored.REPLACED if before else Stored.NEW

    def can_receive(self) -> bool:
        """Whether the disk has room for drafts to grow; answered studies are removed for it."""
        if self._free() > self.limits.spare_bytes // 2:  # the rest of it decides in `store`
            return True
        with self._mutex:
            return self._make_room(0)

    def complete(self, quiet_seconds: float) -> list[Path]:
        """Folders of studies with unanswered images and no new one for `quiet_seconds`."""
        now = time.monotonic()
        with self._mutex:
            return [
                self._studies / study
                for study in sorted(self._held, key=lambda each: self._arrived[each])
                if now - self._arrived[study] >= quiet_seconds and self._waiting(study)
            ]

    def images(self, study: Path) -> dict[str, str]:
        """Digests of the images of a study, by their names in the order of names."""
        with self._mutex:
            return self._digests(study.name)

    def answered(self, study: Path, images: Mapping[str, str], objects: Sequence[Path]) -> None:
        """Records that `images` were answered, and that `objects` are to be sent.

        An image that was replaced since is not recorded.
        """
        with self._mutex:
            current = self._digests(study.name)
            kept = {name: digest for name, digest in images.items() if current.get(name) == digest}
            unsent = [*self._states[study.name].unsent, *map(str, objects)]
            self._states.write(study.name, State(kept, list(dict.fromkeys(unsent))))

    def unsent(self) -> dict[str, list[Path]]:
        """Objects to be sent, by study's key."""
        with self._mutex:
            return {
                study: [Path(each) for each in state.unsent]
                for study, state in self._states.items()
                if state.unsent
            }

    def sent(self, study: str, objects: Iterable[Path]) -> None:
        """Records that `objects` need not be sent any more."""
        done = set(map(str, objects))
        with self._mutex:
            state = self._states[study]
            unsent = [each for each in state.unsent if each not in done]
            self._states.write(study, dataclasses.replace(state, unsent=unsent))

    def expire(self) -> None:
        """Removes studies that were answered and sent more than `keep_seconds` ago."""
        with self._mutex:
            for study in self._removable():
                if time.time() - self._states.written_at(study) > self._keep:
                    self._remove(study)

    def _fits(self, study: str, images: dict[str, _Image]) -> bool:
        limits, sizes = self.limits, [image.size for image in images.values()]
        if max(sizes) > limits.object_bytes or len(sizes) > limits.study_objects:
            return False
        if sum(sizes) > limits.study_bytes:
            return False
        held = sum(image.size for image in self._held.get(study, {}).values())
        return self._make_room(sum(sizes) - held, study)

    def _make_room(self, size: int, keep: str = "") -> bool:
        """Removes finished studies, the oldest first, until `size` bytes more may be held."""
        if self._has_room(size):
            return True
        for oldest in self._removable():
            if oldest != keep:
                self._remove(oldest)
                if self._has_room(size):
                    return True
        return False

    def _has_room(self, size: int) -> bool:
        held = sum(image.size for each in self._held.values() for image in each.values())
        # A draft is on the disk already.
        return held + size <= self.limits.spool_bytes and self._free() >= self.limits.spare_bytes

    def _free(self) -> int:
        return shutil.disk_usage(self.incoming).free

    def _image(self, file: Path) -> _Image:
        known = self._states[file.parent.name].images.get(file.name)
        return _Image(file.stat().st_size, known or sha256_of(file))

    def _digests(self, study: str) -> dict[str, str]:
        return {name: image.digest for name, image in sorted(self._held.get(study, {}).items())}

    def _waiting(self, study: str) -> bool:
        answered = self._states[study].images
        return any(answered.get(name) != image.digest for name, image in self._held[study].items())

    def _removable(self) -> list[str]:
        done = [
            study
            for study in self._held
            if not self._waiting(study) and not self._states[study].unsent
        ]
        return sorted(done, key=self._states.written_at)

    def _remove(self, study: str) -> None:
        shutil.rmtree(self._studies / study, ignore_errors=True)
        self._states.remove(study)
        del self._held[study], self._arrived[study]
