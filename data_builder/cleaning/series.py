"""Finds missing and doubled slices in a series by their positions."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

_GAP = 1.5  # times the spacing around it
_SAME_MM = 0.01  # positions are kept to 0.001 mm
_NEIGHBOURS = 3


def gaps_and_doubles(positions: Sequence[float]) -> list[tuple[float, str]]:
    """The positions (mm) after which slices are missing, or that are doubled, each with a note.

    `positions` are sorted; nan ones are left out. A step is a gap if it is over 1.5 times the
    median of the three steps before it and of the three after it: where the spacing changes from
    one part of a scan to the next there is none.
    """
    finite = [position for position in positions if not math.isnan(position)]
    notes = []
    distinct = finite[:1]
    for before, after in pairwise(finite):
        if after - before < _SAME_MM:
            notes.append((after, "doubled"))
        else:
            distinct.append(after)
    steps = [after - before for before, after in pairwise(distinct)]
    for index, step in enumerate(steps):
        sides = (
            steps[max(0, index - _NEIGHBOURS) : index],
            steps[index + 1 : index + 1 + _NEIGHBOURS],
        )
        spacings = [median(side) for side in sides if side]
        if spacings and step > _GAP * max(spacings):
            missing = max(1, round(step / max(spacings)) - 1)
            notes.append((distinct[index], f"{missing} missing after it"))
    return sorted(notes)
