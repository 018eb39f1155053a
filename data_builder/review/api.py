"""Answers the requests of the review page, in plain values; server.py carries them over HTTP."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from data_builder.errors import InputError
from data_builder.review.export import export
from data_builder.review.folder import Folder
from data_builder.review.outcome import AgreementReport, Progress, agreement, disputes
from data_builder.review.pictures import Scans, Sheets
from data_builder.review.predictions import ORDERS, order_of
from data_builder.review.readings import LONGEST_NOTE, VALUES, read
from data_builder.review.store import Change, Decision, Store, reader_name

MOST_CHANGES = 20_000
EXPORTED = "reviewed"
"""Name of the folder, inside the reviewed one, that the page exports to."""

_ACTION = re.compile(r"[0-9a-f-]{16,40}")
Body = Mapping[str, Any]
"""The JSON object of a write request; nothing in it is checked yet."""


class DecisionRow(TypedDict):
    """A decision as the page gets it."""

    at: str
    reader: str
    settles: bool
    target: str
    field: str
    value: str
    before: str
    undo: bool


class ReviewApi:
    """The requests that the page makes about one folder.

    Methods raise InputError for bad input and KeyError for an unknown slice or study.
    """

    def __init__(
        self,
        folder: Folder,
        store: Store,
        sheets: Sheets,
        scans: Scans | None = None,
        probabilities: dict[str, float] | None = None,
    ) -> None:
        """Opens a folder for review, with its scans and a model's probabilities where given."""
        self.folder, self.store, self.sheets, self.scans = folder, store, sheets, scans
        self._probabilities = probabilities or {}
        self._progress = Progress(folder, store)

    def warm(self) -> None:
        """Counts the progress of every reader, so that their pages open at once."""
        for name in self.store.readers():
            self._progress.of(name)

    def start(self, reader: str) -> dict[str, Any]:
        """Lists the studies with the reader's own progress."""
        name = reader_name(reader)
        progress = self._progress.of(name)
        return {
            "reader": name,
            "mode": self.folder.mode,
            "window_hu": self.folder.window_hu,
            "phantom": self.folder.phantom,
            "dicom": self.scans is not None,
            "predictions": bool(self._probabilities),
            "unblinded": name in self.store.events("unblinded"),
            "studies": [
                {
                    "study": study,
                    "subject": self.folder.subject(study),
                    "slices": len(keys),
                    "done": progress[study].done,
                    "unsure": progress[study].unsure,
                }
                for study, keys in self.folder.studies.items()
            ],
        }

    def study(self, study: str, reader: str) -> dict[str, Any]:
        """Lists a study's slices, with the decisions of this reader alone."""
        name, keys = reader_name(reader), self.folder.studies[study]
        rows = [self.folder.rows[key] for key in keys]
        return {
            "study": study,
            "slices": [
                {
                    "key": row["key"],
                    "series": row["series"],
                    "position_mm": row["position_mm"],
                    "dropped": self.folder.dropped(row["key"]),
                }
                for row in rows
            ],
            "state": self.store.state(name, targets=[study, *keys]),
        }

    def suggestions(self, study: str) -> dict[str, str]:
        """Slice key -> a reason to drop the slice, where there is one."""
        reasons = self.sheets.of(study).suggestions
        return {key: reason for key, reason in reasons.items() if reason}

    def decide(self, body: Body, settles: bool) -> dict[str, Any]:
        """Stores the changes of one action; they are on disk when this returns."""
        reader, action = self._request(body, settles)
        changes = self._changes(body.get("changes"))
        saved = self.store.append(reader, action, changes, settles)
        return {"saved": [_row(decision) for decision in saved]}

    def undo(self, body: Body, settles: bool) -> dict[str, Any]:
        """Undoes the reader's last action, in whichever study it was."""
        reader, action = self._request(body, settles)
        saved = self.store.undo(reader, action, settles)
        studies = dict.fromkeys(self.folder.study_of(decision.target) for decision in saved)
        return {
            "saved": [_row(decision) for decision in saved],
            "studies": [study for study in studies if study in self.folder.studies],
        }

    def unblind(self, body: Body) -> dict[str, Any]:
        """Records that the reader sees the decisions of others from now on."""
        self.store.note_event(_reader(body), "unblinded", "1", _action(body))
        return {"unblinded": True}

    def probabilities(self, body: Body) -> dict[str, float]:
        """Slice key -> the model's probability of ICH; records that the reader has seen any."""
        reader, study = _reader(body), body.get("study")
        keys = self.folder.studies[study if isinstance(study, str) else ""]
        if not self._probabilities:
            raise InputError("there are no predictions: start the page with --predictions")
        self.store.note_event(reader, "probabilities", "1", _action(body))
        return {key: self._probabilities[key] for key in keys if key in self._probabilities}

    def order(self, body: Body) -> list[str]:
        """Lists the studies in an order by the model; records that the reader uses it."""
        reader, by = _reader(body), body.get("by")
        if by not in ORDERS or not self._probabilities:
            raise InputError(
                f"by: give one of {', '.join(ORDERS)}, and start the page with --predictions"
            )
        self.store.note_event(reader, "order", str(by), _action(body))
        return order_of(self.folder, self._probabilities, str(by))

    def history(self, key: str, reader: str) -> list[DecisionRow]:
        """Lists the decisions on a slice and its study, oldest first.

        A blinded reader gets their own decisions only.
        """
        name, study = reader_name(reader), self.folder.rows[key]["study"]
        decisions = self.store.history([key, study])
        if name not in self.store.events("unblinded"):
            decisions = [row for row in decisions if row.reader == name and not row.settles]
        return [_row(decision) for decision in decisions]

    def readings(self, study: str, reader: str) -> dict[str, Any]:
        """Lists every reader's reading of a study's slices, and what is settled; if unblinded."""
        self._require_unblinded(reader_name(reader))
        keys = self.folder.studies[study]
        targets = [study, *keys]
        readings: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
        for name in self.store.readers():
            state = self.store.state(name, targets=targets)
            for key in keys:
                reading = read(state, key, study, self.folder.dropped(key))
                if reading.own or reading.unsure:
                    note = state.get(key, {}).get("note") or state.get(study, {}).get("note", "")
                    readings[key].append(
                        _reading(name, reading.outcome, reading.unsure)
                        | ({"note": note} if note else {})
                    )
        return {"readings": readings, "state": self.store.state("", True, targets=targets)}

    def disputes(self, reader: str) -> list[dict[str, Any]]:
        """Lists the disagreements to settle; if unblinded."""
        self._require_unblinded(reader_name(reader))
        rows = []
        for dispute in disputes(self.folder, self.store):
            keys = self.folder.studies[dispute.study]
            rows.append(
                {
                    "study": dispute.study,
                    "first": keys.index(dispute.keys[0]),
                    "last": keys.index(dispute.keys[-1]),
                    "readings": [_reading(*reading) for reading in dispute.readings],
                }
            )
        return rows

    def agreement(self, reader: str) -> AgreementReport:
        """Reports the agreement of all readers; if unblinded."""
        self._require_unblinded(reader_name(reader))
        return agreement(self.folder, self.store)

    def export(self) -> dict[str, Any]:
        """Exports into the folder `reviewed/` inside the reviewed one; returns counts."""
        counts = export(self.folder, self.store, self.folder.path / EXPORTED)
        return {**counts, "folder": EXPORTED, "inside": self.folder.path.name}

    def _request(self, body: Body, settles: bool) -> tuple[str, str]:
        """Reader and action of a write; settling is for unblinded readers."""
        reader, action = _reader(body), _action(body)
        if settles:
            self._require_unblinded(reader)
        return reader, action

    def _require_unblinded(self, reader: str) -> None:
        if reader not in self.store.events("unblinded"):
            raise InputError("this reader is blinded to the others: open the disagreements first")

    def _changes(self, rows: object) -> list[Change]:
        if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
            raise InputError("changes: give a list of at least one")
        if len(rows) > MOST_CHANGES:
            raise InputError(f"changes: give at most {MOST_CHANGES} at once")
        return [self._change(row) for row in rows]

    def _change(self, row: object) -> Change:
        names = ("target", "field", "value")
        cells = [row.get(name) if isinstance(row, Mapping) else None for name in names]
        if not all(isinstance(cell, str) for cell in cells):
            raise InputError("changes: give each a target, a field and a value, all text")
        change = Change(*map(str, cells))
        if change.target not in self.folder.rows and change.target not in self.folder.studies:
            raise InputError("changes: a target is not a slice or study of this folder")
        _check_value(change)
        return change


def _check_value(change: Change) -> None:
    if change.field == "note":
        printable = all(letter.isprintable() or letter == "\n" for letter in change.value)
        if len(change.value) > LONGEST_NOTE or not printable:
            raise InputError(f"note: give plain text of at most {LONGEST_NOTE} characters")
    elif change.field not in VALUES:
        raise InputError(f"changes: a field is one of {', '.join([*VALUES, 'note'])}")
    elif change.value not in VALUES[change.field]:
        allowed = ", ".join(value or "nothing" for value in VALUES[change.field])
        raise InputError(f"changes: {change.field} is one of {allowed}")


def _reader(body: Body) -> str:
    name = body.get("reader")
    return reader_name(name if isinstance(name, str) else "")


def _action(body: Body) -> str:
    action = body.get("action")
    if not isinstance(action, str) or not _ACTION.fullmatch(action):
        raise InputError("action: give 16 to 40 hex digits, new for each action")
    return action


def _reading(reader: str, outcome: str, unsure: bool) -> dict[str, Any]:
    return {"reader": reader, "outcome": outcome, "unsure": unsure}


def _row(decision: Decision) -> DecisionRow:
    return {
        "at": decision.at,
        "reader": decision.reader,
        "settles": bool(decision.settles),
        "target": decision.target,
        "field": decision.field,
        "value": decision.value,
        "before": decision.before,
        "undo": decision.undoes is not None,
    }
