"""Keyed pseudonyms for people, studies and files, and the private way back from them.

A pseudonym is HMAC-SHA256 of an identity under a key that the site keeps. Without the key nobody
can test a guess at a name; with it, the same person gets the same pseudonym in every run.
"""

import base64
import contextlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from data_builder.errors import InputError

PUBLIC_KEY = b"dtvit-jax: the public key, for phantoms and tests only"
"""Not a secret: pseudonyms under it can be undone by guessing."""

_BYTES_OF_DIGEST = 10  # 80 bits, 16 base32 letters: a clash among 10 million slices is 1 in 10^10
_SHORTEST_KEY = 16


class Pseudonyms:
    """Pseudonyms under one key; each kind has its own domain, so equal identities do not meet."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def subject(self, identity: str) -> str:
        """'sub-' and 16 letters for a person."""
        return self._make("sub", identity)

    def study(self, uid: str) -> str:
        """'stu-' and 16 letters for one visit's scan."""
        return self._make("stu", uid)

    def series(self, uid: str) -> str:
        """'ser-' and 16 letters for one series of a study."""
        return self._make("ser", uid)

    def slice(self, identity: str) -> str:
        """'sli-' and 16 letters for one image."""
        return self._make("sli", identity)

    def file(self, relative_path: str) -> str:
        """'fil-' and 16 letters for a file, by its path inside the source."""
        return self._make("fil", relative_path)

    def scanner(self, model: str) -> str:
        """'scn-' and 16 letters for a scanner's make and model, which are free texts."""
        return self._make("scn", model)

    def _make(self, kind: str, identity: str) -> str:
        text = f"{kind}\0{identity}".encode("utf-8", "surrogateescape")
        digest = hmac.digest(self._key, text, "sha256")[:_BYTES_OF_DIGEST]
        return f"{kind}-{base64.b32encode(digest).decode().lower()}"


def load_key(name: str | None) -> bytes:
    """The key that `name` stands for: 'public' is PUBLIC_KEY, None the user's own, else a path.

    A key file that does not exist yet is made, with a random key and mode 600. Raises InputError
    where it can't be read or made, or holds fewer than 16 bytes.
    """
    path = key_path(name)
    if path is None:
        return PUBLIC_KEY
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise InputError(
            f"the key file can't be read or made ({error.strerror}): give another with --key"
        ) from error
    if len(key) < _SHORTEST_KEY:
        raise InputError(
            f"the key file holds {len(key)} bytes, {_SHORTEST_KEY} is the least: "
            "give another with --key, or remove it and a new one is made"
        )
    return key


def key_path(name: str | None) -> Path | None:
    """Where the key called `name` lies; None for the public one, which lies nowhere."""
    if name == "public":
        return None
    if name is not None:
        return Path(name).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "dtvit" / "key"


def lookup_path(name: str | None) -> Path | None:
    """Where the lookup of the key called `name` lies: beside it, as `<key>.lookup.sqlite`."""
    path = key_path(name)
    return None if path is None else path.with_name(path.name + ".lookup.sqlite")


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    # A link fails where another process was first; its key then holds for both.
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


class Lookup:
    """The way back from a pseudonym to what it stands for. Private: mode 600, beside the key."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        self._database = sqlite3.connect(path, timeout=60)
        with self._database:
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS meanings "
                "(pseudonym TEXT, meaning TEXT, PRIMARY KEY (pseudonym, meaning)) WITHOUT ROWID"
            )

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Stores pairs of a pseudonym and what it stands for; known ones are left as they are."""
        readable = [(one, two.encode("utf-8", "backslashreplace").decode()) for one, two in pairs]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO meanings VALUES (?, ?)", readable)

    def find(self, pseudonym: str) -> list[str]:
        """All that `pseudonym` stands for, sorted; empty where it is unknown."""
        rows = self._database.execute(
            "SELECT meaning FROM meanings WHERE pseudonym = ? ORDER BY meaning", (pseudonym,)
        )
        return [meaning for (meaning,) in rows]

    def close(self) -> None:
        """Closes the database."""
        self._database.close()
