"""A full disk in plain words."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_builder.errors import InputError

OUT_OF_SPACE = ("No space left", "ENOSPC", "Disk quota exceeded", "EDQUOT")
"""What Orbax's and the system's errors say then."""


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
    """Raises InputError instead of what is raised where the disk is full."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError) or not any(word in str(error) for word in OUT_OF_SPACE):
            raise
        raise InputError(
            f"the disk of {workdir} is full: what was saved before is whole; make room and give "
            "the same command"
        ) from error
