"""Weighted classification metrics, for many weightings of the same rows at once.

Every function takes `weights [r, n]`: r resamples of n rows, a weight being how often a row was
drawn (all ones: the sample itself). It returns [r]; nan where a resample leaves the metric without
a denominator. The positive class is ICH. The paper's Eq. 6 to 10 are here, Eq. 10 as
TN / (TN + FP): it is printed upside down.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from data_builder.records import LOCATIONS

ECE_BINS = 10
Weights = Float[np.ndarray, "r n"]
Values = Float[np.ndarray, " r"]


def hemorrhage_metrics(
    truth: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    weights: Weights,
    threshold: float = 0.5,
) -> dict[str, Values]:
    """All metrics of the ICH task. truth: 1 ICH, 0 normal; ICH is called at p >= threshold."""
    called = probability >= threshold
    tp, fn, fp, tn = confusion_cells(truth == 1, called, weights)
    sensitivity = _ratio(tp, tp + fn)
    specificity = _ratio(tn, tn + fp)
    return {
        "accuracy": _ratio(tp + tn, tp + tn + fp + fn),  # Eq. 6
        "precision": _ratio(tp, tp + fp),  # Eq. 7
        "recall": sensitivity,  # Eq. 8
        "sensitivity": sensitivity,
        "specificity": specificity,  # Eq. 10
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),  # Eq. 9
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "auroc": auroc(truth == 1, probability, weights),
        "average_precision": average_precision(truth == 1, probability, weights),
        "brier": _mean((probability - truth) ** 2, weights),
        "ece": expected_calibration_error(truth == 1, probability, weights),
        "log_loss": log_loss(truth, np.stack([1 - probability, probability], axis=1), weights),
    }


def location_metrics(
    truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n 3"], weights: Weights
) -> dict[str, Values]:
    """All metrics of the location task over rows that are truly ICH.

    truth: index into LOCATIONS; the most probable location is called. A macro average is the plain
    mean over the three classes, and nan where one of them has no true row; as in scikit-learn a
    class that is never called counts there as precision 0. `macro_auroc`: each against the rest.
    """
    called = probabilities.argmax(axis=1)
    cells = [confusion_cells(truth == c, called == c, weights) for c in range(len(LOCATIONS))]
    recall = np.stack([_ratio(tp, tp + fn) for tp, fn, _, _ in cells])
    precision = np.stack([_ratio(tp, tp + fp) for tp, _, fp, _ in cells])
    specificity = np.stack([_ratio(tn, tn + fp) for _, _, fp, tn in cells])
    f1 = np.stack([_ratio(2 * tp, 2 * tp + fp + fn, empty=0.0) for tp, fn, fp, _ in cells])
    areas = [auroc(truth == c, probabilities[:, c], weights) for c in range(len(LOCATIONS))]
    present = np.stack([tp + fn for tp, fn, _, _ in cells])
    macro = np.where((present > 0).all(axis=0), 1.0, np.nan)
    return {
        "accuracy": _mean((called == truth).astype(np.float64), weights),
        "macro_recall": recall.mean(axis=0),
        "macro_precision": np.nan_to_num(precision).mean(axis=0) * macro,
        "macro_f1": f1.mean(axis=0) * macro,
        "weighted_f1": _ratio((f1 * present).sum(axis=0), present.sum(axis=0)),
        "macro_specificity": specificity.mean(axis=0),
        "macro_auroc": np.mean(areas, axis=0),
        "log_loss": log_loss(truth, probabilities, weights),
        **{f"recall_{name}": recall[c] for c, name in enumerate(LOCATIONS)},
        **{f"precision_{name}": precision[c] for c, name in enumerate(LOCATIONS)},
        **{f"auroc_{name}": areas[c] for c, name in enumerate(LOCATIONS)},
    }


def combined_metrics(
    truth: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    location: Int[np.ndarray, " n"],
    p_location: Float[np.ndarray, "n 3"],
    weights: Weights,
    threshold: float = 0.5,
) -> dict[str, Values]:
    """Both tasks as one number, the way of the paper's Table 4.

    `pooled_accuracy`: right decisions of both tasks by all decisions made; a normal slice has one
    (the paper's fourth class 'none' gave it a second). `mean_accuracy`: of the tasks' accuracies.
    `loss`: half of each task's cross-entropy. location: -1 where there is none.
    """
    right = (probability >= threshold) == (truth == 1)
    ich = location >= 0
    place_right = p_location[ich].argmax(axis=1) == location[ich]
    first, second = weights @ right, weights[:, ich] @ place_right
    decisions, places = weights.sum(axis=1), weights[:, ich].sum(axis=1)
    both = np.stack([1 - probability, probability], axis=1)
    losses = log_loss(truth, both, weights) + log_loss(
        location[ich], p_location[ich], weights[:, ich]
    )
    return {
        "pooled_accuracy": _ratio(first + second, decisions + places),
        "mean_accuracy": (_ratio(first, decisions) + _ratio(second, places)) / 2,
        "loss": losses / 2,
    }


def confusion_matrix(
    truth: Int[np.ndarray, " n"], called: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts: rows are the truth, columns what was called."""
    cells = np.bincount(truth.astype(int) * classes + called.astype(int), minlength=classes**2)
    return cells.reshape(classes, classes)


def confusion_cells(
    truth: Bool[np.ndarray, " n"], called: Bool[np.ndarray, " n"], weights: Weights
) -> tuple[Values, Values, Values, Values]:
    """TP, FN, FP, TN: the weight in each."""
    cells = np.stack([truth & called, truth & ~called, ~truth & called, ~truth & ~called], axis=1)
    tp, fn, fp, tn = (weights @ cells.astype(np.float64)).T
    return tp, fn, fp, tn


def auroc(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], weights: Weights
) -> Values:
    """Area under the ROC curve: P(score of a positive > of a negative), a tie counting half.

    Negatives are sorted once; their cumulative weight below each positive is a look-up.
    """
    positive, negative = np.flatnonzero(truth), np.flatnonzero(~truth)
    negative = negative[np.argsort(score[negative], kind="stable")]
    below = np.searchsorted(score[negative], score[positive], side="left")
    not_above = np.searchsorted(score[negative], score[positive], side="right")
    mass = _cumulative(weights[:, negative])
    w = weights[:, positive]
    wins = np.einsum("rp,rp->r", w, mass[:, below] + mass[:, not_above]) / 2
    return _ratio(wins, w.sum(axis=1) * mass[:, -1])


def average_precision(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], weights: Weights
) -> Values:
    """Mean over positives of the precision at the threshold that is the positive's own score."""
    order = np.argsort(-score, kind="stable")
    ranked, mass = truth[order], _cumulative(weights[:, order])
    hits = _cumulative(weights[:, order] * ranked)
    last = np.searchsorted(-score[order], -score[order[ranked]], side="right")
    precision = _ratio(hits[:, last], mass[:, last], empty=0.0)
    total = np.einsum("rp,rp->r", weights[:, order[ranked]], precision)
    return _ratio(total, hits[:, -1])


def expected_calibration_error(
    truth: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"], weights: Weights
) -> Values:
    """Mean over ECE_BINS equal bins of |share of ICH - mean p|, weighted by the rows in a bin."""
    gaps = np.zeros((len(truth), ECE_BINS))
    gaps[np.arange(len(truth)), _bin(probability)] = truth - probability.astype(np.float64)
    return _ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def roc_sensitivity(
    truth: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    weights: Weights,
    false_positive_rate: Float[np.ndarray, " g"],
) -> Float[np.ndarray, "r g"]:
    """The ROC curve read at given false positive rates, straight lines between thresholds."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.nan)) + 1
    at = np.concatenate([[0], ends])
    hits = _cumulative(weights[:, order] * truth[order])[:, at]
    alarms = _cumulative(weights[:, order] * ~truth[order])[:, at]
    curves = np.full((len(weights), len(false_positive_rate)), np.nan)
    for row in np.flatnonzero((hits[:, -1] > 0) & (alarms[:, -1] > 0)):
        rates = hits[row] / hits[row, -1], alarms[row] / alarms[row, -1]
        curves[row] = np.interp(false_positive_rate, rates[1], rates[0])
    return curves


def reliability_bins(
    truth: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """Mean p, share of ICH and number of rows of each of the ECE's bins that holds any."""
    bins = _bin(probability)
    used, place, count = np.unique(bins, return_inverse=True, return_counts=True)
    mean = np.bincount(place, probability, len(used)) / count
    return mean, np.bincount(place, truth, len(used)) / count, count


def log_loss(
    truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n classes"], weights: Weights
) -> Values:
    """Mean of -log p(true class) in nats; p is kept above float64's epsilon, as scikit-learn's."""
    floor = np.finfo(np.float64).eps
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return _mean(-np.log(np.clip(of_truth, floor, 1 - floor)), weights)


def _bin(probability: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)


def _cumulative(weights: Weights) -> Float[np.ndarray, "r n1"]:
    """Weight of the first 0, 1, ... n columns."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def _mean(values: Float[np.ndarray, " n"], weights: Weights) -> Values:
    return _ratio(weights @ values.astype(np.float64), weights.sum(axis=1))


def _ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), empty), where=whole > 0)
