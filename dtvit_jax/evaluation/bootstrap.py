"""95% intervals of metrics, from a bootstrap over subjects.

Slices of one subject are correlated; an interval that takes them as independent is too narrow.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from dtvit_jax.evaluation.ranking import Values, Weights

METHOD = (
    "bootstrap over subjects, stratified by class: hull of the BCa and the percentile interval, "
    "both Student-stretched"
)
RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
_EQUAL = 1e-12  # differences below it are rounding
_CHUNK_CELLS = 1 << 19  # weights in memory at once, 4 MB: they stay in the processor's cache

Statistic = Callable[[Weights], dict[str, Values]]
"""Computes metrics of n rows under r weightings of them, as the functions of `metrics` do."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A metric's value and its 95% interval.

    Attributes:
      value: nan where the sample leaves it undefined.
      low, high: nan where the value is, or where every resample has the same value: such a sample
        holds no error to resample, which does not mean that there is no uncertainty.
      undefined: share of resamples that leave the value undefined, 0 to 1.
      p: two-sided p-value of `value == 0` that agrees with the interval; for differences only.
    """

    value: float
    low: float
    high: float
    undefined: float
    p: float


def subject_counts(
    strata: Int[np.ndarray, " subjects"], resamples: int, seed: int, chunk: int
) -> Iterator[Int[np.ndarray, "chunk subjects"]]:
    """Yields how often each subject is drawn, `chunk` resamples at a time.

    Subjects are drawn with replacement within their stratum, so each resample has as many of each
    class as the sample. The draws depend on the seed, not on the chunk.
    """
    labels = np.unique(strata)
    members = [np.flatnonzero(strata == label) for label in labels]
    streams = [np.random.default_rng([seed, i]) for i in range(len(labels))]
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        counts = np.zeros((rows, len(strata)), np.int64)
        for stratum, stream in zip(members, streams, strict=True):
            size = len(stratum)
            drawn = stream.integers(size, size=(rows, size))
            flat = drawn + np.arange(rows)[:, None] * size
            counts[:, stratum] = np.bincount(flat.ravel(), minlength=rows * size).reshape(rows, -1)
        yield counts


def bootstrap(
    statistic: Statistic,
    subject: Int[np.ndarray, " n"],
    strata: Int[np.ndarray, " subjects"],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    *,
    difference: bool = False,
) -> dict[str, Interval]:
    """Computes 95% intervals of all of a statistic's metrics, over subjects.

    subject: each row's index into `strata`, the subjects' classes; without rows all is nan.
    The interval is the hull of the BCa (Efron 1987) and the percentile interval, both stretched
    (`_jackknife`): each alone undercovers for some metric (BCa for skewed means such as average
    precision, percentiles near 1). Chosen by measured coverage, see
    benchmarks/interval_coverage.py.
    difference: the metrics are paired differences, which are nearly symmetric about their value;
    the stretched percentile interval then keeps its level, where BCa takes heavy tails for skew.
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
    chunks: Iterator[dict[str, Float[np.ndarray, " r"]]],
) -> dict[str, Float[np.ndarray, " total"]]:
    values = list(chunks)
    return {name: np.concatenate([chunk[name] for chunk in values]) for name in values[0]}


def _interval(
    value: float,
    drawn: Float[np.ndarray, " r"],
    left_out: Float[np.ndarray, " subjects"],
    strata: Int[np.ndarray, " subjects"],
    *,
    plain: bool,
) -> Interval:
    """The hull of the BCa and the percentile interval, or (plain) the latter; both stretched."""
    defined = drawn[np.isfinite(drawn)]
    undefined = 1 - len(defined) / len(drawn)
    no_interval = Interval(value, np.nan, np.nan, undefined, np.nan)
    if not np.isfinite(value) or len(defined) == 0 or np.ptp(defined) <= _EQUAL:
        return no_interval
    skew, stretch, freedom = _jackknife(left_out, strata)
    z = np.array([-1, 1]) * stretch * _student_quantile(freedom)
    low, high = np.quantile(defined, special.ndtr(z))
    if not plain:
        ends = np.quantile(defined, special.ndtr(_bca(z, _bias(defined, value), skew)))
        low, high = min(low, ends[0]), max(high, ends[1])
    if high - low <= _EQUAL:
        return no_interval
    # The level at which the end of the stretched percentile interval reaches 0.
    score = -abs(_bias(defined, 0.0)) / stretch
    p = 2 * (special.stdtr(freedom, score) if np.isfinite(freedom) else special.ndtr(score))
    return Interval(value, float(low), float(high), undefined, float(p))


def _student_quantile(freedom: float) -> float:
    tail = (1 + LEVEL) / 2
    return float(special.stdtrit(freedom, tail) if np.isfinite(freedom) else special.ndtri(tail))


def _bca(z: Float[np.ndarray, " 2"], bias: float, skew: float) -> Float[np.ndarray, " 2"]:
    """Corrects the ends, as normal quantiles, for bias and acceleration (Efron 1987)."""
    z = bias + z
    scale = 1 - skew * z
    return np.where(scale > 0, bias + z / np.where(scale > 0, scale, 1), np.sign(z) * np.inf)


def _bias(drawn: Float[np.ndarray, " r"], value: float) -> float:
    """The normal quantile of the share of `drawn` below `value`; ties count half."""
    below = (drawn < value - _EQUAL).mean() + (np.abs(drawn - value) <= _EQUAL).mean() / 2
    least = 1 / (len(drawn) + 1)
    return float(special.ndtri(np.clip(below, least, 1 - least)))


def _jackknife(
    left_out: Float[np.ndarray, " subjects"], strata: Int[np.ndarray, " subjects"]
) -> tuple[float, float, float]:
    """BCa's acceleration, the stretch for small strata, and the degrees of freedom.

    left_out: the metric without each subject. Drawing n of n understates a stratum's variance by
    (n - 1) / n, and the normal quantile ignores that the variance is itself estimated from n
    subjects. The stretch corrects the first; Student's t corrects the second, with Satterthwaite's
    degrees of freedom from each stratum's share of the variance.
    """
    influence = np.zeros(len(strata))
    squares, sizes = [], []
    for label in np.unique(strata):
        stratum = (strata == label) & np.isfinite(left_out)
        if stratum.sum() > 1:
            influence[stratum] = left_out[stratum].mean() - left_out[stratum]
            squares.append((influence[stratum] ** 2).sum())
            sizes.append(stratum.sum())
    biased, size = np.array(squares), np.array(sizes)
    total = biased.sum()
    if total <= _EQUAL**2:
        return 0.0, 1.0, np.inf
    variance = biased * size / (size - 1)
    freedom = variance.sum() ** 2 / (variance**2 / (size - 1)).sum()
    skew = (influence**3).sum() / (6 * total**1.5)
    return float(skew), float(np.sqrt(variance.sum() / total)), float(freedom)


def strata_of(
    hemorrhage: Int[np.ndarray, " subjects"], location: Int[np.ndarray, " subjects"]
) -> Int[np.ndarray, " subjects"]:
    """Numbers the subjects' classes: -1 unknown, 0 normal, 1 ICH, from 2 on ICH by location.

    A location's only subject joins the ICH of unknown location: a stratum of one never varies.
    """
    strata = np.where(hemorrhage == 1, 2 + location.astype(np.int64), hemorrhage)
    labels, counts = np.unique(strata, return_counts=True)
    alone = labels[(counts == 1) & (labels > 1)]
    return np.where(np.isin(strata, alone), 1, strata)
