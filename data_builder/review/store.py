"""Decisions on disk: SQLite, each one appended, none ever changed or removed.

A decision is on disk (WAL, synchronous=FULL) before `append` returns, so what a page shows as
saved outlives a kill. Settled decisions are everyone's: they have a state of their own.
"""

import datetime
import re
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_builder.errors import InputError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  action TEXT NOT NULL,    -- what one key or click did; ranges are several rows
  at TEXT NOT NULL,        -- UTC
  reader TEXT NOT NULL,
  settles INTEGER NOT NULL,
  target TEXT NOT NULL,    -- key of a slice or study; empty for an event
  field TEXT NOT NULL,
  value TEXT NOT NULL,
  before TEXT NOT NULL,
  undoes TEXT              -- the action that this one takes back
);
CREATE INDEX IF NOT EXISTS latest ON decisions (settles, reader, target, field, id, value);
CREATE INDEX IF NOT EXISTS by_target ON decisions (target);
CREATE INDEX IF NOT EXISTS by_action ON decisions (action);
CREATE TRIGGER IF NOT EXISTS no_change BEFORE UPDATE ON decisions
  BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END;
CREATE TRIGGER IF NOT EXISTS no_removal BEFORE DELETE ON decisions
  BEGIN SELECT RAISE(ABORT, 'decisions are only appended'); END;
"""
_COLUMNS = "id, action, at, reader, settles, target, field, value, before, undoes"
_SECONDS_FOR_A_LOCK = 60
_READER = re.compile(r"[^\W_][\w .'-]{0,39}")


class Change(NamedTuple):
    """What to set: one field of a slice or a study (or of nothing: an event)."""

    target: str
    field: str
    value: str


class Decision(NamedTuple):
    """A row of the store: who set what, when, and what it was before."""

    id: int
    action: str
    at: str
    reader: str
    settles: int
    target: str
    field: str
    value: str
    before: str
    undoes: str | None


def reader_name(text: str) -> str:
    """The name without spaces around it. Raises InputError where it can't be one."""
    name = " ".join(text.split())
    if not _READER.fullmatch(name):
        raise InputError(
            "a reader's name is 1 to 40 letters, digits, spaces and . ' -, and starts with a "
            "letter or digit: initials will do"
        )
    return name


class Store:
    """The decisions of one folder. Safe for many threads and many processes."""

    def __init__(self, path: Path) -> None:
        """Raises InputError where the file can't be made, or is something else."""
        self._path, self._own = path, threading.local()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = self._database()
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"{path.parent.name}/{path.name} can't be opened for writing "
                f"({type(error).__name__}): mend its rights, or move it away"
            ) from error

    def _database(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self._own, "database", None)
        if found is None:
            found = sqlite3.connect(self._path, timeout=_SECONDS_FOR_A_LOCK, isolation_level=None)
            found.execute("PRAGMA synchronous=FULL")
            self._own.database = found
        return found

    def append(
        self, reader: str, action: str, changes: Sequence[Change], settles: bool = False
    ) -> list[Decision]:
        """Puts one action's changes on disk, all or none; those that change nothing are left out.

        An action that is there already is not done twice: its decisions are returned.
        """
        with _Transaction(self._database()) as database:
            if self._known(action):
                return self._of_action(reader, action)
            for change in dict.fromkeys(changes):
                self._insert(database, reader, action, change, settles, None)
            return self._of_action(reader, action)

    def undo(self, reader: str, action: str, settles: bool = False) -> list[Decision]:
        """Takes back the reader's last action that stands, by appending what was before.

        A field that someone else has set since is left as it is. Empty where there is nothing.
        """
        with _Transaction(self._database()) as database:
            if self._known(action):
                return self._of_action(reader, action)
            last = database.execute(
                "SELECT action FROM decisions WHERE reader = ? AND settles = ? AND undoes IS NULL "
                "AND target != '' AND action NOT IN (SELECT undoes FROM decisions WHERE "
                "reader = ? AND undoes IS NOT NULL) ORDER BY id DESC LIMIT 1",
                (reader, int(settles), reader),
            ).fetchone()
            if last is None:
                return []
            for row in self._of_action(reader, last[0]):
                if self._now(database, reader, row, settles) == row.value:
                    change = Change(row.target, row.field, row.before)
                    self._insert(database, reader, action, change, settles, last[0])
            done = self._of_action(reader, action)
            if not done:  # all of it was overruled: the record still says that it was undone
                event = Change("", "undo", "1")
                self._insert(database, reader, action, event, settles, last[0])
            return done

    def _insert(
        self,
        database: sqlite3.Connection,
        reader: str,
        action: str,
        change: Change,
        settles: bool,
        undoes: str | None,
    ) -> None:
        before = self._now(database, reader, change, settles)
        if before != change.value or not change.target:
            at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            row = (action, at, reader, int(settles), *change, before, undoes)
            database.execute(
                f"INSERT INTO decisions ({_COLUMNS.removeprefix('id, ')}) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    @staticmethod
    def _now(
        database: sqlite3.Connection, reader: str, change: Change | Decision, settles: bool
    ) -> str:
        """The value in force: the reader's own, or the one settled by whomever."""
        whose = "" if settles else "AND reader = ? "
        row = database.execute(
            f"SELECT value FROM decisions WHERE settles = ? {whose}AND target = ? AND field = ? "
            "ORDER BY id DESC LIMIT 1",
            (int(settles), *([] if settles else [reader]), change.target, change.field),
        ).fetchone()
        return row[0] if row else ""

    def _known(self, action: str) -> bool:
        rows = self._database().execute("SELECT 1 FROM decisions WHERE action = ?", (action,))
        return rows.fetchone() is not None

    def _of_action(self, reader: str, action: str) -> list[Decision]:
        rows = self._database().execute(
            f"SELECT {_COLUMNS} FROM decisions WHERE action = ? AND reader = ? AND target != '' "
            "ORDER BY id",
            (action, reader),
        )
        return [Decision(*row) for row in rows]

    def state(
        self,
        reader: str,
        settles: bool = False,
        until: int | None = None,
        targets: Sequence[str] | None = None,
    ) -> dict[str, dict[str, str]]:
        """What is in force: target -> field -> value; of some `targets`, or of all.

        With `settles` it is what was settled, by any reader. `until`: as it was before that
        decision.
        """
        where, bound = ["settles = ?"], list[object]([int(settles)])
        if not settles:
            where.append("reader = ?")
            bound.append(reader)
        if until is not None:
            where.append("id < ?")
            bound.append(until)
        if targets is not None:
            where.append(f"target IN ({', '.join('?' * len(targets))})")
            bound += targets
        rows = self._database().execute(
            "SELECT target, field, value, MAX(id) FROM decisions "
            f"WHERE {' AND '.join(where)} AND target != '' GROUP BY target, field",
            bound,
        )
        found: dict[str, dict[str, str]] = {}
        for target, field, value, _ in rows:
            if value:
                found.setdefault(target, {})[field] = value
        return found

    def changed(self, reader: str, since: int) -> tuple[int, set[str]]:
        """The reader's last decision, and the targets of those after decision `since`."""
        rows = self._database().execute(
            "SELECT id, target FROM decisions WHERE id > ? AND settles = 0 AND reader = ?",
            (since, reader),
        )
        latest, found = since, set()
        for number, target in rows:
            latest = max(latest, number)
            found.add(target)
        return latest, found

    def readers(self) -> list[str]:
        """Everyone who decided something, in order of their first decision."""
        rows = self._database().execute(
            "SELECT reader FROM decisions WHERE settles = 0 AND target != '' "
            "GROUP BY reader ORDER BY MIN(id)"
        )
        return [reader for (reader,) in rows]

    def note_event(self, reader: str, field: str, value: str, action: str) -> None:
        """Records that the reader was shown something; once for each thing and value."""
        known = self._database().execute(
            "SELECT 1 FROM decisions WHERE target = '' AND reader = ? AND field = ? AND value = ?",
            (reader, field, value),
        )
        if known.fetchone() is None:
            self.append(reader, action, [Change("", field, value)])

    def events(self, field: str) -> dict[str, Decision]:
        """The first event of this kind for each reader."""
        rows = self._database().execute(
            f"SELECT {_COLUMNS} FROM decisions WHERE target = '' AND field = ? ORDER BY id DESC",
            (field,),
        )
        return {decision.reader: decision for decision in (Decision(*row) for row in rows)}

    def history(self, targets: Iterable[str] | None = None) -> list[Decision]:
        """All decisions on some targets, oldest first; without `targets`, everything."""
        if targets is None:
            rows = self._database().execute(f"SELECT {_COLUMNS} FROM decisions ORDER BY id")
            return [Decision(*row) for row in rows]
        wanted = list(targets)
        marks = ", ".join("?" * len(wanted))
        rows = self._database().execute(
            f"SELECT {_COLUMNS} FROM decisions WHERE target IN ({marks}) ORDER BY id", wanted
        )
        return [Decision(*row) for row in rows]


class _Transaction:
    """All or nothing; waits its turn where another process is writing."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._database.execute("BEGIN IMMEDIATE")
        return self._database

    def __exit__(self, kind: object, *_: object) -> None:
        self._database.execute("ROLLBACK" if kind else "COMMIT")
