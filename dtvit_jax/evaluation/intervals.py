"""Counts behind the rates, exact intervals, and the reasons for numbers that are not there."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy import optimize
from scipy import stats as distributions

from data_builder.records import LOCATIONS
from dtvit_jax.evaluation.bootstrap import LEVEL

NO_VARIATION = "no interval: the sample holds no variation to resample"

Mask = Bool[np.ndarray, " n"]
Entries = dict[str, dict[str, Any]]


def add_exact(
    entries: Entries,
    task: str,
    truth: Int[np.ndarray, " n"],
    called: Int[np.ndarray, " n"],
    subject: Shaped[np.ndarray, " n"],
    *,
    independent: bool,
) -> None:
    """Adds counts, exact intervals, and an interval where resampling could move nothing.

    independent: each row is a subject of its own; only then is the exact interval given beside
    the bootstrap's. Slices without a single error still come from few people: their interval is
    that of as many trials as subjects, as if all slices of one person said the same.
    """
    for name, rows in _denominators(task, truth, called).items():
        entry = entries.get(name, {"value": None})
        if entry["value"] is None:
            continue
        right = called == truth
        if name.startswith("specificity_"):
            c = LOCATIONS.index(name.partition("_")[2])
            right = (called == c) == (truth == c)
        count, of = int(right[rows].sum()), int(rows.sum())
        entry |= {"count": count, "of": of}
        people = _people(subject, rows)
        exact = exact_interval(round(people * count / of), people)
        if independent:
            entry["exact"] = dict(zip(("low", "high"), exact, strict=True))
        if entry["low"] is None:
            _stand_in(entry, exact, f"exact, of {people} subjects")
    for name, positive in _areas(task, truth).items():
        entry = entries.get(name, {"value": None})
        if entry["value"] is None:
            continue
        people, others = _people(subject, positive), _people(subject, ~positive)
        score = auroc_interval(entry["value"], people, others)
        if independent:
            entry["score"] = dict(zip(("low", "high"), score, strict=True))
        if entry["low"] is None:
            _stand_in(entry, score, f"score interval, of {people} and {others} subjects")


def _denominators(
    task: str, truth: Int[np.ndarray, " n"], called: Int[np.ndarray, " n"]
) -> dict[str, Mask]:
    """Each rate's denominator as rows; its numerator is the rows of these that are right."""
    rows = {"accuracy": np.ones(len(truth), bool)}
    if task == "hemorrhage":
        rows |= {"sensitivity": truth == 1, "recall": truth == 1}
        return rows | {"specificity": truth == 0, "precision": called == 1, "npv": called == 0}
    for c, name in enumerate(LOCATIONS):
        rows |= {f"recall_{name}": truth == c, f"precision_{name}": called == c}
        rows |= {f"specificity_{name}": truth != c}
    return rows


def _areas(task: str, truth: Int[np.ndarray, " n"]) -> dict[str, Mask]:
    if task == "hemorrhage":
        return {"auroc": truth == 1}
    return {f"auroc_{name}": truth == c for c, name in enumerate(LOCATIONS)}


def _people(subject: Shaped[np.ndarray, " n"], rows: Mask) -> int:
    return len(np.unique(subject[rows]))


def _stand_in(entry: dict[str, Any], interval: tuple[float, float], method: str) -> None:
    entry |= {"low": interval[0], "high": interval[1], "method": method}
    del entry["reason"]


def add_reasons(
    entries: Entries, level: str, names: tuple[str, ...], matrix: Int[np.ndarray, "c c"]
) -> None:
    """Says why a metric has no value."""
    empty = not matrix.sum()
    absent = [name for name, row in zip(names, matrix, strict=True) if not row.sum()]
    for name, entry in entries.items():
        if empty:
            entry["reason"] = f"no {level} with a known truth and a prediction for this task"
        elif entry["value"] is not None:
            continue
        elif name.startswith(("precision", "npv")):
            called = {"npv": names[0], "precision": names[-1]}
            entry["reason"] = f"no {level} was called {called.get(name, name.partition('_')[2])}"
        else:
            entry["reason"] = f"no {level} is truly {' or '.join(absent)}"


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

    Of use where the classes are few or parted without error: resampling then has nothing to
    move, and this interval still has a length. Raises ValueError without both classes.
    """
    if positives < 1 or negatives < 1:
        raise ValueError("an AUROC needs a positive and a negative")
    z = distributions.norm.ppf((1 + LEVEL) / 2)
    extra = (positives + negatives) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        variance = theta * (1 - theta) * spread / (positives * negatives)
        return (theta - area) ** 2 - z**2 * variance

    low = 0.0 if area <= 0 else float(optimize.brentq(excess, 0.0, area - 1e-12))
    high = 1.0 if area >= 1 else float(optimize.brentq(excess, area + 1e-12, 1.0))
    return low, high
