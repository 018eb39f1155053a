"""The order of slices in a series, and the gaps and doubles in it."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

_GAP = 1.5  # times the spacing around it
_SAME_MM = 0.01
_AROUND = 3


def gaps_and_doubles(positions: Sequence[float]) -> list[tuple[float, str]]:
    """Places (mm) in sorted `positions` where a slice is missing or doubled, with the note.

    A step is a gap if it is over 1.5 times the median of the three steps before it and of the
    three after it: where spacing changes from one part of a scan to the next there is none.
    """
    known = [place for place in positions if not math.isnan(place)]
    notes = []
    distinct = known[:1]
    for before, after in pairwise(known):
        if after - before < _SAME_MM:
            notes.append((after, "doubled"))
        else:
            distinct.append(after)
    steps = [after - before for before, after in pairwise(distinct)]
    for index, step in enumerate(steps):
        sides = steps[max(0, index - _AROUND) : index], steps[index + 1 : index + 1 + _AROUND]
        usual = [median(side) for side in sides if side]
        if usual and step > _GAP * max(usual):
            missing = max(1, round(step / max(usual)) - 1)
            notes.append((distinct[index], f"{missing} missing after it"))
    return sorted(notes)
