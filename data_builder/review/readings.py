"""Derives a reader's reading of a slice from decisions, and the final outcome from all readings.

A decision sets one field of a target, which is a slice or its whole study. A state is what is in
force: target -> field -> value, an empty value meaning nothing. Pure functions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from data_builder.records import LOCATIONS

LABELS = ("normal", "ich", *LOCATIONS)
"""`ich` is a hemorrhage without a location yet."""

VALUES = {"keep": ("", "0", "1"), "label": ("", *LABELS), "unsure": ("", "1")}
"""Field -> its values; the field `note`, which is free text, is not listed."""

LONGEST_NOTE = 500
FINISHED = ("dropped", "normal", *LOCATIONS)
"""Outcomes that need no further decision of the reader."""

State = Mapping[str, Mapping[str, str]]


class Reading(NamedTuple):
    """One reader's reading of one slice.

    `outcome` is 'dropped', one of LABELS, 'kept' (no label), or '' (no decision). `level` is where
    the label was given: 'slice', 'study' or ''. `own` is false where the reader has no decision on
    the slice, or none against its drop before the review.
    """

    outcome: str
    level: str
    unsure: bool
    own: bool


class Final(NamedTuple):
    """The outcome of all readings of a slice; `outcome` and `level` are as in Reading.

    `status` is 'settled', 'agreed' (of two readers or more), 'single', 'open' (they disagree, or
    one is unsure) or 'unread'; with 'open' the outcome is ''.
    """

    outcome: str
    status: str
    level: str


def read(state: State, key: str, study: str, dropped: bool) -> Reading:
    """Derives the reading of slice `key`: its own decisions come first, then its study's.

    A slice that was `dropped` before the review stays dropped unless it is kept itself.
    """
    own, whole = state.get(key, {}), state.get(study, {})
    label, level = own.get("label", ""), "slice"
    general = whole.get("label", "")
    if not label or (label == "ich" and general in LOCATIONS):
        label, level = general, "study"
    keep = own.get("keep", "")
    before = dropped and not keep
    if not keep:
        keep = "0" if dropped else whole.get("keep", "")
    unsure = bool(own.get("unsure") or whole.get("unsure"))
    outcome = "dropped" if keep == "0" else label or ("kept" if keep else "")
    return Reading(outcome, level if label else "", unsure, bool(outcome) and not before)


def conclude(readings: Iterable[Reading], settled: Reading) -> Final:
    """Derives the final outcome of one slice from all readings and from what is settled.

    'kept' agrees with any label, because it contains none.
    """
    if settled.own and settled.outcome not in ("", "kept"):
        return Final(settled.outcome, "settled", settled.level)
    decided = [reading for reading in readings if reading.outcome]
    own = [reading for reading in decided if reading.own]
    if settled.own:  # settled as kept: the label is that of the readers who did not drop it
        own = [reading for reading in own if reading.outcome != "dropped"]
        outcomes = {reading.outcome for reading in own} - {"kept"} or {"kept"}
        status = "settled"
    else:
        if not own:
            return Final(decided[0].outcome if decided else "", "unread", "")
        outcomes = {reading.outcome for reading in own}
        if outcomes & set(LABELS):
            outcomes -= {"kept"}
        status = "agreed" if len(own) > 1 else "single"
        if any(reading.unsure for reading in own):
            return Final("", "open", "")
    if len(outcomes) > 1:
        return Final("", "open", "")
    level = "slice" if any(reading.level == "slice" for reading in own) else "study"
    outcome = outcomes.pop()
    return Final(outcome, status, level if outcome in LABELS else "")


def runs(keys: Sequence[str], marks: Mapping[str, tuple]) -> list[tuple[list[str], tuple]]:
    """Groups neighbouring `keys` with the same mark; keys without a mark separate groups."""
    groups: list[tuple[list[str], tuple]] = []
    previous: tuple | None = None
    for key in keys:
        mark = marks.get(key)
        if mark is not None and mark == previous:
            groups[-1][0].append(key)
        elif mark is not None:
            groups.append(([key], mark))
        previous = mark
    return groups
