"""What a reader's decisions come to for a slice, and what all readers' come to together. Pure.

A decision sets one field of a target, a slice or its whole study. A state holds what is in force:
target -> field -> value, an empty value meaning nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from data_builder.records import LOCATIONS

LABELS = ("normal", "ich", *LOCATIONS)
"""`ich` is a hemorrhage whose place was not said yet."""

VALUES = {"keep": ("", "0", "1"), "label": ("", *LABELS), "unsure": ("", "1")}
"""What each field may hold; `note` is free text, beside these."""

LONGEST_NOTE = 500
FINISHED = ("dropped", "normal", *LOCATIONS)
"""Outcomes that need nothing more from the reader."""

State = Mapping[str, Mapping[str, str]]


class Reading(NamedTuple):
    """One reader's word on one slice.

    `outcome` is 'dropped', one of LABELS, 'kept' (no label), or '' where nothing was said.
    `level` tells where the label was said: 'slice', 'study' or ''. `own` is false where the slice
    had been dropped before and the reader said nothing against it.
    """

    outcome: str
    level: str
    unsure: bool
    own: bool


class Final(NamedTuple):
    """What all readers come to. `outcome` is as in Reading.

    `status` is 'settled', 'agreed' (of two readers or more), 'single', 'open' (they disagree, or
    one is unsure) or 'unread'; with 'open' the outcome is ''.
    """

    outcome: str
    status: str
    level: str


def read(state: State, key: str, study: str, dropped: bool) -> Reading:
    """The reading of slice `key`: its own decisions first, then its study's.

    A slice that was `dropped` before stays so unless it was itself kept.
    """
    mine, whole = state.get(key, {}), state.get(study, {})
    label, level = mine.get("label", ""), "slice"
    general = whole.get("label", "")
    if not label or (label == "ich" and general in LOCATIONS):
        label, level = general, "study"
    keep = mine.get("keep", "")
    before = dropped and not keep
    if not keep:
        keep = "0" if dropped else whole.get("keep", "")
    unsure = bool(mine.get("unsure") or whole.get("unsure"))
    outcome = "dropped" if keep == "0" else label or ("kept" if keep else "")
    return Reading(outcome, level if label else "", unsure, bool(outcome) and not before)


def conclude(readings: Iterable[Reading], settled: Reading) -> Final:
    """What the readers' words on one slice come to, under what was settled of it.

    'kept' agrees with any label, for it says nothing of one.
    """
    if settled.own and settled.outcome not in ("", "kept"):
        return Final(settled.outcome, "settled", settled.level)
    said = [reading for reading in readings if reading.outcome]
    spoken = [reading for reading in said if reading.own]
    if settled.own:  # kept: whoever dropped it has no word on its label
        labelled = [reading for reading in spoken if reading.outcome != "dropped"]
        outcomes = {reading.outcome for reading in labelled} - {"kept"} or {"kept"}
        spoken, status = labelled, "settled"
    else:
        if not spoken:
            return Final(said[0].outcome if said else "", "unread", "")
        outcomes = {reading.outcome for reading in spoken}
        if outcomes & set(LABELS):
            outcomes -= {"kept"}
        status = "agreed" if len(spoken) > 1 else "single"
        if any(reading.unsure for reading in spoken):
            return Final("", "open", "")
    if len(outcomes) > 1:
        return Final("", "open", "")
    level = "slice" if any(reading.level == "slice" for reading in spoken) else "study"
    outcome = outcomes.pop()
    return Final(outcome, status, level if outcome in LABELS else "")


def runs(keys: Sequence[str], marks: Mapping[str, tuple]) -> list[tuple[list[str], tuple]]:
    """Neighbours of `keys` that bear the same mark, together; keys without a mark part them."""
    found: list[tuple[list[str], tuple]] = []
    before: tuple | None = None
    for key in keys:
        mark = marks.get(key)
        if mark is not None and mark == before:
            found[-1][0].append(key)
        elif mark is not None:
            found.append(([key], mark))
        before = mark
    return found
