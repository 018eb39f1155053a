"""One process at a time in a folder that a command writes to."""

import fcntl
from pathlib import Path
from typing import IO

from data_builder.errors import InputError

_held: dict[Path, IO[str]] = {}


def hold(folder: Path, option: str) -> None:
    """Makes `folder`, if need be, and holds it until this process ends, however it ends.

    Raises InputError, naming `option`, where another process holds it or it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() in _held:
            return
        file = (folder / ".in_use").open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror}: give another {option}"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(
            f"another process is writing to {folder}: wait for it to end, or give another {option}"
        ) from error
    _held[folder.resolve()] = file
