"""Uncertainty: the sample is the subject, so subjects are what is resampled.

Slices of one person resemble each other; an interval that takes them for independent is too short.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy import special

METHOD = (
    "bootstrap over subjects, stratified by class: hull of the BCa and the percentile interval, "
    "both Student-stretched"
)
RESAMPLES = 10_000
LEVEL = 0.95
_EQUAL = 1e-12
_CHUNK_CELLS = 1 << 19  # weights held at once, 4 MB: they stay in the processor's cache

Statistic = Callable[[Float[np.ndarray, "r n"]], dict[str, Float[np.ndarray, " r"]]]
"""Metrics of n rows under r weightings of them, as the functions of `metrics` compute them."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number, its 95% interval, and how often a resample left it undefined (0 to 1).

    `low` and `high` are nan where the number itself is, or where no resample moved it: then
    the sample holds no error to resample, which is not the same as no uncertainty.
    `p` is the two-sided p-value of `value == 0` that goes with the interval; it is of use for
    differences only.
    """

    value: float
    low: float
    high: float
    undefined: float
    p: float


def subject_counts(
    strata: Int[np.ndarray, " subjects"], resamples: int, seed: int, chunk: int
) -> Iterator[Int[np.ndarray, "chunk subjects"]]:
    """How often each subject is drawn, `chunk` resamples at a time.

    Subjects are drawn with replacement within their stratum, so each resample has as many of each
    class as the sample. The draws depend on the seed, not on the chunk.
    """
    labels = np.unique(strata)
    members = [np.flatnonzero(strata == label) for label in labels]
    streams = [np.random.default_rng([seed, i]) for i in range(len(labels))]
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        counts = np.zeros((rows, len(strata)), np.int64)
        for inside, stream in zip(members, streams, strict=True):
            drawn = stream.integers(len(inside), size=(rows, len(inside)))
            flat = drawn + np.arange(rows)[:, None] * len(inside)
            counts[:, inside] = np.bincount(flat.ravel(), minlength=counts[:, inside].size).reshape(
                rows, -1
            )
        yield counts


def bootstrap(
    statistic: Statistic,
    subject: Int[np.ndarray, " n"],
    strata: Int[np.ndarray, " subjects"],
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    difference: bool = False,
) -> dict[str, Interval]:
    """95% intervals of all of a statistic's metrics, over subjects.

    subject: for each row its place in `strata`, which holds each subject's class; without
    rows all is nan. The interval is the hull of BCa's (Efron 1987) and the percentile interval,
    both stretched as `_jackknife` says: each alone falls short for some metric (BCa for skewed
    means such as average precision, percentiles near 1). Chosen by measured coverage, see
    benchmarks/interval_coverage.py.
    difference: the metrics are differences of paired ones, near symmetric about their value; the
    stretched percentile interval then holds its level where BCa takes heavy tails for skewness.
    """
    rows = len(subject)
    value = {name: float(v[0]) for name, v in statistic(np.ones((1, rows))).items()}
    if rows == 0:
        return {name: Interval(v, np.nan, np.nan, 1.0, np.nan) for name, v in value.items()}
    chunk = max(1, _CHUNK_CELLS // rows)
    drawn = _collect(
        statistic(counts[:, subject].astype(np.float64))
        for counts in subject_counts(strata, resamples, seed, chunk)
    )
    left_out = _collect(
        statistic((np.arange(start, min(start + chunk, len(strata)))[:, None] != subject) * 1.0)
        for start in range(0, len(strata), chunk)
    )
    return {
        name: _interval(value[name], drawn[name], left_out[name], strata, plain=difference)
        for name in value
    }


def _collect(
    parts: Iterator[dict[str, Float[np.ndarray, " r"]]],
) -> dict[str, Float[np.ndarray, " total"]]:
    chunks = list(parts)
    return {name: np.concatenate([part[name] for part in chunks]) for name in chunks[0]}


def _interval(
    value: float,
    drawn: Float[np.ndarray, " r"],
    left_out: Float[np.ndarray, " subjects"],
    strata: Int[np.ndarray, " subjects"],
    *,
    plain: bool,
) -> Interval:
    """The hull of BCa and percentiles, or (plain) percentiles, stretched as `_jackknife` says."""
    known = drawn[np.isfinite(drawn)]
    undefined = 1 - len(known) / len(drawn)
    none = Interval(value, np.nan, np.nan, undefined, np.nan)
    if not np.isfinite(value) or len(known) == 0 or np.ptp(known) <= _EQUAL:
        return none
    skew, stretch, freedom = _jackknife(left_out, strata)
    z = np.array([-1, 1]) * stretch * _student_quantile(freedom)
    low, high = np.quantile(known, special.ndtr(z))
    if not plain:
        ends = np.quantile(known, special.ndtr(_bca(z, _bias(known, value), skew)))
        low, high = min(low, ends[0]), max(high, ends[1])
    if high - low <= _EQUAL:
        return none
    # The p-value is that of the widest percentile interval that leaves 0 out.
    score = -abs(_bias(known, 0.0)) / stretch
    p = 2 * (special.stdtr(freedom, score) if np.isfinite(freedom) else special.ndtr(score))
    return Interval(value, float(low), float(high), undefined, float(p))


def _student_quantile(freedom: float) -> float:
    tail = (1 + LEVEL) / 2
    return float(special.stdtrit(freedom, tail) if np.isfinite(freedom) else special.ndtri(tail))


def _bca(z: Float[np.ndarray, " 2"], bias: float, skew: float) -> Float[np.ndarray, " 2"]:
    """The ends, in normal quantiles, corrected for bias and acceleration."""
    z = bias + z
    room = 1 - skew * z
    return np.where(room > 0, bias + z / np.where(room > 0, room, 1), np.sign(z) * np.inf)


def _bias(drawn: Float[np.ndarray, " r"], value: float) -> float:
    """The normal quantile of the share of `drawn` below `value`, equal ones counting half."""
    below = (drawn < value - _EQUAL).mean() + (np.abs(drawn - value) <= _EQUAL).mean() / 2
    least = 1 / (len(drawn) + 1)
    return float(special.ndtri(np.clip(below, least, 1 - least)))


def _jackknife(
    left_out: Float[np.ndarray, " subjects"], strata: Int[np.ndarray, " subjects"]
) -> tuple[float, float, float]:
    """BCa's acceleration, the stretch for small strata and the degrees of freedom.

    Drawing n of n understates a stratum's variance by (n - 1) / n, and the normal quantile
    overstates what n subjects know of it: the stretch and Student's t of Satterthwaite's degrees
    of freedom, from each stratum's part in the variance, make up for both.
    """
    influence = np.zeros(len(strata))
    parts, sizes = [], []
    for label in np.unique(strata):
        inside = (strata == label) & np.isfinite(left_out)
        if inside.sum() > 1:
            influence[inside] = left_out[inside].mean() - left_out[inside]
            parts.append((influence[inside] ** 2).sum())
            sizes.append(inside.sum())
    part, size = np.array(parts), np.array(sizes)
    total = part.sum()
    if total <= _EQUAL**2:
        return 0.0, 1.0, np.inf
    whole = part * size / (size - 1)
    freedom = whole.sum() ** 2 / (whole**2 / (size - 1)).sum()
    skew = (influence**3).sum() / (6 * total**1.5)
    return float(skew), float(np.sqrt(whole.sum() / total)), float(freedom)


def strata_of(
    hemorrhage: Int[np.ndarray, " subjects"], location: Int[np.ndarray, " subjects"]
) -> Int[np.ndarray, " subjects"]:
    """A number for each class of subject: -1 unknown, 0 normal, 1 ICH, 2 and up by location.

    The only subject of its location joins the ICH of unknown location: alone it could not vary.
    """
    strata = np.where(hemorrhage == 1, 2 + location.astype(np.int64), hemorrhage)
    labels, counts = np.unique(strata, return_counts=True)
    alone = labels[(counts == 1) & (labels > 1)]
    return np.where(np.isin(strata, alone), 1, strata)
