"""What the page may ask and decide, in plain values: the server only carries it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_builder.errors import InputError
from data_builder.review.export import export
from data_builder.review.folder import Folder
from data_builder.review.outcome import Progress, agreement, disputes
from data_builder.review.pictures import Scans, Sheets
from data_builder.review.predictions import ORDERS, order_of
from data_builder.review.readings import LONGEST_NOTE, VALUES, read
from data_builder.review.store import Change, Decision, Store, reader_name

MOST_CHANGES = 20_000
EXPORTED = "reviewed"
"""The folder inside the reviewed one that the page exports to."""

_ACTION = re.compile(r"[0-9a-f-]{16,40}")
Body = Mapping[str, Any]


class Answers:
    """Answers for one folder. Raises InputError on bad input and KeyError on unknown keys."""

    def __init__(
        self,
        folder: Folder,
        store: Store,
        sheets: Sheets,
        scans: Scans | None = None,
        probabilities: dict[str, float] | None = None,
    ) -> None:
        self.folder, self.store, self.sheets, self.scans = folder, store, sheets, scans
        self._probabilities = probabilities or {}
        self._progress = Progress(folder, store)

    def warm(self) -> None:
        """Counts how far every reader is, so that their page need not."""
        for name in self.store.readers():
            self._progress.of(name)

    def start(self, reader: str) -> dict[str, Any]:
        """The folder's studies with the reader's own progress."""
        name = reader_name(reader)
        done = self._progress.of(name)
        cleaning = self.folder.cleaning
        return {
            "reader": name,
            "mode": cleaning.get("mode", ""),
            "window_hu": cleaning.get("window_hu", [0, 80]),
            "phantom": bool(cleaning.get("phantom")),
            "dicom": self.scans is not None,
            "predictions": bool(self._probabilities),
            "unblinded": name in self.store.events("unblinded"),
            "studies": [
                {
                    "study": study,
                    "subject": self.folder.subject(study),
                    "slices": len(keys),
                    "done": done[study][0],
                    "unsure": done[study][1],
                }
                for study, keys in self.folder.studies.items()
            ],
        }

    def study(self, study: str, reader: str) -> dict[str, Any]:
        """A study's slices, and what this reader (and nobody else) has said of them."""
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
        """Slice key -> a reason to drop it, where there is one."""
        self.folder.studies[study]
        found = self.sheets.of(study).suggestions
        return {key: reason for key, reason in found.items() if reason}

    def decide(self, body: Body, settles: bool) -> dict[str, Any]:
        """Stores one action's changes; they are on disk when this returns."""
        reader, action = _reader(body), _action(body)
        if settles:
            self._require_unblinded(reader)
        changes = self._changes(body.get("changes"))
        return {"saved": [_told(each) for each in self.store.append(
            reader, action, changes, settles
        )]}  # fmt: skip

    def undo(self, body: Body, settles: bool) -> dict[str, Any]:
        """Takes back the reader's last action, in any study."""
        reader, action = _reader(body), _action(body)
        if settles:
            self._require_unblinded(reader)
        saved = self.store.undo(reader, action, settles)
        rows = self.folder.rows
        named = [rows[to]["study"] if (to := each.target) in rows else to for each in saved]
        studies = [study for study in dict.fromkeys(named) if study in self.folder.studies]
        return {"saved": [_told(each) for each in saved], "studies": studies}

    def unblind(self, body: Body) -> dict[str, Any]:
        """Records that the reader is shown the others' decisions from now on."""
        reader = _reader(body)
        self.store.note_event(reader, "unblinded", "1", _action(body))
        return {"unblinded": True}

    def probabilities(self, body: Body) -> dict[str, float]:
        """The model's word on a study's slices; it is recorded that the reader saw any."""
        reader, study = _reader(body), body.get("study")
        keys = self.folder.studies[study if isinstance(study, str) else ""]
        if not self._probabilities:
            raise InputError("no predictions were given: start the page with --predictions")
        self.store.note_event(reader, "probabilities", "1", _action(body))
        return {key: self._probabilities[key] for key in keys if key in self._probabilities}

    def order(self, body: Body) -> list[str]:
        """Studies in the model's order of work, which is recorded too."""
        reader, by = _reader(body), body.get("by")
        if by not in ORDERS or not self._probabilities:
            raise InputError(f"by is of {', '.join(ORDERS)}, and --predictions must be given")
        self.store.note_event(reader, "order", str(by), _action(body))
        return order_of(self.folder, self._probabilities, str(by))

    def history(self, key: str, reader: str) -> list[dict[str, Any]]:
        """Who said what of a slice and its study, oldest first; others' only when unblinded."""
        name, study = reader_name(reader), self.folder.rows[key]["study"]
        found = self.store.history([key, study])
        if name not in self.store.events("unblinded"):
            found = [each for each in found if each.reader == name and not each.settles]
        return [_told(each) for each in found]

    def said(self, study: str, reader: str) -> dict[str, Any]:
        """Every reader's word on a study's slices, and what was settled; for the unblinded."""
        self._require_unblinded(reader_name(reader))
        keys = self.folder.studies[study]
        targets = [study, *keys]
        words: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
        for name in self.store.readers():
            state = self.store.state(name, targets=targets)
            for key in keys:
                word = read(state, key, study, self.folder.dropped(key))
                if word.own or word.unsure:
                    note = state.get(key, {}).get("note") or state.get(study, {}).get("note", "")
                    words[key].append(
                        {"reader": name, "outcome": word.outcome, "unsure": word.unsure}
                        | ({"note": note} if note else {})
                    )
        return {"said": words, "state": self.store.state("", True, targets=targets)}

    def disputes(self, reader: str) -> list[dict[str, Any]]:
        """What is left to settle; for the unblinded."""
        self._require_unblinded(reader_name(reader))
        found = []
        for one in disputes(self.folder, self.store):
            said = [
                {"reader": name, "outcome": outcome, "unsure": unsure}
                for name, outcome, unsure in one.said
            ]
            keys = self.folder.studies[one.study]
            first, last = keys.index(one.keys[0]), keys.index(one.keys[-1])
            found.append({"study": one.study, "first": first, "last": last, "said": said})
        return found

    def agreement(self, reader: str) -> dict[str, Any]:
        """How far the readers agree; for the unblinded."""
        self._require_unblinded(reader_name(reader))
        return agreement(self.folder, self.store)

    def export(self) -> dict[str, Any]:
        """Exports into the folder `reviewed/` inside the reviewed one."""
        counts = export(self.folder, self.store, self.folder.path / EXPORTED)
        return counts | {"folder": EXPORTED, "inside": self.folder.path.name}

    def _require_unblinded(self, reader: str) -> None:
        if reader not in self.store.events("unblinded"):
            raise InputError("this reader is blind to the others: open the disagreements first")

    def _changes(self, told: object) -> list[Change]:
        if not isinstance(told, Sequence) or isinstance(told, str) or not told:
            raise InputError("changes: must be a list of at least one")
        if len(told) > MOST_CHANGES:
            raise InputError(f"changes: at most {MOST_CHANGES} at once")
        found = []
        for each in told:
            parts = [
                each.get(name) if isinstance(each, Mapping) else None
                for name in ("target", "field", "value")
            ]
            if not all(isinstance(part, str) for part in parts):
                raise InputError("changes: each has a target, a field and a value, all text")
            change = Change(*map(str, parts))
            if change.target not in self.folder.rows and change.target not in self.folder.studies:
                raise InputError("changes: a target is no slice or study of this folder")
            _check_value(change)
            found.append(change)
        return found


def _check_value(change: Change) -> None:
    if change.field == "note":
        clean = change.value.isprintable() or all(
            letter.isprintable() or letter == "\n" for letter in change.value
        )
        if len(change.value) > LONGEST_NOTE or not clean:
            raise InputError(f"note: plain text of at most {LONGEST_NOTE} letters")
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
        raise InputError("action: 16 to 40 hex digits, new for each action")
    return action


def _told(decision: Decision) -> dict[str, Any]:
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
