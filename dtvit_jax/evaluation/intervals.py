"""Estimates: a metric's value with its 95% interval, or the reason why there is none.

The interval is the bootstrap's. Proportions and AUROC have a closed-form interval too, which is
reported where subjects are independent trials, and replaces the bootstrap's where every resample
has the same value (a sample without an error).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy import optimize
from scipy import stats as distributions

from data_builder.records import LOCATIONS
from dtvit_jax.evaluation.bootstrap import LEVEL, Interval
from dtvit_jax.evaluation.schema import Bounds, Estimate, Task

NO_VARIATION = "no interval: all resamples have the same value"
NO_ECE_INTERVAL = (
    "no interval: the ECE of a small sample is biased upwards, that of its resamples even more"
)

Mask = Bool[np.ndarray, " n"]
Classes = Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """An interval that follows from counts alone.

    Attributes:
      low, high: its ends.
      method: its name, with the number of subjects it is computed for.
      count, of: numerator and denominator of a proportion; None for an AUROC.
    """

    low: float
    high: float
    method: str
    count: int | None = None
    of: int | None = None


def estimate(
    name: str,
    interval: Interval,
    closed: ClosedForm | None = None,
    *,
    independent: bool = False,
    undefined: str = "",
    no_rows: str = "",
) -> Estimate:
    """Builds the estimate of the metric `name`. The ECE has no interval: resamples are biased.

    Args:
      name: the metric.
      interval: the bootstrap's.
      closed: the closed form, if the metric has one.
      independent: each row is a subject of its own, so the closed form is reported too.
      undefined: the reason to give where the value is undefined.
      no_rows: the reason to give where the sample has no row for the task; some metrics have a
        value even then (F1: 0).
    """
    value, low, high = map(finite, (interval.value, interval.low, interval.high))
    entry: Estimate = {"value": value, "low": low, "high": high}
    if value is None:
        return entry | {"reason": undefined} if undefined else entry
    if name == "ece":
        entry |= {"low": None, "high": None, "reason": NO_ECE_INTERVAL}
    elif closed is None and low is None:
        entry["reason"] = no_rows or NO_VARIATION
    if interval.undefined > 0:
        entry["undefined_resamples"] = round(interval.undefined, 4)
    if closed is None:
        return entry
    if closed.count is not None and closed.of is not None:
        entry |= {"count": closed.count, "of": closed.of}
    if independent:
        bounds: Bounds = {"low": closed.low, "high": closed.high}
        entry |= {"score": bounds} if closed.of is None else {"exact": bounds}
    if low is None:
        entry |= {"low": closed.low, "high": closed.high, "method": closed.method}
    return entry


def finite(value: float) -> float | None:
    """The value; None where it is nan or infinite, which JSON can't hold."""
    return value if np.isfinite(value) else None


def closed_form(
    name: str,
    value: float,
    task: Task,
    truth: Classes,
    predicted: Classes,
    subject: Shaped[np.ndarray, " n"],
) -> ClosedForm | None:
    """The closed-form interval of a proportion or an AUROC; None for another metric.

    value: the metric's; without a denominator it is nan, and there is no interval. Slices of one
    subject are not independent: the interval is that of as many trials as there are subjects, as if
    all slices of a subject agreed.
    """
    if not np.isfinite(value):
        return None
    if name.startswith("auroc"):
        positive = truth == (1 if task == "hemorrhage" else LOCATIONS.index(name[len("auroc_") :]))
        positives, negatives = _subjects(subject, positive), _subjects(subject, ~positive)
        method = f"score interval, of {positives} and {negatives} subjects"
        return ClosedForm(*auroc_interval(value, positives, negatives), method)
    rows = _denominator(name, task, truth, predicted)
    if rows is None:
        return None
    correct = predicted == truth
    if name.startswith("specificity_"):
        location = LOCATIONS.index(name.removeprefix("specificity_"))
        correct = (predicted == location) == (truth == location)
    count, of, subjects = int(correct[rows].sum()), int(rows.sum()), _subjects(subject, rows)
    bounds = exact_interval(round(subjects * count / of), subjects)
    return ClosedForm(*bounds, f"exact, of {subjects} subjects", count, of)


def _denominator(name: str, task: Task, truth: Classes, predicted: Classes) -> Mask | None:
    """The rows that a proportion counts; its numerator is those of them that are correct."""
    if name == "accuracy":
        return np.ones(len(truth), bool)
    if task == "hemorrhage":
        return {
            "sensitivity": truth == 1,
            "recall": truth == 1,
            "specificity": truth == 0,
            "precision": predicted == 1,
            "npv": predicted == 0,
        }.get(name)
    rate, _, location = name.partition("_")
    if location not in LOCATIONS:
        return None
    c = LOCATIONS.index(location)
    return {"recall": truth == c, "precision": predicted == c, "specificity": truth != c}.get(rate)


def _subjects(subject: Shaped[np.ndarray, " n"], rows: Mask) -> int:
    return len(np.unique(subject[rows]))


def why_no_rows(level: str, matrix: Int[np.ndarray, "c c"]) -> str:
    """Why no metric of a task has a value; empty if the confusion matrix has rows."""
    return "" if matrix.sum() else f"no {level} with a known truth and a prediction for this task"


def why_undefined(
    name: str, level: str, classes: tuple[str, ...], matrix: Int[np.ndarray, "c c"]
) -> str:
    """Why a metric has no value though the confusion matrix (the truth in rows) is not empty."""
    if name.startswith(("precision", "npv")):
        predicted = {"npv": classes[0], "precision": classes[-1]}
        return f"no {level} is predicted {predicted.get(name, name.partition('_')[2])}"
    absent = [label for label, row in zip(classes, matrix, strict=True) if not row.sum()]
    return f"no {level} of class {' or '.join(absent)}"


def exact_interval(successes: int, trials: int) -> tuple[float, float]:
    """95% Clopper-Pearson interval of a proportion of independent trials; (0, 1) of none.

    Raises ValueError unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    tail = (1 - LEVEL) / 2
    beta = distributions.beta
    low = beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    high = beta.isf(tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def auroc_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """95% score interval of an AUROC of independent subjects (Newcombe 2006, method 5).

    It has a length even where the classes are small or separated without an error, so that
    resampling changes nothing. Raises ValueError without both classes.
    """
    if positives < 1 or negatives < 1:
        raise ValueError("an AUROC needs a positive and a negative")
    z = distributions.norm.ppf((1 + LEVEL) / 2)
    extra = (positives + negatives) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        variance = theta * (1 - theta) * spread / (positives * negatives)
        return (theta - area) ** 2 - z**2 * variance

    # brentq needs ends of opposite sign: at theta = area the variance term alone remains.
    low = 0.0 if area <= 0 else float(optimize.brentq(excess, 0.0, area - 1e-12))
    high = 1.0 if area >= 1 else float(optimize.brentq(excess, area + 1e-12, 1.0))
    return low, high
