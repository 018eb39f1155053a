"""Lists and hashes files, writes them whole or not at all, and holds folders for one process."""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from data_builder.errors import InputError

DRAFT = ".draft-"
"""How the name of a file that is not whole yet begins."""


def walk(source: Path) -> Iterator[PurePosixPath]:
    """Yields every file under `source` as a path inside it, sorted.

    Links to folders and folders that cannot be listed are yielded too, so that they are listed.
    """
    paths: list[Path] = []

    def add_unlistable(error: OSError) -> None:
        paths.append(Path(error.filename))

    for folder, subfolders, names in os.walk(source, onerror=add_unlistable):
        links = [path for name in subfolders if _is_link(path := Path(folder, name))]
        paths += [Path(folder, name) for name in names] + links
    yield from sorted(PurePosixPath(path.relative_to(source)) for path in paths)


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # a path that is too long: os.walk fails to list it, too
        return False


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; unlike Path.is_dir it is False for a path that is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def size_of(path: Path) -> int:
    """The size of a plain file in bytes; -1 where it is none or can't be reached."""
    try:
        status = path.stat()
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def make_private(folder: Path) -> Path:
    """Makes `folder` with mode 700, or changes an existing one to it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


@contextlib.contextmanager
def draft_of(path: Path, drafts: Path | None = None) -> Iterator[Path]:
    """Yields the path of a draft, which becomes `path` at the end of the block.

    The draft is in the folder `drafts` of the same disk (None: beside `path`), and its name ends as
    that of `path` does, so that libraries that go by the suffix write the right format. Where the
    block raises, Ctrl-C included, the draft is removed and `path` stays as it was.
    """
    draft = (drafts or path.parent) / f"{DRAFT}{os.getpid()}-{threading.get_ident()}-{path.name}"
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes | str) -> None:
    """Writes `path` whole or not at all; text as UTF-8. Raises OSError."""
    with draft_of(path) as draft:
        draft.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all. Raises ValueError where it holds a nan."""
    write_whole(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The text of a CSV file: a line of column names, then one for each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def write_private(path: Path, data: bytes, drafts: Path | None = None) -> None:
    """Writes `path` whole, with mode 600, and on disk when this returns. Raises OSError."""
    with draft_of(path, drafts) as draft:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync(path.parent)


def sync(folder: Path) -> None:
    """Makes sure that the names in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if not lock(file):
        file.close()
        raise InputError(
            f"another process is writing to {folder}: wait for it to end, or give another {option}"
        )
    _held[folder.resolve()] = file


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Locks an open file for this process until it is closed; False where another holds it.

    With `wait` it waits for the other process; False then means that the disk has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
