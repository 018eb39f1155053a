"""Keeps each study's state on disk: the images that were answered, and the results to be sent."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from data_builder.files import sha256_of, write_private


@dataclasses.dataclass(frozen=True)
class State:
    """A study's state: digests of the images answered, by name; paths of the results to be sent."""

    images: dict[str, str] = dataclasses.field(default_factory=dict)
    unsent: list[str] = dataclasses.field(default_factory=list)

    def without(self, image: str) -> "State":
        """This state, had the image not been answered."""
        images = {name: digest for name, digest in self.images.items() if name != image}
        return dataclasses.replace(self, images=images)


class States:
    """The states in `folder`, by study's key; a file for each. `studies` holds the images."""

    def __init__(self, folder: Path, studies: Path) -> None:
        self._folder = folder
        self._states = {path.stem: _read(path, studies) for path in folder.glob("*.json")}

    def __getitem__(self, study: str) -> State:
        """The state of any study."""
        return self._states.get(study, State())

    def items(self) -> Iterable[tuple[str, State]]:
        """The studies that have a state, in the order of their keys."""
        return sorted(self._states.items(), key=lambda item: item[0])

    def write(self, study: str, state: State) -> None:
        """Replaces a state, also on disk. Raises OSError."""
        text = json.dumps(dataclasses.asdict(state))
        write_private(self._path(study), text.encode())
        self._states[study] = state

    def written_at(self, study: str) -> float:
        """When a state was written last, in seconds of the epoch; 0 where there is none."""
        path = self._path(study)
        return path.stat().st_mtime if path.exists() else 0.0

    def remove(self, study: str) -> None:
        """Removes a state."""
        self._path(study).unlink(missing_ok=True)
        self._states.pop(study, None)

    def _path(self, study: str) -> Path:
        return self._folder / f"{study}.json"


def _read(path: Path, studies: Path) -> State:
    """Reads a state; an empty one, so that the study is answered again, where it can't be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        state = json.loads(path.read_text())
        if isinstance(state["images"], list):
            # Written by a version that had no digests, and never replaced an image.
            files = [studies / path.stem / name for name in state["images"]]
            state["images"] = {file.name: sha256_of(file) for file in files if file.exists()}
        return State(**state)
    return State()
