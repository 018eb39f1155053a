"""Makes keyed pseudonyms for people, studies and files, and keeps the private lookup of them.

A pseudonym is the HMAC-SHA256 of an identity under a key that stays at the site. Without the key a
guess at a name cannot be tested; with it, a person has the same pseudonym in every run.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_builder.errors import InputError
from data_builder.files import DRAFT, sha256_of, write_private

PUBLIC_KEY = b"dtvit-jax: the public key, for phantoms and tests only"
"""Not a secret: a pseudonym under this key can be reversed by guessing."""

_BYTES_OF_DIGEST = 10  # 80 bits, 16 base32 letters: 10 million slices collide with chance 10^-10
_SHORTEST_KEY = 16
_LOOKUP = ".lookup.sqlite"


class Pseudonyms:
    """Makes pseudonyms under one key; equal identities of two kinds get different pseudonyms."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def subject(self, identity: str) -> str:
        """'sub-' and 16 letters, for a person."""
        return self._make("sub", identity)

    def study(self, uid: str) -> str:
        """'stu-' and 16 letters, for a Study Instance UID (0020,000D)."""
        return self._make("stu", uid)

    def series(self, uid: str) -> str:
        """'ser-' and 16 letters, for a Series Instance UID (0020,000E)."""
        return self._make("ser", uid)

    def slice(self, identity: str) -> str:
        """'sli-' and 16 letters, for an image: `Header.slice_identity`, or a SOP Instance UID."""
        return self._make("sli", identity)

    def file(self, relative_path: str) -> str:
        """'fil-' and 16 letters, for a file by its path inside the source."""
        return self._make("fil", relative_path)

    def scanner(self, model: str) -> str:
        """'scn-' and 16 letters, for a scanner's make and model, which are free texts."""
        return self._make("scn", model)

    def content(self, path: Path) -> str:
        """'con-' and 16 letters, for the bytes of a plain file; empty where they can't be read.

        Unlike a bare hash, it cannot confirm a guessed content to anybody without the key.
        """
        with contextlib.suppress(OSError):
            if path.is_file():  # reading a pipe or a device would not end
                return self._make("con", sha256_of(path))
        return ""

    def _make(self, kind: str, identity: str) -> str:
        text = f"{kind}\0{identity}".encode("utf-8", "surrogateescape")
        digest = hmac.digest(self._key, text, "sha256")[:_BYTES_OF_DIGEST]
        return f"{kind}-{base64.b32encode(digest).decode().lower()}"


def load_key(name: str | None) -> bytes:
    """Reads a key: 'public' is PUBLIC_KEY, None the user's own key, else the path of a key file.

    Makes a missing key file with a random key and mode 600. Raises InputError where the file
    cannot be read or made, or holds fewer than 16 bytes.
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
            f"the key file cannot be read or made ({error.strerror}): give another with --key"
        ) from error
    if len(key) < _SHORTEST_KEY:
        raise InputError(
            f"the key file holds {len(key)} bytes, at least {_SHORTEST_KEY} are needed: "
            "give another with --key, or remove it to have a new one made"
        )
    return key


def check_key_place(name: str | None, folders: Mapping[str, Path | None]) -> None:
    """Raises InputError where a key, existing or to be made, is inside a folder that may be shared.

    name: as for `load_key`. folders: by the name of their option; None: not given.
    """
    for what, path in (("key", key_path(name)), ("key's lookup", lookup_path(name))):
        for option, folder in folders.items():
            if path and folder and path.resolve().is_relative_to(folder.resolve()):
                raise InputError(
                    f"the {what} is inside {option}, and would be shared with it: keep the key "
                    "elsewhere"
                )


def public_key_refused(source: str) -> InputError:
    """The error for the public key where `source` is not marked as phantoms."""
    return InputError(
        f"the key 'public' is for phantoms, and {source} is not marked as one: whoever guesses a "
        "name or number could check it; without --key (in training: with an empty "
        "--config.data.key=) a secret key is made"
    )


def key_path(name: str | None) -> Path | None:
    """The path of the key file that `name` means; None for the public key, which has none."""
    if name == "public":
        return None
    if name is not None:
        return Path(name).expanduser()
    return config_folder() / "key"


def config_folder() -> Path:
    """The user's folder for the key and other private files: never shared, never in an output."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "dtvit"


def lookup_path(name: str | None) -> Path | None:
    """The path of a key's lookup; None for the public key.

    `<key>.lookup.sqlite`, beside the key. Where that can't be written, such as beside a mounted
    secret, it is in the user's config folder, under 16 digits of the key's SHA-256.
    """
    path = key_path(name)
    if path is None:
        return None
    beside, other = lookup_places(path)
    writable = os.access(path.parent, os.W_OK)
    if beside.exists():  # SQLite writes to the folder too
        writable = writable and os.access(beside, os.W_OK)
    return beside if writable else other


def lookup_places(key_file: Path) -> tuple[Path, Path]:
    """Where the lookup of an existing key may be: beside it, and in the user's config folder."""
    beside = key_file.with_name(key_file.name + _LOOKUP)
    try:
        digest = hashlib.sha256(key_file.read_bytes().strip()).hexdigest()
    except OSError:  # no key yet
        return beside, beside
    return beside, config_folder() / f"{digest[:16]}{_LOOKUP}"


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    write_private(draft, (secrets.token_hex(32) + "\n").encode())
    # A link fails where another process has made the file: both then use that one's key.
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


class Lookup:
    """The table of pseudonyms and their meanings, private: mode 600, at `lookup_path`.

    Its methods raise InputError where the file is damaged or can't be read or written.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        mode = "ro" if read_only else "rw"
        address = f"file:{urllib.parse.quote(os.fsencode(path.absolute()))}?mode={mode}"
        with _lookup_errors():
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(address, timeout=60, uri=True)
            if read_only:
                return
            with self._database:
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS meanings "
                    "(pseudonym TEXT, meaning TEXT, PRIMARY KEY (pseudonym, meaning)) WITHOUT ROWID"
                )

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Stores pairs of a pseudonym and its meaning, each once."""
        readable = [
            (pseudonym, meaning.encode("utf-8", "backslashreplace").decode())
            for pseudonym, meaning in pairs
        ]
        with _lookup_errors(), self._database:
            self._database.executemany("INSERT OR IGNORE INTO meanings VALUES (?, ?)", readable)

    def find(self, pseudonym: str) -> list[str]:
        """All meanings of a pseudonym, sorted; empty where it is unknown."""
        with _lookup_errors():
            rows = self._database.execute(
                "SELECT meaning FROM meanings WHERE pseudonym = ? ORDER BY meaning", (pseudonym,)
            )
            return [meaning for (meaning,) in rows]

    def close(self) -> None:
        """Closes the database."""
        self._database.close()


@contextlib.contextmanager
def _lookup_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"the lookup of pseudonyms, beside the key, can't be read or written ({reason}): mend "
            "that, or give another --key"
        ) from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"the lookup of pseudonyms, beside the key, is damaged ({error}): restore it, or move "
            "it away, and what is done from then on is in a new one"
        ) from error
