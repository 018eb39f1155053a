"""Stores decisions in SQLite: each is appended, none is ever changed or removed.

A decision is on disk (WAL, synchronous=FULL) before `append` returns, so a kill loses nothing that
the page shows as saved. Decisions that settle a disagreement hold for all readers and have a state
of their own.
"""

import datetime
import re
import sqlite3
import threading
from collections.abc import Sequence
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


_COLUMNS = ", ".join(Decision._fields)


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
        with self._transaction():
            if not self._has(action):
                for change in dict.fromkeys(changes):
                    self._insert(reader, action, change, settles, None)
            return self._decisions(reader, action)

    def undo(self, reader: str, action: str, settles: bool = False) -> list[Decision]:
        """Undoes the reader's last action that is not undone, by appending the values before.

        A field that another reader has settled since keeps its value. Returns the decisions; empty
        where there is nothing to undo.
        """
        with self._transaction() as database:
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
                if self._current(reader, row, settles) == row.value:
                    change = Change(row.target, row.field, row.before)
                    self._insert(reader, action, change, settles, last[0])
            decisions = self._decisions(reader, action)
            if not decisions:  # no field still had its value: an event records the undo
                self._insert(reader, action, Change("", "undo", "1"), settles, last[0])
            return decisions

    def _transaction(self) -> sqlite3.Connection:
        """Begins a transaction for a `with` block: all or nothing; it waits for other writers."""
        database = self._database()
        database.execute("BEGIN IMMEDIATE")
        return database

    def _insert(
        self, reader: str, action: str, change: Change, settles: bool, undoes: str | None
    ) -> None:
        before = self._current(reader, change, settles)
        if before != change.value or not change.target:
            at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            row = (None, action, at, reader, int(settles), *change, before, undoes)
            self._database().execute("INSERT INTO decisions VALUES (?,?,?,?,?,?,?,?,?,?)", row)

    def _current(self, reader: str, change: Change | Decision, settles: bool) -> str:
        """The value in force: the reader's own, or the one that any reader has settled."""
        where, values = _whose(reader, settles)
        rows = self._database().execute(
            f"SELECT value FROM decisions WHERE {where} AND target = ? AND field = ? "
            "ORDER BY id DESC LIMIT 1",
            (*values, change.target, change.field),
        )
        return next((value for (value,) in rows), "")

    def _has(self, action: str) -> bool:
        rows = self._database().execute("SELECT 1 FROM decisions WHERE action = ?", (action,))
        return rows.fetchone() is not None

    def _decisions(self, reader: str, action: str) -> list[Decision]:
        return self._select("action = ? AND reader = ? AND target != ''", action, reader)

    def _select(self, condition: str, *values: str) -> list[Decision]:
        """The decisions that meet an SQL condition, oldest first."""
        rows = self._database().execute(
            f"SELECT {_COLUMNS} FROM decisions WHERE {condition} ORDER BY id", values
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
        where, values = _whose(reader, settles)
        if until is not None:
            where += " AND id < ?"
            values.append(until)
        if targets is not None:
            where += f" AND {_among(targets)}"
            values += targets
        rows = self._database().execute(
            "SELECT target, field, value, MAX(id) FROM decisions "
            f"WHERE {where} AND target != '' GROUP BY target, field",
            values,
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
        event = "target = '' AND reader = ? AND field = ? AND value = ?"
        if not self._select(event, reader, field, value):
            self.append(reader, action, [Change("", field, value)])

    def events(self, field: str) -> dict[str, Decision]:
        """The first event of this kind for each reader."""
        events = self._select("target = '' AND field = ?", field)
        return {event.reader: event for event in reversed(events)}

    def history(self, targets: Sequence[str] | None = None) -> list[Decision]:
        """All decisions on `targets`, oldest first; None: on everything, with events."""
        return self._select("TRUE") if targets is None else self._select(_among(targets), *targets)


def _whose(reader: str, settles: bool) -> tuple[str, list[object]]:
    """The SQL condition, and its values, for a reader's own decisions or for what is settled."""
    return ("settles = 1", []) if settles else ("settles = 0 AND reader = ?", [reader])


def _among(targets: Sequence[str]) -> str:
    return f"target IN ({', '.join('?' * len(targets))})"
