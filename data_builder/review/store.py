"""Stores decisions in SQLite: each is appended, none is ever changed or removed.

A decision is on disk (WAL, synchronous=FULL) before `append` returns, so a kill loses nothing that
the page shows as saved. Decisions that settle a disagreement hold for all readers and have a state
of their own.
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
_LOCK_SECONDS = 60
_READER = re.compile(r"[^\W_][\w .'-]{0,39}")


class Change(NamedTuple):
    """A new value for one field of a slice or a study; an empty target makes it an event."""

    target: str
    field: str
    value: str


class Decision(NamedTuple):
    """A row of the store: reader, time, target, field, value, and the value before."""

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
    """Trims a reader's name. Raises InputError where it is not valid."""
    name = " ".join(text.split())
    if not _READER.fullmatch(name):
        raise InputError(
            "a reader's name is 1 to 40 letters, digits, spaces and . ' -, and starts with a "
            "letter or digit: initials are enough"
        )
    return name


class Store:
    """The decisions of one folder. Safe for many threads and many processes."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises InputError where it can't be made or is no database."""
        self._path, self._own = path, threading.local()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = self._database()
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"{path.parent.name}/{path.name} can't be opened for writing "
                f"({type(error).__name__}): correct its permissions, or move it away"
            ) from error

    def _database(self) -> sqlite3.Connection:
        """This thread's connection."""
        database: sqlite3.Connection | None = getattr(self._own, "database", None)
        if database is None:
            database = sqlite3.connect(self._path, timeout=_LOCK_SECONDS, isolation_level=None)
            database.execute("PRAGMA synchronous=FULL")
            self._own.database = database
        return database

    def append(
        self, reader: str, action: str, changes: Sequence[Change], settles: bool = False
    ) -> list[Decision]:
        """Stores one action's changes, all or none, except those that change nothing.

        Returns the decisions. An action that is stored already is not stored twice.
        """
        with _Transaction(self._database()) as database:
            if self._has(action):
                return self._decisions(reader, action)
            for change in dict.fromkeys(changes):
                self._insert(database, reader, action, change, settles, None)
            return self._decisions(reader, action)

    def undo(self, reader: str, action: str, settles: bool = False) -> list[Decision]:
        """Undoes the reader's last action that is not undone, by appending the values before.

        A field that another reader has settled since keeps its value. Returns the decisions; empty
        where there is nothing to undo.
        """
        with _Transaction(self._database()) as database:
            if self._has(action):
                return self._decisions(reader, action)
            last = database.execute(
                "SELECT action FROM decisions WHERE reader = ? AND settles = ? AND undoes IS NULL "
                "AND target != '' AND action NOT IN (SELECT undoes FROM decisions WHERE "
                "reader = ? AND undoes IS NOT NULL) ORDER BY id DESC LIMIT 1",
                (reader, int(settles), reader),
            ).fetchone()
            if last is None:
                return []
            for row in self._decisions(reader, last[0]):
                if self._current(database, reader, row, settles) == row.value:
                    change = Change(row.target, row.field, row.before)
                    self._insert(database, reader, action, change, settles, last[0])
            decisions = self._decisions(reader, action)
            if not decisions:  # no field still had its value: an event records the undo
                event = Change("", "undo", "1")
                self._insert(database, reader, action, event, settles, last[0])
            return decisions

    def _insert(
        self,
        database: sqlite3.Connection,
        reader: str,
        action: str,
        change: Change,
        settles: bool,
        undoes: str | None,
    ) -> None:
        before = self._current(database, reader, change, settles)
        if before != change.value or not change.target:
            at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            row = (action, at, reader, int(settles), *change, before, undoes)
            database.execute(
                f"INSERT INTO decisions ({_COLUMNS.removeprefix('id, ')}) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    @staticmethod
    def _current(
        database: sqlite3.Connection, reader: str, change: Change | Decision, settles: bool
    ) -> str:
        """The value in force: the reader's own, or the one that any reader has settled."""
        whose = "" if settles else "AND reader = ? "
        row = database.execute(
            f"SELECT value FROM decisions WHERE settles = ? {whose}AND target = ? AND field = ? "
            "ORDER BY id DESC LIMIT 1",
            (int(settles), *([] if settles else [reader]), change.target, change.field),
        ).fetchone()
        return row[0] if row else ""

    def _has(self, action: str) -> bool:
        rows = self._database().execute("SELECT 1 FROM decisions WHERE action = ?", (action,))
        return rows.fetchone() is not None

    def _decisions(self, reader: str, action: str) -> list[Decision]:
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
        """Returns what is in force: target -> field -> value; for some `targets`, or for all.

        With `settles` it is what any reader has settled. `until`: the state before the decision
        with that id.
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
        state: dict[str, dict[str, str]] = {}
        for target, field, value, _ in rows:
            if value:
                state.setdefault(target, {})[field] = value
        return state

    def changed(self, reader: str, since: int) -> tuple[int, set[str]]:
        """The id of the reader's last decision, and the targets of those after `since`."""
        rows = self._database().execute(
            "SELECT id, target FROM decisions WHERE id > ? AND settles = 0 AND reader = ?",
            (since, reader),
        )
        latest, targets = since, set()
        for number, target in rows:
            latest = max(latest, number)
            targets.add(target)
        return latest, targets

    def readers(self) -> list[str]:
        """All readers with decisions, in the order of their first decision."""
        rows = self._database().execute(
            "SELECT reader FROM decisions WHERE settles = 0 AND target != '' "
            "GROUP BY reader ORDER BY MIN(id)"
        )
        return [reader for (reader,) in rows]

    def note_event(self, reader: str, field: str, value: str, action: str) -> None:
        """Records what the reader is shown; each event and value once."""
        rows = self._database().execute(
            "SELECT 1 FROM decisions WHERE target = '' AND reader = ? AND field = ? AND value = ?",
            (reader, field, value),
        )
        if rows.fetchone() is None:
            self.append(reader, action, [Change("", field, value)])

    def events(self, field: str) -> dict[str, Decision]:
        """The first event of this kind for each reader."""
        rows = self._database().execute(
            f"SELECT {_COLUMNS} FROM decisions WHERE target = '' AND field = ? ORDER BY id DESC",
            (field,),
        )
        return {decision.reader: decision for decision in (Decision(*row) for row in rows)}

    def history(self, targets: Iterable[str] | None = None) -> list[Decision]:
        """All decisions on `targets`, oldest first; None: on everything, with events."""
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
    """A transaction: all or nothing; it waits while another process is writing."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._database.execute("BEGIN IMMEDIATE")
        return self._database

    def __exit__(self, kind: object, *_: object) -> None:
        self._database.execute("ROLLBACK" if kind else "COMMIT")
