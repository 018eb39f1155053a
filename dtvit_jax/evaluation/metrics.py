"""Weighted classification metrics, for many weightings of the same rows at once.

Every function takes `weights [r, n]`: r resamples of n rows, a weight being how often a row was
drawn (all ones: the sample itself). It returns [r]; nan where a resample leaves the metric without
a denominator. The positive class is ICH. The paper's Eq. 6 to 10 are here, Eq. 10 as
TN / (TN + FP): it is printed upside down.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from data_builder.records import LOCATIONS
from dtvit_jax.evaluation.ranking import Values, Weights, auroc, average_precision, ratio

ECE_BINS = 10


def hemorrhage_metrics(
    truth: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    weights: Weights,
    threshold: float = 0.5,
) -> dict[str, Values]:
    """All metrics of the ICH task. truth: 1 ICH, 0 normal; ICH is called at p >= threshold."""
    return hemorrhage_rates(truth == 1, probability >= threshold, weights) | {
        "auroc": auroc(truth == 1, probability, weights),
        "average_precision": average_precision(truth == 1, probability, weights),
        "brier": _mean((probability - truth) ** 2, weights),
        "ece": expected_calibration_error(truth == 1, probability, weights),
        "log_loss": log_loss(truth, np.stack([1 - probability, probability], axis=1), weights),
    }


def hemorrhage_rates(
    truth: Bool[np.ndarray, " n"], called: Bool[np.ndarray, " n"], weights: Weights
) -> dict[str, Values]:
    """What follows from the confusion matrix of the ICH task. `npv`: negative predictive value."""
    tp, fn, fp, tn = confusion_cells(truth, called, weights)
    sensitivity = ratio(tp, tp + fn)
    specificity = ratio(tn, tn + fp)
    return {
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),  # Eq. 6
        "precision": ratio(tp, tp + fp),  # Eq. 7
        "npv": ratio(tn, tn + fn),
        "recall": sensitivity,  # Eq. 8
        "sensitivity": sensitivity,
        "specificity": specificity,  # Eq. 10
        "f1": ratio(2 * tp, 2 * tp + fp + fn),  # Eq. 9
        "balanced_accuracy": (sensitivity + specificity) / 2,
    }


def location_metrics(
    truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n 3"], weights: Weights
) -> dict[str, Values]:
    """All metrics of the location task over rows that are truly ICH; the likeliest is called.

    truth: index into LOCATIONS. `brier`: the sum over classes; `ece`: of the called class's
    probability. See `location_rates` for the averages.
    """
    called = probabilities.argmax(axis=1)
    classes = range(len(LOCATIONS))
    present = np.stack([weights @ (truth == c).astype(np.float64) for c in classes])
    areas = [auroc(truth == c, probabilities[:, c], weights) for c in classes]
    precision = [average_precision(truth == c, probabilities[:, c], weights) for c in classes]
    errors = ((probabilities - np.eye(len(LOCATIONS))[truth]) ** 2).sum(axis=1)
    return (
        location_rates(truth, called, weights)
        | _averages("auroc", np.stack(areas), present)
        | _averages("average_precision", np.stack(precision), present)
        | {
            "brier": _mean(errors, weights),
            "ece": expected_calibration_error(
                called == truth, probabilities.max(axis=1, initial=0), weights
            ),
            "log_loss": log_loss(truth, probabilities, weights),
        }
    )


def location_rates(
    truth: Int[np.ndarray, " n"], called: Int[np.ndarray, " n"], weights: Weights
) -> dict[str, Values]:
    """What follows from the confusion matrix of the location task.

    Recall, precision, specificity and F1 of each class against the rest (`recall_deep`), their
    plain mean (`macro_recall`: the balanced accuracy) and their mean weighted by true rows
    (`weighted_f1`; the weighted recall is the accuracy). A macro average is nan where a class has
    no true row; as in scikit-learn a class that is never called counts in averages as precision 0.
    """
    cells = [confusion_cells(truth == c, called == c, weights) for c in range(len(LOCATIONS))]
    tp, fn, fp, tn = (np.stack(cell) for cell in zip(*cells, strict=True))
    present = tp + fn
    return (
        {"accuracy": _mean((called == truth).astype(np.float64), weights)}
        | _averages("recall", ratio(tp, present), present)
        | _averages("precision", ratio(tp, tp + fp), present)
        | _averages("specificity", ratio(tn, tn + fp), present)
        | _averages("f1", ratio(2 * tp, 2 * tp + fp + fn, empty=0.0), present)
    )


def _averages(
    name: str, values: Float[np.ndarray, "classes r"], present: Float[np.ndarray, "classes r"]
) -> dict[str, Values]:
    """A metric of each class, its macro and its weighted average."""
    counted = np.nan_to_num(values) if name == "precision" else values
    whole = np.where((present > 0).all(axis=0), 1.0, np.nan)
    found = {f"macro_{name}": counted.mean(axis=0) * whole}
    if name != "recall":
        parts = np.where(present > 0, counted, 0.0) * present
        found[f"weighted_{name}"] = ratio(parts.sum(axis=0), present.sum(axis=0))
    return found | {f"{name}_{LOCATIONS[c]}": values[c] for c in range(len(LOCATIONS))}


def combined_metrics(
    truth: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    location: Int[np.ndarray, " n"],
    p_location: Float[np.ndarray, "n 3"],
    weights: Weights,
    threshold: float = 0.5,
) -> dict[str, Values]:
    """Both tasks as one number, the ways of the paper's Table 4.

    `pooled_accuracy`: right decisions of both tasks by all decisions made; a normal slice has one
    (the paper's fourth class 'none' gave it a second). `mean_...`: of the ICH task's value and the
    location task's (its macro average), as Table 4's other columns. `loss`: half of each task's
    cross-entropy (Eq. 5). location: -1 where there is none.
    """
    first = hemorrhage_rates(truth == 1, probability >= threshold, weights)
    ich = location >= 0
    second = location_rates(location[ich], p_location[ich].argmax(axis=1), weights[:, ich])
    decisions, places = weights.sum(axis=1), weights[:, ich].sum(axis=1)
    right = first["accuracy"] * decisions + np.where(places > 0, second["accuracy"], 0) * places
    both = np.stack([1 - probability, probability], axis=1)
    losses = log_loss(truth, both, weights) + log_loss(
        location[ich], p_location[ich], weights[:, ich]
    )
    means = {
        f"mean_{name}": (first[name] + second[name if name == "accuracy" else f"macro_{name}"]) / 2
        for name in ("accuracy", "precision", "recall", "f1", "specificity")
    }
    return {
        "pooled_accuracy": ratio(right, decisions + places),
        **means,
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


def expected_calibration_error(
    truth: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"], weights: Weights
) -> Values:
    """Mean over ECE_BINS equal bins of |share of ICH - mean p|, weighted by the rows in a bin."""
    gaps = np.zeros((len(truth), ECE_BINS))
    gaps[np.arange(len(truth)), _bin(probability)] = truth - probability.astype(np.float64)
    return ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


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


def _mean(values: Float[np.ndarray, " n"], weights: Weights) -> Values:
    return ratio(weights @ values.astype(np.float64), weights.sum(axis=1))
