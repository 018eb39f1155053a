import json

import numpy as np
import pytest
import scipy.stats

from data_builder.errors import InputError
from dtvit_jax.decision import calibration
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.decision.aggregation import CANDIDATES, Aggregation, by_subject
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


def test_the_file_states_the_calibration_in_force_and_why(tmp_path):
    path = fitted_rule.write(tmp_path, RULE)
    stored = json.loads(path.read_text())["calibration"]
    for level, tasks in RULE.in_force().items():
        for task, words in tasks.items():
            fitted = stored[level][task]
            assert fitted["in_force"] == words
            assert f"temperature {fitted['temperature']:.2f}, shrunk towards 1" in words
            assert f"{fitted['subjects']} validation subjects" in words
    assert stored["slice"]["hemorrhage"]["subjects"] == 40  # not 480 slices
    bleeding = len(set(VALIDATION.subject[VALIDATION.location >= 0]))
    assert stored["slice"]["location"]["subjects"] == bleeding < 40
    isotonic = fit(VALIDATION, AGGREGATION, "isotonic", resamples=20).in_force()["subject"]
    assert isotonic["hemorrhage"].startswith("isotonic, at least 1/42 from 0 and 1")
    assert isotonic["location"].startswith("temperature")
    none = fit(VALIDATION, AGGREGATION, "none", resamples=20).in_force()["subject"]
    assert none["hemorrhage"] == "identity: no calibration was asked for"


def as_before(raw, temperature):
    """The content of a file as earlier versions wrote it, with `temperature` for the location."""
    raw = json.loads(json.dumps(raw))
    for level in ("slice", "subject"):
        for fitted in (raw["calibration"][level][task] for task in decision_rule.TASKS):
            for name in ("subjects", "wrong", "in_force"):
                del fitted[name]
        raw["calibration"][level]["location"]["temperature"] = temperature
    return raw


@pytest.mark.parametrize(
    ("temperature", "applied"), [(0.0500001, False), (0.07, False), (19.9999, False), (0.6, True)]
)
def test_a_temperature_at_the_bound_of_an_earlier_version_is_not_applied(temperature, applied):
    rule = decision_rule.parse(as_before(RULE.raw, temperature))
    p = replaced(VALIDATION, p_location=np.tile([0.6, 0.3, 0.1], (len(VALIDATION), 1)))
    got = rule.calibrated(p, "subject").p_location[0]
    np.testing.assert_allclose(got.sum(), 1)
    assert (got[0] > 0.7) == applied
    assert applied or np.allclose(got, [0.6, 0.3, 0.1])
    words = rule.in_force()["subject"]["location"]
    assert words.startswith(f"temperature {temperature:.2f}" if applied else "identity: an earlier")
    before = RULE.calibrations["subject"]["hemorrhage"].temperature
    assert rule.calibrations["subject"]["hemorrhage"].temperature == before


def test_a_rule_whose_temperatures_were_not_shrunk_is_fitted_again(tmp_path):
    choices = fitted_rule.Choices(AGGREGATION, "temperature")
    fitted_rule.write(tmp_path, RULE)
    assert fitted_rule.find(tmp_path, {}, choices)
    (tmp_path / decision_rule.FILE).write_text(json.dumps(as_before(RULE.raw, 0.6)))
    assert fitted_rule.find(tmp_path, {}, choices) is None


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
