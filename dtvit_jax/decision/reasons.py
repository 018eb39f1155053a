"""Words why a study's answer is uncertain, and what it leaves out."""

import dataclasses

import numpy as np
from jaxtyping import Bool

from dtvit_jax.decision.answer import ICH, NO_ICH, UNCERTAIN

MOST_OUTLIERS = 0.5
"""A study is uncertain where more than this share of its slices are outliers."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What some slices of a study show, calibrated, with the likeliest location given ICH."""

    p_hemorrhage: float
    p_location: tuple[float, float, float]
    decision: str
    location: str


def reasons_of(
    counted: Verdict | None, every: Verdict, usual: Bool[np.ndarray, " n"], real: int, k: int
) -> tuple[str, ...]:
    """Why the answer is uncertain, in words; empty where it is not.

    Args:
      counted: by the usual slices; None without any, and where `real` is not 0.
      every: by all slices.
      usual: which slices are like the training slices.
      real: how many slices are no phantoms, of a model that was trained on phantoms; else 0.
      k: as in `Aggregation`.
    """
    n, left = len(usual), int(usual.sum())
    if real:  # whatever else holds: no number of the model means anything
        which = "is not marked as a phantom" if real == 1 else "are not marked as phantoms"
        return (
            "the model was trained on synthetic phantoms: it has no answer for "
            f"{real} of {_slices(n)}, which {which}",
        )
    reasons, outliers = [], n - left
    if outliers > MOST_OUTLIERS * n:
        reasons.append(f"{outliers} of {_slices(n)} {_are(outliers)} unlike the training slices")
    if counted and left < k:
        like = " like the training slices" if outliers else ""
        reasons.append(
            f"{_slices(left)}{like} only: the model's rule takes the {k} highest of a study"
        )
    if counted and counted.decision == UNCERTAIN:
        reasons.append(
            "the probability is within the 95% interval of the operating point's threshold"
        )
    if counted and counted.decision == NO_ICH and every.decision != NO_ICH:
        reasons.append(
            f"without the {_slices(outliers)} unlike the training slices the answer would be "
            f"'{NO_ICH}', with {_them(outliers)} '{every.decision}'"
        )
    return tuple(reasons)


def remarks_of(
    counted: Verdict | None, every: Verdict, usual: Bool[np.ndarray, " n"], decision: str
) -> tuple[str, ...]:
    """How many slices are left out, and what would be another answer with them.

    decision: of the study; the other arguments are those of `reasons_of`.
    """
    n, outliers = len(usual), int((~usual).sum())
    if counted is None or not outliers:
        return ()
    are, them = _are(outliers), _them(outliers)
    remark = f"{outliers} of {_slices(n)}, unlike the training slices, {are} left out"
    if decision == ICH != every.decision:
        remark += f": with {them} the decision would be '{every.decision}'"
    elif decision == ICH and counted.location != every.location:
        remark += f": with {them} the location would be {every.location}"
    return (remark,)


def _slices(n: int) -> str:
    return f"{n} slice{'' if n == 1 else 's'}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _them(n: int) -> str:
    return "it" if n == 1 else "them"
