"""Thresholds reach their aims, also for scores of exactly 0 and 1."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import Aggregation
from dtvit_jax.decision.study import points_of
from dtvit_jax.evaluation import fitted_rule
from dtvit_jax.evaluation.fitted_rule import Choices, find, fit
from dtvit_jax.evaluation.operating_points import AIMS, TOLERANCE, Aim, choose
from dtvit_jax.reports.evaluation import write_evaluation
from tests.helpers.predictions import make, replaced

SPECIFICITY = Aim("specificity", 0.95)
WITHOUT_BINOMIAL = [aim for aim in AIMS if not aim.assured]
ONE = float(np.nextafter(1, 0))  # the largest score below 1
SCORES = st.lists(
    st.sampled_from([0.0, 5e-324, 0.2, 0.5, float(np.nextafter(0.5, 1)), 0.9, ONE, 1.0])
    | st.floats(0, 1),
    min_size=1,
    max_size=12,
)


def chosen(aim, normal, ich, resamples=20):
    score = np.array([*normal, *ich])
    truth = np.repeat([False, True], [len(normal), len(ich)])
    subject = np.arange(len(score))
    return choose(aim, score, truth, subject, truth.astype(int), resamples)


def rate(kind, normal, ich, threshold):
    sensitivity = np.mean(np.array(ich) >= threshold)
    specificity = np.mean(np.array(normal) < threshold)
    both = {"sensitivity": sensitivity, "specificity": specificity}
    return both.get(kind, sensitivity + specificity)


def test_a_normal_with_a_score_of_one_leaves_no_specificity_of_95_percent():
    choice = chosen(SPECIFICITY, [1.0, 0.2, 0.1, 0.05, 0.03], [1.0, 0.9, 0.8, 0.95, 0.7])
    assert choice.threshold is None and choice.low is None and choice.high is None
    assert "1 of its 5 normal cases scores 1" in choice.reason


@pytest.mark.parametrize("aim", WITHOUT_BINOMIAL, ids=lambda aim: aim.name)
@settings(max_examples=150, deadline=None)
@given(normal=SCORES, ich=SCORES)
@example(normal=[1.0], ich=[1.0])
@example(normal=[0.0], ich=[0.0])
@example(normal=[1.0, 0.0], ich=[0.0, 1.0])
@example(normal=[0.5], ich=[float(np.nextafter(0.5, 1))])
@example(normal=[float(np.nextafter(0.5, 1))], ich=[float(np.nextafter(np.nextafter(0.5, 1), 1))])
def test_a_threshold_reaches_its_aim_and_is_missing_only_where_none_does(aim, normal, ich):
    choice = chosen(aim, normal, ich)
    own = partial(rate, aim.kind, normal, ich)
    best = max(map(own, [0.0, *normal, *ich, 1.0]))
    if aim.kind == "balanced_accuracy":
        assert choice.threshold is not None
        assert own(choice.threshold) == pytest.approx(best)
    elif choice.threshold is None:
        assert best < aim.value and "1" in choice.reason
    else:
        assert own(choice.threshold) >= aim.value - TOLERANCE
    if choice.threshold is not None:
        assert 0 <= choice.threshold <= 1
        assert choice.low <= choice.high


@settings(max_examples=60, deadline=None)
@given(normal=SCORES, ich=st.lists(st.sampled_from([0.0, 0.3, ONE, 1.0]), min_size=59, max_size=70))
def test_an_assured_threshold_reaches_its_sensitivity_on_its_own_data(normal, ich):
    aim = Aim("sensitivity", 0.95, assured=True)
    choice = chosen(aim, normal, ich)
    assert choice.threshold is not None
    assert rate("sensitivity", normal, ich, choice.threshold) >= 0.95


def certain_of_a_normal(level_slices=10):
    """Validation slices, of which some of normal subjects score exactly 1, in single precision."""
    p = make(subjects=40, slices=level_slices, seed=1, split="validation")
    score = p.p_hemorrhage.astype(np.float32)
    normal = np.unique(p.subject[p.hemorrhage == 0])[:8]
    score[np.isin(p.subject, normal) & (p.hemorrhage == 0)] = 1
    return replaced(p, p_hemorrhage=score)


def test_a_point_without_threshold_says_why_wherever_it_is_asked_for(tmp_path):
    rule = fit(certain_of_a_normal(), Aggregation(), resamples=20)
    assert not {"specificity_0.95"} & {*rule.points["subject"], *rule.points["slice"]}
    with pytest.raises(InputError, match="normal cases score 1") as error:
        points_of(rule, "specificity_0.95")
    assert "\n" not in str(error.value) and "balanced_accuracy" in str(error.value)
    report = write_evaluation(tmp_path, make(subjects=20, seed=2), rule)
    card = (tmp_path / "model_card.md").read_text()
    for text in (report.read_text(), card):
        assert "normal cases score 1" in text
        for tasks in rule.in_force().values():
            for words in tasks.values():
                assert words in text  # which calibration is in force, and why
        assert "shrunk towards 1" in text
    (point, _) = (
        point
        for point in json.loads((tmp_path / "metrics.json").read_text())["operating_points"]
        if point["name"] == "specificity_0.95"
    )
    assert point["threshold"] is None and point["here"] == {}


def test_a_stored_threshold_that_does_not_reach_its_aim_is_fitted_again(tmp_path):
    rule = fit(make(split="validation"), Aggregation(), resamples=20)
    choices = Choices(Aggregation(), "temperature")
    path = fitted_rule.write(tmp_path, rule)
    assert find(tmp_path, {}, choices) is not None
    stored = json.loads(path.read_text())
    point = next(p for p in stored["operating_points"] if p["name"] == "specificity_0.95")
    point["threshold"], point["validation"]["specificity"]["value"] = 0.015, 0.0
    path.write_text(json.dumps(stored))
    assert find(tmp_path, {}, choices) is None
