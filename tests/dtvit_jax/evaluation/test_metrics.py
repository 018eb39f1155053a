import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from dtvit_jax.evaluation import metrics, ranking

RNG = np.random.default_rng(0)
N = 200
TRUTH = RNG.integers(2, size=N)
P = np.round(np.clip(RNG.beta(2, 2, size=N) + 0.2 * TRUTH - 0.1, 0.001, 0.999), 2)  # many ties
LOCATION = RNG.integers(3, size=N)
P_LOCATION = RNG.dirichlet([1, 1, 1], size=N) * 0.6 + 0.4 * np.eye(3)[LOCATION]
WEIGHTS = RNG.integers(4, size=(5, N)).astype(float)


def one_class_macro(score, w, **options):
    return score(LOCATION, P_LOCATION.argmax(1), sample_weight=w, **options)


HEMORRHAGE = {
    "accuracy": lambda c, w: reference.accuracy_score(TRUTH, c, sample_weight=w),
    "precision": lambda c, w: reference.precision_score(TRUTH, c, sample_weight=w),
    "recall": lambda c, w: reference.recall_score(TRUTH, c, sample_weight=w),
    "sensitivity": lambda c, w: reference.recall_score(TRUTH, c, sample_weight=w),
    "specificity": lambda c, w: reference.recall_score(TRUTH, c, sample_weight=w, pos_label=0),
    "f1": lambda c, w: reference.f1_score(TRUTH, c, sample_weight=w),
    "balanced_accuracy": lambda c, w: reference.balanced_accuracy_score(TRUTH, c, sample_weight=w),
    "npv": lambda c, w: reference.precision_score(TRUTH, c, sample_weight=w, pos_label=0),
    "auroc": lambda c, w: reference.roc_auc_score(TRUTH, P, sample_weight=w),
    "average_precision": lambda c, w: reference.average_precision_score(TRUTH, P, sample_weight=w),
    "brier": lambda c, w: reference.brier_score_loss(TRUTH, P, sample_weight=w),
    "log_loss": lambda c, w: reference.log_loss(TRUTH, P, sample_weight=w),
}
LOCATIONS = {
    "accuracy": lambda w: one_class_macro(reference.accuracy_score, w),
    "macro_recall": lambda w: one_class_macro(reference.recall_score, w, average="macro"),
    "macro_precision": lambda w: one_class_macro(reference.precision_score, w, average="macro"),
    "macro_f1": lambda w: one_class_macro(reference.f1_score, w, average="macro"),
    "weighted_f1": lambda w: one_class_macro(reference.f1_score, w, average="weighted"),
    "weighted_precision": lambda w: one_class_macro(
        reference.precision_score, w, average="weighted"
    ),
    "f1_lobar": lambda w: one_class_macro(reference.f1_score, w, average=None)[1],
    "specificity_lobar": lambda w: reference.recall_score(
        LOCATION != 1, P_LOCATION.argmax(1) != 1, sample_weight=w
    ),
    "macro_auroc": lambda w: reference.roc_auc_score(
        LOCATION, P_LOCATION, sample_weight=w, multi_class="ovr"
    ),
    "weighted_auroc": lambda w: reference.roc_auc_score(
        LOCATION, P_LOCATION, sample_weight=w, multi_class="ovr", average="weighted"
    ),
    "macro_average_precision": lambda w: reference.average_precision_score(
        np.eye(3)[LOCATION], P_LOCATION, sample_weight=w
    ),
    "weighted_average_precision": lambda w: np.average(
        reference.average_precision_score(
            np.eye(3)[LOCATION], P_LOCATION, sample_weight=w, average=None
        ),
        weights=np.bincount(LOCATION, w),
    ),
    "brier": lambda w: reference.brier_score_loss(
        np.eye(3)[LOCATION].argmax(1), P_LOCATION, sample_weight=w, scale_by_half=False
    ),
    "log_loss": lambda w: reference.log_loss(LOCATION, P_LOCATION, sample_weight=w),
    "recall_lobar": lambda w: one_class_macro(reference.recall_score, w, average=None)[1],
    "precision_deep": lambda w: one_class_macro(reference.precision_score, w, average=None)[0],
    "auroc_subtentorial": lambda w: reference.roc_auc_score(
        LOCATION == 2, P_LOCATION[:, 2], sample_weight=w
    ),
}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.77])
def test_hemorrhage_metrics_are_scikit_learns_under_every_weighting(threshold):
    got = metrics.hemorrhage_metrics(TRUTH, P, WEIGHTS, threshold)
    for name, expected in HEMORRHAGE.items():
        wanted = [expected(threshold <= P, w) for w in WEIGHTS]
        np.testing.assert_allclose(got[name], wanted, rtol=1e-10, err_msg=name)


def test_location_metrics_are_scikit_learns_under_every_weighting():
    got = metrics.location_metrics(LOCATION, P_LOCATION, WEIGHTS)
    for name, expected in LOCATIONS.items():
        wanted = [expected(w) for w in WEIGHTS]
        np.testing.assert_allclose(got[name], wanted, rtol=1e-10, err_msg=name)


def test_macro_specificity_is_the_mean_recall_of_the_rest_of_each_class():
    predicted = P_LOCATION.argmax(1)
    rest = [reference.recall_score(c != LOCATION, c != predicted) for c in range(3)]
    got = metrics.location_metrics(LOCATION, P_LOCATION, np.ones((1, N)))
    assert got["macro_specificity"][0] == pytest.approx(np.mean(rest))


def test_a_weight_equals_repeating_the_row():
    rows = np.repeat(np.arange(N), WEIGHTS[0].astype(int))
    weighted = metrics.hemorrhage_metrics(TRUTH, P, WEIGHTS[:1])
    repeated = metrics.hemorrhage_metrics(TRUTH[rows], P[rows], np.ones((1, len(rows))))
    for name in weighted:
        assert weighted[name][0] == pytest.approx(repeated[name][0]), name


def test_calibration_error_is_the_weighted_gap_of_scikit_learns_bins():
    # scikit-learn puts a p on the edge of a bin into the lower bin: compare p off the edges.
    inside = np.abs(P * 10 - np.round(P * 10)) > 1e-9
    share, mean = calibration_curve(TRUTH[inside], P[inside], n_bins=metrics.ECE_BINS)
    got = metrics.reliability_bins(TRUTH[inside] == 1, P[inside])
    np.testing.assert_allclose(got[0], mean)
    np.testing.assert_allclose(got[1], share)
    assert got[2].sum() == inside.sum()
    ece = metrics.expected_calibration_error(
        TRUTH[inside] == 1, P[inside], np.ones((1, inside.sum()))
    )
    assert ece[0] == pytest.approx(np.average(np.abs(share - mean), weights=got[2]))


def test_calibration_error_by_hand():
    truth = np.array([True, False, True, True])
    p = np.array([0.61, 0.69, 0.95, 1.0])  # bin 6: .5 against .65; bin 9: 1 against .975
    ece = metrics.expected_calibration_error(truth, p, np.ones((1, 4)))
    assert ece[0] == pytest.approx(0.5 * 0.15 + 0.5 * 0.025)


def test_the_papers_equations_by_hand_with_eq_10_corrected():
    # TP 3, FN 1, FP 2, TN 4
    truth = np.array([1] * 4 + [0] * 6)
    p = np.array([0.9, 0.8, 0.5, 0.4, 0.9, 0.6, 0.1, 0.1, 0.1, 0.1])
    got = {k: v[0] for k, v in metrics.hemorrhage_metrics(truth, p, np.ones((1, 10))).items()}
    assert got["accuracy"] == pytest.approx(7 / 10)
    assert got["precision"] == pytest.approx(3 / 5)
    assert got["recall"] == pytest.approx(3 / 4)
    assert got["f1"] == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert got["specificity"] == pytest.approx(4 / 6)


def test_roc_sensitivity_is_scikit_learns_curve_interpolated():
    grid = np.linspace(0.01, 0.99, 37)
    got = ranking.roc_sensitivity(TRUTH == 1, P, WEIGHTS, grid)
    for row, w in zip(got, WEIGHTS, strict=True):
        fpr, tpr, _ = reference.roc_curve(TRUTH, P, sample_weight=w, drop_intermediate=False)
        np.testing.assert_allclose(row, np.interp(grid, fpr, tpr), atol=1e-12)


def test_both_tasks_pooled_by_hand():
    # hemorrhage right 3 of 4; location right 1 of 2
    got = metrics.combined_metrics(
        truth=np.array([1, 1, 0, 0]),
        probability=np.array([0.8, 0.4, 0.1, 0.1]),
        location=np.array([0, 2, -1, -1]),
        p_location=np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1, 0, 0], [1, 0, 0]]),
        weights=np.ones((1, 4)),
    )
    assert got["pooled_accuracy"][0] == pytest.approx(4 / 6)
    assert got["mean_accuracy"][0] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert np.isnan(got["mean_recall"][0])  # no slice is lobar
    first = -np.log([0.8, 0.4, 0.9, 0.9]).mean()
    second = -np.log([0.5, 0.25]).mean()
    assert got["loss"][0] == pytest.approx(0.5 * first + 0.5 * second)


def test_the_other_columns_of_table_4_are_means_of_both_tasks():
    weights = np.ones((1, N))
    location = np.where(TRUTH == 1, LOCATION, -1)
    got = metrics.combined_metrics(TRUTH, P, location, P_LOCATION, weights)
    truth, predicted = LOCATION[TRUTH == 1], P_LOCATION[TRUTH == 1].argmax(1)
    for name, score in (
        ("precision", reference.precision_score),
        ("recall", reference.recall_score),
        ("f1", reference.f1_score),
    ):
        both = score(TRUTH, P >= 0.5), score(truth, predicted, average="macro")
        assert got[f"mean_{name}"][0] == pytest.approx(np.mean(both)), name


def test_confusion_matrix_has_the_truth_in_rows():
    got = metrics.confusion_matrix(LOCATION, P_LOCATION.argmax(1), 3)
    np.testing.assert_array_equal(got, reference.confusion_matrix(LOCATION, P_LOCATION.argmax(1)))


@pytest.mark.parametrize("only", [0, 1])
def test_a_metric_without_a_denominator_is_nan(only):
    truth = np.full(4, only)
    got = metrics.hemorrhage_metrics(truth, np.array([0.1, 0.4, 0.6, 0.9]), np.ones((1, 4)))
    missing = {0: "sensitivity", 1: "specificity"}[only]
    for name in (missing, "auroc", "balanced_accuracy"):
        assert np.isnan(got[name][0]), name
    assert got["accuracy"][0] == 0.5


def test_a_macro_average_over_an_absent_class_is_nan_and_other_classes_are_not():
    truth = np.array([0, 0, 1])
    got = metrics.location_metrics(truth, np.eye(3)[[0, 1, 1]], np.ones((1, 3)))
    for name in ("macro_recall", "macro_precision", "macro_f1", "recall_subtentorial"):
        assert np.isnan(got[name][0]), name
    assert got["recall_deep"][0] == 0.5 and np.isnan(got["precision_subtentorial"][0])


SCORES = st.lists(st.integers(0, 8), min_size=2, max_size=30)


@given(SCORES, st.integers(0, 2**31))
def test_auroc_is_invariant_to_monotone_maps_and_complements_under_negation(scores, seed):
    score = np.array(scores) / 8
    truth = np.random.default_rng(seed).integers(2, size=len(score)).astype(bool)
    ones = np.ones((1, len(score)))
    area = ranking.auroc(truth, score, ones)
    np.testing.assert_allclose(ranking.auroc(truth, np.exp(3 * score), ones), area)
    np.testing.assert_allclose(ranking.auroc(truth, -score, ones), 1 - area)
    np.testing.assert_allclose(ranking.auroc(~truth, score, ones), 1 - area)
