"""Operating points: thresholds with a stated aim, chosen on validation, with their uncertainty."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats as distributions

from dtvit_jax.evaluation import bootstrap
from dtvit_jax.evaluation.ranking import ratio

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a threshold is to reach: `value` of 'sensitivity' or 'specificity', or the best balance.

    kind 'balanced_accuracy': the greatest there is. assured: so that the sensitivity of new
    subjects is at least `value` with 95% confidence, whatever the scores' distribution; it needs
    59 or more ICH subjects for 0.95.
    """

    kind: str
    value: float = np.nan
    assured: bool = False

    @property
    def name(self) -> str:
        """The point's name, for files and the command line."""
        if self.kind == "balanced_accuracy":
            return self.kind
        return f"{self.kind}_{self.value:g}{'_assured' if self.assured else ''}"

    @property
    def words(self) -> str:
        """The point's name for a reader."""
        if self.kind == "balanced_accuracy":
            return "best balanced accuracy"
        end = ", with 95% confidence" if self.assured else ""
        return f"{self.kind} at least {self.value:g}{end}"


AIMS = (
    Aim("sensitivity", 0.95),
    Aim("sensitivity", 0.99),
    Aim("specificity", 0.95),
    Aim("balanced_accuracy"),
    Aim("sensitivity", 0.95, assured=True),
)


def choose(
    aim: Aim,
    score: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    subject: Int[np.ndarray, " n"],
    strata: Int[np.ndarray, " subjects"],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The threshold that reaches `aim` on these rows, and its 95% interval over subjects.

    ICH is called at score >= threshold. The threshold stands midway between two neighbouring
    scores. subject: each row's place in `strata`, each subject's class. Returns "threshold",
    "low", "high", or a null threshold and the "reason".
    """
    if truth.all() or not truth.any():
        absent = "normal" if truth.all() else "ICH"
        return _none(f"validation holds nobody who is {absent}")
    cuts = _cuts(score)
    if aim.assured:
        at = _assured(aim.value, score[truth], subject[truth])
        if isinstance(at, str):
            return _none(at)
        return {"threshold": float(cuts[np.searchsorted(cuts, at, side="right") - 1])}
    own = _reach(aim, score, truth, cuts, np.ones((1, len(score))))
    drawn = [
        _reach(aim, score, truth, cuts, counts[:, subject].astype(np.float64))
        for counts in bootstrap.subject_counts(strata, resamples, seed, chunk=200)
    ]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975], method="nearest")
    return {"threshold": float(own[0]), "low": float(low), "high": float(high)}


def _none(reason: str) -> dict[str, Any]:
    return {"threshold": None, "reason": reason}


def _cuts(score: Float[np.ndarray, " n"]) -> Float[np.ndarray, " c"]:
    """A threshold below each distinct score, ascending, and one above all: the middles between."""
    values = np.unique(score.astype(np.float64))
    middles = (values[1:] + values[:-1]) / 2
    return np.concatenate([[values[0] / 2], middles, [(values[-1] + 1) / 2]])


def _reach(
    aim: Aim,
    score: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    cuts: Float[np.ndarray, " c"],
    weights: Float[np.ndarray, "r n"],
) -> Float[np.ndarray, " r"]:
    """The cut of each weighting that reaches the aim at the least cost to the other rate."""
    place = np.searchsorted(cuts, score, side="right") - 1  # the last cut that still calls the row
    called = np.zeros((2, len(weights), len(cuts)))
    for label in (0, 1):
        rows = np.flatnonzero(truth == label)
        held = np.zeros((len(weights), len(cuts)))
        np.add.at(held.T, place[rows], weights[:, rows].T)
        called[label] = np.cumsum(held[:, ::-1], axis=1)[:, ::-1]
    sensitivity = ratio(called[1], called[1][:, :1].repeat(len(cuts), axis=1))
    specificity = 1 - ratio(called[0], called[0][:, :1].repeat(len(cuts), axis=1))
    tiny = 1e-12
    if aim.kind == "sensitivity":  # falls with the cut: the last that still has it
        at = (sensitivity >= aim.value - tiny).sum(axis=1) - 1
    elif aim.kind == "specificity":  # rises with the cut: the first that has it
        at = (specificity >= aim.value - tiny).argmax(axis=1)
    else:
        at = (sensitivity + specificity).argmax(axis=1)
    return cuts[at]


def _assured(
    value: float, score: Float[np.ndarray, " n"], subject: Int[np.ndarray, " n"]
) -> float | str:
    """The score to call from, or why there is none; one row a subject.

    Of n independent subjects, the sensitivity at the r-th lowest score is distributed as
    Beta(n - r + 1, r) (Wilks 1941): the largest r whose lower bound is at least `value`.
    """
    n = len(score)
    if len(np.unique(subject)) < n:
        return "slices of one subject are not independent: this point is by subject only"
    r = np.arange(1, n + 1)
    sure = distributions.beta.sf(value, n - r + 1, r) >= bootstrap.LEVEL
    if not sure.any():
        needed = int(np.ceil(np.log(1 - bootstrap.LEVEL) / np.log(value)))
        return f"it takes {needed} ICH subjects or more; validation has {n}"
    return float(np.sort(score)[sure.sum() - 1])
