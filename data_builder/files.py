"""Folders and files for their owner alone, written whole or not at all.

One process at a time in a folder that a command writes to.
"""

import contextlib
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import IO, Any

from data_builder.errors import InputError

DRAFT = ".draft-"
"""How the name of a file that is not whole yet begins."""


def make_private(folder: Path) -> Path:
    """Makes `folder` with mode 700, or makes an old one so; its parents as they come."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


def write_private(path: Path, data: bytes, drafts: Path | None = None) -> None:
    """Writes `path` with mode 600: on disk when this returns, never there in part.

    It is written in the folder `drafts` of the same disk first (None: beside `path`). Raises
    OSError; nothing is left behind then.
    """
    draft = (drafts or path.parent) / f"{DRAFT}{os.getpid()}-{threading.get_ident()}-{path.name}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_metrics(path: str | os.PathLike[str], result: dict[str, Any]) -> None:
    """Writes metrics.json whole or not at all; there is no nan in it."""
    path = Path(path)
    partial_path = path.with_name(path.name + ".part")
    partial_path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial_path.replace(path)


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
