"""Remembers for this user where data sets are, outside of every folder that may be shared.

A run's folder names its data set and not the path of it. The paths are in the user's config folder,
beside the key: a file for each data set.
"""

import contextlib
import os
from pathlib import Path

from data_builder.files import make_private, write_private
from data_builder.pseudonyms import config_folder
from data_builder.shards.files import is_data_set


def remember(name: str, folder: Path) -> None:
    """Keeps the path of the data set `name`; where the config folder can't be written, nothing."""
    with contextlib.suppress(OSError):
        config_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(make_private(_folder()) / name, os.fsencode(folder.resolve()))


def recall(name: str) -> Path | None:
    """The folder of the data set `name`; None where it is unknown or there no longer."""
    try:
        folder = Path(os.fsdecode((_folder() / name).read_bytes()))
    except OSError:
        return None
    return folder if is_data_set(folder) else None


def _folder() -> Path:
    return config_folder() / "data_sets"
