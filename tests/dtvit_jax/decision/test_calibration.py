"""Calibration against scikit-learn on large samples, and what small ones can carry."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from dtvit_jax.decision import calibration
from dtvit_jax.decision.calibration import Calibration
from dtvit_jax.decision.rule import both
from tests.helpers.predictions import make

SLICES = make(subjects=40, seed=1)


def fit(p, truth, subject=None):
    """Fits on rows of a subject each, or of the given ones."""
    p, truth = np.asarray(p, float), np.asarray(truth, int)
    return calibration.fit(p, truth, np.arange(len(p)) if subject is None else np.asarray(subject))


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_of_many_subjects_the_temperature_is_that_of_least_log_loss():
    """scikit-learn's logistic regression without intercept."""
    p, truth = np.tile(SLICES.p_hemorrhage, 200), np.tile(SLICES.hemorrhage, 200)
    logit = np.log(SLICES.p_hemorrhage / (1 - SLICES.p_hemorrhage))[:, None]
    theirs = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10)
    slope = theirs.fit(logit, SLICES.hemorrhage).coef_[0, 0]
    assert 1 / fit(both(p), truth).temperature == pytest.approx(slope, rel=2e-3)
    few = 1 / fit(both(SLICES.p_hemorrhage), SLICES.hemorrhage, SLICES.subject).temperature
    assert min(1, slope) < few < max(1, slope)


def test_of_many_subjects_calibrated_locations_are_those_of_scikit_learns_temperature_scaling():
    rows = SLICES.location >= 0
    p, truth = SLICES.p_location[rows], SLICES.location[rows].astype(int)

    class Fixed:
        """A classifier whose logits are given."""

        classes_ = np.arange(3)
        _estimator_type = "classifier"

        def fit(self, x, y):
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

        def __sklearn_tags__(self):
            return LogisticRegression().__sklearn_tags__()

        def __sklearn_is_fitted__(self):
            return True

    theirs = CalibratedClassifierCV(FrozenEstimator(Fixed()), method="temperature")
    wanted = theirs.fit(np.log(p), truth).predict_proba(np.log(p))
    got = fit(np.tile(p, (200, 1)), np.tile(truth, 200)).apply(p, "temperature")
    np.testing.assert_allclose(got, wanted, atol=1e-3)


@st.composite
def samples(draw, classes=3):
    """Probabilities and truths of 2 to 12 rows of two classes or more: right, wrong or neither."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    n = draw(st.integers(2, 12))
    logits = rng.normal(size=(n, classes)) * draw(st.floats(0.01, 12))
    truth = {
        "right": logits.argmax(axis=1),
        "wrong": logits.argmin(axis=1),
        "chance": rng.integers(0, classes, n),
    }[draw(st.sampled_from(["right", "wrong", "chance"]))]
    truth[:2] = 0, 1
    return softmax(logits), truth


@settings(max_examples=60, deadline=None)
@given(samples())
def test_the_slope_is_the_most_probable_one_under_its_gamma_prior(sample):
    """The posterior by scipy's density and scikit-learn's log loss, on a grid around the result."""
    p, truth = sample
    slope = 1 / fit(p, truth).temperature
    prior = scipy.stats.gamma(a=calibration.PRIOR + 1, scale=1 / calibration.PRIOR)

    def posterior(b):
        after = softmax(calibration.log(p) * b)
        loss = log_loss(truth, after / after.sum(axis=1, keepdims=True), labels=[0, 1, 2])
        return prior.logpdf(b) - len(p) * loss

    others = [posterior(slope * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2)]
    assert posterior(slope) >= max(others) - 1e-9


@settings(max_examples=60, deadline=None)
@given(samples(), st.integers(2, 400))
def test_more_subjects_of_the_same_kind_move_the_temperature_further_from_1(sample, copies):
    p, truth = sample
    few = np.log(fit(p, truth).temperature)
    many = np.log(fit(np.tile(p, (copies, 1)), np.tile(truth, copies)).temperature)
    assert np.isfinite(many) and abs(many) >= abs(few) - 1e-6
    assert few * many >= -1e-12
    # Slices of the same subjects are no more evidence.
    subject = np.tile(np.arange(len(p)), copies)
    same = fit(np.tile(p, (copies, 1)), np.tile(truth, copies), subject)
    assert np.log(same.temperature) == pytest.approx(few, abs=1e-6)


def test_few_subjects_without_an_error_hardly_change_a_probability():
    """A bound of 0.05 made .999998 of .6, and 1 - 8e-20 of .9."""
    p = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.1, 0.3, 0.6]] * 2)
    six = fit(p, [0, 1, 2] * 2)
    assert 0.7 < six.temperature < 1 and six.apply(p, "temperature").max() < 0.7
    ten = fit(both(np.array([0.9, 0.1] * 5)), [1, 0] * 5)
    assert 0.8 < ten.temperature < 1
    assert ten.apply(both(np.array([0.9])), "temperature")[0, 1] < 0.94
    assert ten.words("temperature", 2) == (
        f"temperature {ten.temperature:.2f}, shrunk towards 1: 10 validation subjects, none with "
        "an error"
    )


def drawn(rng, n, classes, separation, sharpness):
    """Logits of normal scores, right up to the factor `sharpness`, and truths."""
    truth = np.arange(n) % classes
    x = rng.normal(size=(n, classes))
    x[np.arange(n), truth] += separation
    return x * separation * sharpness, truth


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("separation", [1.5, 3.0])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_on_other_subjects_a_small_sample_does_no_harm_and_a_large_one_helps(
    classes, separation, sharpness
):
    rng = np.random.default_rng(0)
    logits, truth = drawn(rng, 4000, classes, separation, sharpness)

    def loss(temperature):
        return -np.log(softmax(logits / temperature)[np.arange(4000), truth]).mean()

    gains = {}
    for subjects in (6, 10, 20, 50, 400):
        gains[subjects] = []
        for _ in range(12):
            own, own_truth = drawn(rng, subjects, classes, separation, sharpness)
            gains[subjects].append(loss(1) - loss(fit(softmax(own), own_truth).temperature))
    for subjects, gain in gains.items():
        assert min(gain) > -0.15 * max(1, loss(1)), subjects
        assert np.mean(gain) > -0.02, subjects
    best = max(loss(1) - loss(t) for t in np.geomspace(0.2, 6, 30))
    assert np.mean(gains[400]) > 0.85 * best - 0.003


def test_the_isotonic_step_is_scikit_learns_within_a_margin_by_subjects():
    p, truth = SLICES.p_hemorrhage, SLICES.hemorrhage.astype(int)
    wanted = IsotonicRegression(out_of_bounds="clip").fit(p, truth).predict(p)
    margin = 1 / (40 + 2)  # 40 subjects, whatever their slices
    got = fit(both(p), truth, SLICES.subject).apply(both(p), "isotonic")[:, 1]
    np.testing.assert_allclose(got, np.clip(wanted, margin, 1 - margin), atol=1e-9)


def test_sharpened_probabilities_are_restored():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, 4000)
    truth = (rng.random(4000) < p).astype(int)
    sharp = Calibration(1 / 3).apply(both(p), "temperature")
    back = fit(sharp, truth)
    assert back.temperature == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(back.apply(sharp, "temperature")[:, 1], p, atol=0.03)


@settings(max_examples=25)
@given(st.floats(0.05, 20), st.integers(0, 2**31))
def test_a_temperature_changes_neither_order_nor_decision(temperature, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(3), 20)
    after = Calibration(temperature).apply(p, "temperature")
    np.testing.assert_array_equal(after.argmax(axis=1), p.argmax(axis=1))
    np.testing.assert_allclose(after.sum(axis=1), 1)


def test_one_class_fits_no_temperature_and_says_so():
    p = both(np.array([0.6, 0.7, 0.9]))
    one = fit(p, np.ones(3, int), ["a", "a", "b"])
    assert np.isnan(one.temperature) and not one.x
    np.testing.assert_array_equal(one.apply(p, "temperature"), p)
    assert one.words("temperature", 2) == (
        "identity: 2 validation subjects of fewer than two classes cannot carry a temperature"
    )
    assert Calibration.from_json(one.as_json()).words("temperature", 2) == one.words(
        "temperature", 2
    )
