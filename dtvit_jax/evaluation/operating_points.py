"""Operating points: thresholds with a stated aim, chosen on validation, with 95% intervals."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats as distributions

from dtvit_jax.evaluation import bootstrap
from dtvit_jax.evaluation.ranking import ratio

RESAMPLES = 2000
TOLERANCE = 1e-12
"""A rate this little below the aim reaches it: 19/20 in floating point may fall short of 0.95."""

ABOVE_ALL = float(np.nextafter(1, 2))
"""End of the interval where some resamples have no threshold: no score reaches it."""


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a threshold must reach.

    Attributes:
      kind: 'sensitivity', 'specificity' or 'balanced_accuracy'.
      value: the least rate to reach; nan for 'balanced_accuracy', which is maximised.
      assured: the sensitivity of new subjects is at least `value` with 95% confidence, whatever
        the distribution of scores; 0.95 needs 59 or more ICH subjects.
    """

    kind: str
    value: float = np.nan
    assured: bool = False

    @property
    def name(self) -> str:
        """The point's name in files and on the command line."""
        if self.kind == "balanced_accuracy":
            return self.kind
        return f"{self.kind}_{self.value:g}{'_assured' if self.assured else ''}"

    @property
    def words(self) -> str:
        """The point's name in reports."""
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


@dataclasses.dataclass(frozen=True)
class Choice:
    """A threshold and its 95% interval; without a threshold, the reason why there is none."""

    threshold: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def choose(
    aim: Aim,
    score: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    subject: Int[np.ndarray, " n"],
    strata: Int[np.ndarray, " subjects"],
    resamples: int = RESAMPLES,
) -> Choice:
    """Chooses the threshold that reaches `aim` on these rows, with its 95% interval over subjects.

    ICH is predicted at score >= threshold, and the threshold is midway between two neighbouring
    scores, from 0 to 1. There is none where no such threshold reaches the aim, such as a
    specificity where too many normal cases score 1. subject: each row's index into `strata`, the
    subjects' classes. An assured threshold has no interval.
    """
    if truth.all() or not truth.any():
        absent = "normal" if truth.all() else "ICH"
        return Choice(None, reason=f"the validation set has no {absent} case")
    cuts = _cuts(score)
    if aim.assured:
        lowest = _assured(aim.value, score[truth], subject[truth])
        if isinstance(lowest, str):
            return Choice(None, reason=lowest)
        return Choice(float(cuts[np.searchsorted(cuts, lowest, side="right") - 1]))
    own = float(_reach(aim, score, truth, cuts, np.ones((1, len(score))))[0])
    if own == ABOVE_ALL:
        normal = score[~truth]
        at_one = int((normal >= 1).sum())
        return Choice(
            None,
            reason=f"no threshold from 0 to 1 reaches it on the validation set: {at_one} of its "
            f"{len(normal)} normal cases {'scores' if at_one == 1 else 'score'} 1",
        )
    drawn = np.concatenate(
        [
            _reach(aim, score, truth, cuts, counts[:, subject].astype(np.float64))
            for counts in bootstrap.subject_counts(strata, resamples, bootstrap.SEED, 200)
        ]
    )
    # 'nearest': between two resampled cuts there is no cut.
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975], method="nearest")
    return Choice(own, float(low), float(high))


def _cuts(score: Float[np.ndarray, " n"]) -> Float[np.ndarray, " c"]:
    """Thresholds below each distinct score, ascending, and one above all unless a score is 1."""
    values = np.unique(score.astype(np.float64))
    midpoints = (values[1:] + values[:-1]) / 2
    # Between neighbours in floating point the midpoint rounds to one of them.
    midpoints = np.where(midpoints > values[:-1], midpoints, values[1:])
    above = (values[-1:] + 1) / 2
    return np.concatenate([values[:1] / 2, midpoints, above[above > values[-1]]])


def _reach(
    aim: Aim,
    score: Float[np.ndarray, " n"],
    truth: Bool[np.ndarray, " n"],
    cuts: Float[np.ndarray, " c"],
    weights: Float[np.ndarray, "r n"],
) -> Float[np.ndarray, " r"]:
    """The cut of each weighting that reaches the aim at the least cost to the other rate.

    ABOVE_ALL where no cut reaches it; nan where the rate is undefined, for want of cases.
    """
    position = np.searchsorted(cuts, score, side="right") - 1  # the last cut that predicts ICH
    predicted = np.zeros((2, len(weights), len(cuts)))  # weight predicted ICH, by class and cut
    for label in (0, 1):
        rows = np.flatnonzero(truth == label)
        mass = np.zeros((len(weights), len(cuts)))
        np.add.at(mass.T, position[rows], weights[:, rows].T)
        predicted[label] = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]
    sensitivity = ratio(predicted[1], predicted[1][:, :1].repeat(len(cuts), axis=1))
    specificity = 1 - ratio(predicted[0], predicted[0][:, :1].repeat(len(cuts), axis=1))
    if aim.kind == "sensitivity":  # falls with the cut: the last that reaches it
        rate = sensitivity
        at = (sensitivity >= aim.value - TOLERANCE).sum(axis=1) - 1
    elif aim.kind == "specificity":  # rises with the cut: the first that reaches it
        rate = specificity
        at = (specificity < aim.value - TOLERANCE).sum(axis=1)
    else:
        rate = sensitivity + specificity
        at = rate.argmax(axis=1)
    return np.where(np.isnan(rate[:, 0]), np.nan, np.append(cuts, ABOVE_ALL)[at])


def _assured(
    value: float, score: Float[np.ndarray, " n"], subject: Int[np.ndarray, " n"]
) -> float | str:
    """The lowest score to predict ICH at, or why there is none; one row per subject.

    Of n independent subjects, the sensitivity at the r-th lowest score is distributed as
    Beta(n - r + 1, r) (Wilks 1941): the largest r whose lower bound is at least `value`.
    """
    n = len(score)
    if len(np.unique(subject)) < n:
        return "slices of one subject are not independent: this point is by subject only"
    r = np.arange(1, n + 1)
    holds = distributions.beta.sf(value, n - r + 1, r) >= bootstrap.LEVEL
    if not holds.any():
        needed = int(np.ceil(np.log(1 - bootstrap.LEVEL) / np.log(value)))
        return f"needs {needed} ICH subjects or more; the validation set has {n}"
    return float(np.sort(score)[holds.sum() - 1])
