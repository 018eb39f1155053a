"""Metrics of the order of scores, for many weightings of the same rows at once; see `metrics`."""

import numpy as np
from jaxtyping import Bool, Float

Weights = Float[np.ndarray, "r n"]
Values = Float[np.ndarray, " r"]


def auroc(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], weights: Weights
) -> Values:
    """Computes the area under the ROC curve: P(positive's score > negative's); ties count half.

    Negatives are sorted once; their cumulative weight below each positive is looked up.
    """
    positive, negative = np.flatnonzero(truth), np.flatnonzero(~truth)
    negative = negative[np.argsort(score[negative], kind="stable")]
    below = np.searchsorted(score[negative], score[positive], side="left")
    not_above = np.searchsorted(score[negative], score[positive], side="right")
    mass = _cumulative(weights[:, negative])
    w = weights[:, positive]
    wins = np.einsum("rp,rp->r", w, mass[:, below] + mass[:, not_above]) / 2
    return ratio(wins, w.sum(axis=1) * mass[:, -1])


def average_precision(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], weights: Weights
) -> Values:
    """Computes the mean over positives of the precision at the positive's own score."""
    order = np.argsort(-score, kind="stable")
    ranked, mass = truth[order], _cumulative(weights[:, order])
    hits = _cumulative(weights[:, order] * ranked)
    last = np.searchsorted(-score[order], -score[order[ranked]], side="right")
    precision = ratio(hits[:, last], mass[:, last], empty=0.0)
    total = np.einsum("rp,rp->r", weights[:, order[ranked]], precision)
    return ratio(total, hits[:, -1])


def roc_sensitivity(
    truth: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    weights: Weights,
    false_positive_rate: Float[np.ndarray, " g"],
) -> Float[np.ndarray, "r g"]:
    """Interpolates the ROC curve linearly at given false positive rates."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.nan)) + 1
    at = np.concatenate([[0], ends])
    hits = _cumulative(weights[:, order] * truth[order])[:, at]
    false_alarms = _cumulative(weights[:, order] * ~truth[order])[:, at]
    curves = np.full((len(weights), len(false_positive_rate)), np.nan)
    for row in np.flatnonzero((hits[:, -1] > 0) & (false_alarms[:, -1] > 0)):
        sensitivity = hits[row] / hits[row, -1]
        curves[row] = np.interp(
            false_positive_rate, false_alarms[row] / false_alarms[row, -1], sensitivity
        )
    return curves


def _cumulative(weights: Weights) -> Float[np.ndarray, "r n1"]:
    """Cumulative weight of the first 0, 1, ... n columns."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Computes part / whole; `empty` where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), empty), where=whole > 0)
