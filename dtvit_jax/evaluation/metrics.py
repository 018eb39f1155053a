"""Weighted classification metrics, for many weightings of the same rows at once.

Every function takes `weights [r, n]`: r resamples of n rows, a weight being how often a row was
drawn (all ones: the sample itself). It returns [r]; nan where a resample leaves the metric without
a denominator. The positive class is ICH. The paper's Eq. 6 to 10 are here; Eq. 10, the specificity,
is TN / (TN + FP), where the paper prints the inverse.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from data_builder.records import LOCATIONS
from dtvit_jax.decision.rule import both
from dtvit_jax.evaluation.ranking import Values, Weights, auroc, average_precision, ratio

ECE_BINS = 10


def hemorrhage_metrics(
    truth: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    weights: Weights,
    threshold: float = 0.5,
) -> dict[str, Values]:
    """Computes all metrics of the ICH task.

    truth: 1 ICH, 0 normal. ICH is predicted at p >= threshold.
    """
    areas = {
        "auroc": auroc(truth == 1, probability, weights),
        "average_precision": average_precision(truth == 1, probability, weights),
    }
    rates = hemorrhage_rates(truth == 1, probability >= threshold, weights)
    return rates | areas | probability_scores(truth, both(probability), weights)


def hemorrhage_rates(
    truth: Bool[np.ndarray, " n"], predicted: Bool[np.ndarray, " n"], weights: Weights
) -> dict[str, Values]:
    """Computes the rates of the ICH task's confusion matrix; npv: negative predictive value."""
    tp, fn, fp, tn = confusion_cells(truth, predicted, weights)
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
    """Computes all metrics of the location task over ICH rows; the likeliest class is predicted.

    truth: index into LOCATIONS. `location_rates` describes the averages.
    """
    predicted = probabilities.argmax(axis=1)
    classes = range(len(LOCATIONS))
    present = np.stack([weights @ (truth == c).astype(np.float64) for c in classes])
    areas = [auroc(truth == c, probabilities[:, c], weights) for c in classes]
    precision = [average_precision(truth == c, probabilities[:, c], weights) for c in classes]
    return (
        location_rates(truth, predicted, weights)
        | _averages("auroc", np.stack(areas), present)
        | _averages("average_precision", np.stack(precision), present)
        | probability_scores(truth, probabilities, weights)
    )


def location_rates(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], weights: Weights
) -> dict[str, Values]:
    """Computes the rates of the location task's confusion matrix.

    Recall, precision, specificity and F1 of each class against the rest (`recall_deep`), their
    plain mean (`macro_recall`: the balanced accuracy) and their mean weighted by true rows
    (`weighted_f1`; the weighted recall is the accuracy). A macro average is nan where a class has
    no true row; as in scikit-learn, a class that is never predicted has precision 0 in averages.
    """
    cells = [confusion_cells(truth == c, predicted == c, weights) for c in range(len(LOCATIONS))]
    tp, fn, fp, tn = (np.stack(cell) for cell in zip(*cells, strict=True))
    present = tp + fn
    return (
        {"accuracy": _mean((predicted == truth).astype(np.float64), weights)}
        | _averages("recall", ratio(tp, present), present)
        | _averages("precision", ratio(tp, tp + fp), present)
        | _averages("specificity", ratio(tn, tn + fp), present)
        | _averages("f1", ratio(2 * tp, 2 * tp + fp + fn, empty=0.0), present)
    )


def _averages(
    name: str, values: Float[np.ndarray, "classes r"], present: Float[np.ndarray, "classes r"]
) -> dict[str, Values]:
    """A metric's macro and weighted average, and its values by class. present: true rows."""
    counted = np.nan_to_num(values) if name == "precision" else values
    complete = np.where((present > 0).all(axis=0), 1.0, np.nan)
    averages = {f"macro_{name}": counted.mean(axis=0) * complete}
    if name != "recall":
        weighted = np.where(present > 0, counted, 0.0) * present
        averages[f"weighted_{name}"] = ratio(weighted.sum(axis=0), present.sum(axis=0))
    return averages | {f"{name}_{LOCATIONS[c]}": values[c] for c in range(len(LOCATIONS))}


def combined_metrics(
    truth: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, " n"],
    location: Int[np.ndarray, " n"],
    p_location: Float[np.ndarray, "n 3"],
    weights: Weights,
    threshold: float = 0.5,
) -> dict[str, Values]:
    """Computes metrics over both tasks, as in the columns of the paper's Table 4.

    `pooled_accuracy`: correct decisions of both tasks over all decisions; a normal slice has one
    decision (the paper's fourth class 'none' gives it a second). `mean_...`: the mean of the ICH
    task's value and the location task's (its macro average), as in the other columns. `loss`: half
    of each task's cross-entropy (Eq. 5). location: -1 where there is none.
    """
    first = hemorrhage_rates(truth == 1, probability >= threshold, weights)
    ich = location >= 0
    second = location_rates(location[ich], p_location[ich].argmax(axis=1), weights[:, ich])
    decisions, locations = weights.sum(axis=1), weights[:, ich].sum(axis=1)
    correct = (
        first["accuracy"] * decisions + np.where(locations > 0, second["accuracy"], 0) * locations
    )
    losses = log_loss(truth, both(probability), weights) + log_loss(
        location[ich], p_location[ich], weights[:, ich]
    )
    means = {
        f"mean_{name}": (first[name] + second[name if name == "accuracy" else f"macro_{name}"]) / 2
        for name in ("accuracy", "precision", "recall", "f1", "specificity")
    }
    return {
        "pooled_accuracy": ratio(correct, decisions + locations),
        **means,
        "loss": losses / 2,
    }


def confusion_matrix(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts rows by true class (rows) and predicted class (columns)."""
    cells = np.bincount(truth.astype(int) * classes + predicted.astype(int), minlength=classes**2)
    return cells.reshape(classes, classes)


def confusion_cells(
    truth: Bool[np.ndarray, " n"], predicted: Bool[np.ndarray, " n"], weights: Weights
) -> tuple[Values, Values, Values, Values]:
    """Computes the weight of TP, FN, FP and TN, in this order."""
    cells = np.stack(
        [truth & predicted, truth & ~predicted, ~truth & predicted, ~truth & ~predicted], axis=1
    )
    tp, fn, fp, tn = (weights @ cells.astype(np.float64)).T
    return tp, fn, fp, tn


def probability_scores(
    truth: Int[np.ndarray, " n"], p: Float[np.ndarray, "n classes"], weights: Weights
) -> dict[str, Values]:
    """Computes Brier score, ECE and log loss of two classes (normal, ICH), or of several.

    Of several classes the Brier score is the sum over them, and the ECE is that of the predicted
    class's probability.
    """
    if p.shape[1] == 2:
        errors = (p[:, 1] - truth) ** 2
        ece = expected_calibration_error(truth == 1, p[:, 1], weights)
    else:
        errors = ((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1)
        ece = expected_calibration_error(p.argmax(axis=1) == truth, p.max(axis=1), weights)
    return {"brier": _mean(errors, weights), "ece": ece, "log_loss": log_loss(truth, p, weights)}


def expected_calibration_error(
    truth: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"], weights: Weights
) -> Values:
    """Computes the mean of |share of ICH - mean p| over ECE_BINS equal bins, weighted by rows."""
    gaps = np.zeros((len(truth), ECE_BINS))
    gaps[np.arange(len(truth)), _bin(probability)] = truth - probability.astype(np.float64)
    return ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def reliability_bins(
    truth: Bool[np.ndarray, " n"], probability: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """Computes mean p, share of ICH and number of rows of each of the ECE's non-empty bins."""
    bins = _bin(probability)
    used, index, count = np.unique(bins, return_inverse=True, return_counts=True)
    mean = np.bincount(index, probability, len(used)) / count
    return mean, np.bincount(index, truth, len(used)) / count, count


def log_loss(
    truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n classes"], weights: Weights
) -> Values:
    """Computes the mean of -log p(true class), in nats.

    p is clipped to float64's epsilon, as in scikit-learn.
    """
    floor = np.finfo(np.float64).eps
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return _mean(-np.log(np.clip(of_truth, floor, 1 - floor)), weights)


def _bin(probability: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)


def _mean(values: Float[np.ndarray, " n"], weights: Weights) -> Values:
    return ratio(weights @ values.astype(np.float64), weights.sum(axis=1))
