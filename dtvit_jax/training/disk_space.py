"""Reports a full disk in one line, before or instead of a library's traceback."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_builder.errors import InputError

OUT_OF_SPACE = ("No space left", "ENOSPC", "Disk quota exceeded", "EDQUOT")
"""Words in the errors of Orbax and of the system when a disk is full."""


def check_room(workdir: Path, needed: int) -> None:
    """Raises InputError where the disk of `workdir` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise InputError(
            f"the disk of {workdir} has {free / 1e6:,.1f} MB left and a checkpoint may take "
            f"{needed / 1e6:,.1f}: what was saved before is whole; make room and give the same "
            "command"
        )


@contextmanager
def saying_disk_full(workdir: Path) -> Iterator[None]:
    """Raises InputError in place of an error that a full disk caused."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError) or not any(word in str(error) for word in OUT_OF_SPACE):
            raise
        raise InputError(
            f"the disk of {workdir} is full: what was saved before is whole; make room and give "
            "the same command"
        ) from error
