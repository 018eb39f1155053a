import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from data_builder.errors import InputError
from dtvit_jax.decision import calibration
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.decision.aggregation import CANDIDATES, Aggregation, by_subject
from dtvit_jax.decision.rule import both
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.evaluation.fitted_rule import apply_rule, fit
from dtvit_jax.evaluation.operating_points import AIMS, Aim, choose
from tests.helpers.predictions import make, replaced

AGGREGATION = Aggregation()


def on(split, seed=0, subjects=40, **options):
    p = make(subjects=subjects, seed=seed, **options)
    return replaced(p, split=np.full(len(p), split))


VALIDATION = on("validation", seed=1)
RULE = fit(VALIDATION, AGGREGATION, resamples=300)


def test_the_temperature_is_that_of_scikit_learns_logistic_regression_without_intercept():
    p = VALIDATION
    logit = np.log(p.p_hemorrhage / (1 - p.p_hemorrhage))[:, None]
    theirs = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10).fit(logit, p.hemorrhage)
    got = calibration.fit(both(p.p_hemorrhage), p.hemorrhage.astype(int))
    assert 1 / got.temperature == pytest.approx(theirs.coef_[0, 0], rel=1e-4)


def test_calibrated_locations_are_those_of_scikit_learns_temperature_scaling():
    rows = VALIDATION.location >= 0
    p, truth = VALIDATION.p_location[rows], VALIDATION.location[rows].astype(int)

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
    got = calibration.fit(p, truth).apply(p, "temperature")
    np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_the_isotonic_step_is_scikit_learns_within_its_margin():
    p, truth = VALIDATION.p_hemorrhage, VALIDATION.hemorrhage.astype(int)
    wanted = IsotonicRegression(out_of_bounds="clip").fit(p, truth).predict(p)
    margin = 1 / (len(p) + 2)
    got = calibration.fit(both(p), truth).apply(both(p), "isotonic")[:, 1]
    np.testing.assert_allclose(got, np.clip(wanted, margin, 1 - margin), atol=1e-9)


def test_sharpened_probabilities_are_restored():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, 4000)
    truth = (rng.random(4000) < p).astype(int)
    sharp = calibration.Calibration(1 / 3).apply(both(p), "temperature")
    back = calibration.fit(sharp, truth)
    assert back.temperature == pytest.approx(3, rel=0.1)
    np.testing.assert_allclose(back.apply(sharp, "temperature")[:, 1], p, atol=0.03)


@settings(max_examples=25)
@given(st.floats(0.05, 20), st.integers(0, 2**31))
def test_a_temperature_changes_neither_order_nor_decision(temperature, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(3), 20)
    after = calibration.Calibration(temperature).apply(p, "temperature")
    np.testing.assert_array_equal(after.argmax(axis=1), p.argmax(axis=1))
    np.testing.assert_allclose(after.sum(axis=1), 1)


def test_one_class_fits_no_temperature_and_a_sample_without_errors_stays_within_bounds():
    p = both(np.array([0.6, 0.7, 0.9]))
    one = calibration.fit(p, np.ones(3, int))
    assert np.isnan(one.temperature) and not one.x
    np.testing.assert_array_equal(one.apply(p, "temperature"), p)
    assert calibration.fit(both(np.array([0.4, 0.6])), np.array([0, 1])).temperature >= 0.049


@pytest.mark.parametrize("aim", [a for a in AIMS if not a.assured], ids=lambda aim: aim.name)
@pytest.mark.parametrize("level", ["slice", "subject"])
def test_a_threshold_reaches_its_aim_on_validation_at_the_least_cost(aim, level):
    subjects, _ = by_subject(VALIDATION, AGGREGATION)
    table = subjects if level == "subject" else VALIDATION
    threshold = RULE.points[level][aim.name]
    truth, scores = table.hemorrhage == 1, table.p_hemorrhage

    def rates(at):
        predicted = scores >= at
        return predicted[truth].mean(), 1 - predicted[~truth].mean()

    own = dict(zip(("sensitivity", "specificity"), rates(threshold), strict=True))
    others = [rates(at) for at in np.unique(scores)] + [(0.0, 1.0)]
    if aim.kind == "balanced_accuracy":
        assert sum(own.values()) == pytest.approx(max(map(sum, others)))
        return
    reaching = [r for r in others if r[aim.kind == "specificity"] >= aim.value]
    assert own[aim.kind] >= aim.value
    cost = aim.kind == "sensitivity"
    assert list(own.values())[cost] == pytest.approx(max(r[cost] for r in reaching))
    point = next(
        p for p in RULE.raw["operating_points"] if (p["name"], p["level"]) == (aim.name, level)
    )
    assert point["low"] <= threshold <= point["high"]
    assert point["validation"][aim.kind]["value"] == pytest.approx(own[aim.kind])


def test_an_assured_threshold_keeps_its_sensitivity_in_95_of_100_validation_sets():
    """By simulation: the true sensitivity of a threshold on normal scores is known."""
    rng = np.random.default_rng(3)
    n, kept, runs = 100, 0, 400
    aim = Aim("sensitivity", 0.9, assured=True)
    truth = np.repeat([True, False], [n, 20])
    subjects, strata = np.arange(len(truth)), truth.astype(int)
    for _ in range(runs):
        score = scipy.stats.norm.cdf(rng.normal(size=len(truth)) + truth)
        at = choose(aim, score, truth, subjects, strata).threshold
        kept += scipy.stats.norm.sf(scipy.stats.norm.ppf(at) - 1) >= 0.9
    assert kept / runs >= 0.93  # 0.95 minus two standard errors
    assert kept / runs <= 0.995  # not because ICH is always predicted


def test_few_subjects_give_no_assured_threshold_and_the_number_needed():
    point = next(p for p in RULE.raw["operating_points"] if p["name"].endswith("assured"))
    assert point["threshold"] is None and "59 ICH subjects or more" in point["reason"]
    assert "sensitivity_0.95_assured" not in RULE.points["subject"]


def test_fitting_on_test_data_is_refused():
    for split in ("test", "Test"):
        with pytest.raises(InputError, match="not fitted on test data"):
            fit(on(split), AGGREGATION)
    mixed = on("validation")
    mixed = replaced(mixed, split=np.where(np.arange(len(mixed)) == 7, "test", "validation"))
    with pytest.raises(InputError, match="not fitted on test data"):
        fit(mixed, AGGREGATION)
    with pytest.raises(InputError, match="known truth"):
        fit(replaced(VALIDATION, hemorrhage=np.full(len(VALIDATION), -1)), AGGREGATION)


def test_auto_chooses_the_candidate_with_the_highest_validation_auroc():
    rule = fit(VALIDATION, None, resamples=50)
    areas = [c["auroc"] for c in rule.raw["aggregation"]["candidates"]]
    assert len(areas) == len(CANDIDATES)
    chosen = areas[CANDIDATES.index(rule.aggregation)]
    assert chosen == max(areas) and rule.raw["aggregation"]["chosen_on_validation"]


def test_a_rule_is_read_as_it_was_written(tmp_path):
    path = fitted_rule.write(tmp_path, RULE)
    back = decision_rule.read(tmp_path)
    assert back.raw == json.loads(path.read_text()) == RULE.raw
    assert (back.aggregation, back.points) == (RULE.aggregation, RULE.points)
    for method in calibration.METHODS:
        one, two = (r.calibrated(VALIDATION, "slice", method) for r in (back, RULE))
        np.testing.assert_array_equal(one.p_hemorrhage, two.p_hemorrhage)
        np.testing.assert_array_equal(one.p_location, two.p_location)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "evaluate --workdir"),
        ("{", "damaged"),
        ("[]", "version 1"),
        ('{"version": 2}', "version 1"),
        ('{"version": 1}', "damaged"),
    ],
)
def test_a_missing_or_damaged_file_is_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / decision_rule.FILE).write_text(content)
    with pytest.raises(InputError, match=message) as error:
        decision_rule.read(tmp_path)
    assert "\n" not in str(error.value)


def test_validation_of_one_class_gives_a_rule_without_thresholds_and_the_reason():
    p = VALIDATION
    rule = fit(p.select(p.hemorrhage == 0), AGGREGATION, resamples=50)
    assert rule.points == {"slice": {}, "subject": {}}
    assert all("no ICH case" in point["reason"] for point in rule.raw["operating_points"])
    assert apply_rule(rule, on("test"), resamples=50)["operating_points"][0]["here"] == {}


def test_on_test_data_thresholds_stay_and_rates_are_computed_anew():
    test = on("test", seed=2)
    result = apply_rule(RULE, test, resamples=50)
    for point in result["operating_points"]:
        if point["threshold"] is None:
            continue
        assert point["threshold"] == RULE.points[point["level"]][point["name"]]
        subjects, _ = by_subject(test, AGGREGATION)
        table = subjects if point["level"] == "subject" else test
        predicted = table.p_hemorrhage >= point["threshold"]
        here = point["here"]["sensitivity"]
        assert here["value"] == pytest.approx(predicted[table.hemorrhage == 1].mean())
        assert here["low"] <= here["value"] <= here["high"]


def test_calibration_is_measured_on_test_data_before_and_after():
    p = on("test", seed=2, skill=1.0)
    odds = (p.p_hemorrhage / (1 - p.p_hemorrhage)) ** 4  # overconfident by a factor of four
    sharp = replaced(p, p_hemorrhage=odds / (1 + odds))
    validation = on("validation", seed=3, skill=1.0)
    odds = (validation.p_hemorrhage / (1 - validation.p_hemorrhage)) ** 4
    rule = fit(replaced(validation, p_hemorrhage=odds / (1 + odds)), AGGREGATION, resamples=50)
    result = apply_rule(rule, sharp, resamples=50)["calibration"]["slice"]["hemorrhage"]
    assert result["temperature"]["log_loss"]["value"] < 0.8 * result["none"]["log_loss"]["value"]
    assert result["isotonic"]["brier"]["value"] < result["none"]["brier"]["value"]
    raw = -np.log(np.where(sharp.hemorrhage == 1, sharp.p_hemorrhage, 1 - sharp.p_hemorrhage))
    assert result["none"]["log_loss"]["value"] == pytest.approx(raw.mean())
