"""Folders and files for their owner alone, written whole or not at all."""

import contextlib
import os
import threading
from pathlib import Path

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
