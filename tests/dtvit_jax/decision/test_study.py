import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import Aggregation, by_subject
from dtvit_jax.decision.study import Point, Points, SliceFacts, answer_study, own_scale, points_of
from dtvit_jax.evaluation import fitted_rule
from tests.helpers.predictions import make, replaced

VALIDATION = replaced(p := make(subjects=60, seed=5), split=np.full(len(p), "validation"))


@pytest.fixture(scope="module")
def rule():
    return fitted_rule.fit(VALIDATION, Aggregation("mean", 3), resamples=200)


def facts(n):
    return [SliceFacts(f"sli-{i:02d}", i, None, 5.0 * i, False) for i in range(n)]


def answer(p, rule, points, outliers=None, where=None, phantoms=None):
    """The study's answer; phantoms: by slice, of a model trained on phantoms; None: another."""
    p = np.asarray(p, np.float64)
    n = len(p)
    where = np.tile([0.2, 0.5, 0.3], (n, 1)) if where is None else np.asarray(where)
    outliers = np.zeros(n) if outliers is None else np.asarray(outliers, np.float64)
    given_facts = facts(n)
    if phantoms:
        marked = zip(given_facts, phantoms, strict=True)
        given_facts = [dataclasses.replace(one, phantom=mark) for one, mark in marked]
    arguments = ("stu-a", "sub-a", given_facts, p, where, outliers, rule, points)
    return answer_study(*arguments, trained_on_phantoms=phantoms is not None)


def certain(threshold):
    return Points("a", *(Point(threshold, threshold, threshold),) * 2)


SURE = certain(0.5)
WIDE = Points("a", Point(0.5, 0.4, 0.7), Point(0.5, 0.4, 0.7))


@pytest.mark.parametrize(
    ("score", "decision"),
    [
        (0.39, "no ich"),
        (0.401, "uncertain"),
        (0.5, "uncertain"),
        (0.699, "uncertain"),
        (0.701, "ich"),
    ],
)
def test_within_the_interval_of_the_threshold_the_answer_is_uncertain(rule, score, decision):
    result = answer([score] * 5, rule, WIDE)
    assert result.decision == decision and {each.decision for each in result.slices} == {decision}
    assert ("95% interval" in " ".join(result.reasons)) == (decision == "uncertain")
    assert result.location == ("lobar" if decision == "ich" else "")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.001, 0.999), min_size=3, max_size=9), st.floats(0.01, 0.99))
def test_otherwise_the_decision_is_the_threshold_on_the_aggregated_score(rule, p, threshold):
    result = answer(p, rule, certain(threshold))
    score = sum(sorted(p)[-3:]) / 3
    if abs(score - threshold) > 1e-9:
        assert result.decision == ("ich" if score >= threshold else "no ich")
        # The reported, calibrated values are on the same side of each other.
        assert (result.p_hemorrhage >= result.threshold) == (result.decision == "ich")
    assert not result.reasons


def test_the_numbers_are_those_of_the_rule(rule):
    table = VALIDATION.select(VALIDATION.subject == VALIDATION.subject[0])
    points = points_of(rule, "balanced_accuracy")
    n = len(table)
    result = answer(table.p_hemorrhage, rule, points, where=table.p_location)
    slices = rule.calibrated(table, "slice")
    subject = rule.calibrated(by_subject(table, rule.aggregation)[0], "subject")
    assert np.allclose([each.p_hemorrhage for each in result.slices], slices.p_hemorrhage)
    assert np.allclose([each.p_location for each in result.slices], slices.p_location)
    assert np.isclose(result.p_hemorrhage, subject.p_hemorrhage[0])
    assert np.allclose(result.p_location, subject.p_location[0])
    stored = [q for q in rule.raw["operating_points"] if q["name"] == "balanced_accuracy"]
    for level, point in (("slice", points.slice), ("subject", points.subject)):
        (one,) = [q for q in stored if q["level"] == level]
        assert point.threshold == one["threshold"]
        assert (point.low, point.high) == (one["low"], one["high"])
    scale = own_scale(facts(n), table.p_hemorrhage, rule, points)
    assert scale["score"] == by_subject(table, rule.aggregation)[0].p_hemorrhage[0]
    assert scale["low"] <= scale["threshold"] <= scale["high"]


def test_slices_are_in_order_of_position_with_unknown_positions_last(rule):
    places = [7.0, None, -3.0, 2.5]
    given_facts = [SliceFacts(f"sli-{i}", i, None, place, False) for i, place in enumerate(places)]
    p, where, none = np.full(4, 0.1), np.full((4, 3), 1 / 3), np.zeros(4)
    arguments = ("stu-a", "s", given_facts, p, where, none, rule, SURE)
    result = answer_study(*arguments, trained_on_phantoms=False)
    assert [each.position_mm for each in result.slices] == [-3.0, 2.5, 7.0, None]


def test_a_study_of_fewer_slices_than_the_rule_takes_is_uncertain(rule):
    result = answer([0.99], rule, SURE)
    assert result.decision == "uncertain" and result.slices[0].decision == "ich"
    assert "1 slice only" in result.reasons[0] and "3 highest" in result.reasons[0]
    every = dataclasses.replace(rule, aggregation=Aggregation("noisy_or", 0))
    assert answer([0.99], every, SURE).decision == "ich"


def test_outliers_make_a_study_uncertain_where_the_answer_depends_on_them(rule):
    p = [0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1]
    outliers = [1.5, 1.5, 1.5, 0, 0, 0, 0, 0]
    result = answer(p, rule, SURE, outliers)
    assert result.decision == "uncertain" and result.location == ""
    assert "without the 3 slices" in result.reasons[0] and "no ich" in result.reasons[0]
    assert [each.decision for each in result.slices[:4]] == ["uncertain"] * 3 + ["no ich"]
    assert "with them 'ich'" in result.reasons[0]
    harmless = answer(p, rule, SURE, [0, 0, 0, 1.5, 0, 0, 0, 0])
    assert harmless.decision == "ich" and not harmless.reasons
    assert harmless.remarks == ("1 of 8 slices, unlike the training slices, is left out",)
    most = answer(p, rule, SURE, [0, 0, 0, 2, 2, 2, 2, 2])
    assert most.decision == "uncertain" and "5 of 8 slices are unlike" in most.reasons[0]
    at_the_limit = answer([0.9] * 4, rule, SURE, [1.0] * 4)
    assert at_the_limit.decision == "ich"  # a score of exactly 1 is no outlier


PLACES = st.sampled_from([(0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)])
SLICES = st.lists(st.tuples(st.floats(0, 1), PLACES), min_size=3, max_size=8)


@settings(max_examples=80, deadline=None)
@given(SLICES, st.lists(st.tuples(st.floats(0, 1), PLACES), min_size=1, max_size=6))
def test_slices_unlike_the_training_slices_decide_neither_call_nor_location(rule, usual, others):
    p, where = map(np.array, zip(*usual, *others, strict=True))
    outliers = np.repeat([1.0, 1.001], [len(usual), len(others)])
    result = answer(p, rule, SURE, outliers, where)
    alone = answer(p[: len(usual)], rule, SURE, where=where[: len(usual)])
    assert (result.p_hemorrhage, result.p_location) == (alone.p_hemorrhage, alone.p_location)
    assert result.decision in (alone.decision, "uncertain")
    assert result.location in (alone.location, "")
    assert {one.decision for one in result.slices[len(usual) :]} == {"uncertain"}
    # What was left out may be the hemorrhage: it is never a plain 'no ich'.
    if answer(p, rule, SURE, where=where).decision == "ich":
        assert result.decision != "no ich"
    assert (result.decision == "uncertain") == bool(result.reasons)
    few = len(others) <= len(usual)
    assert not few or alone.decision == "no ich" or result.decision == alone.decision
    counted = f"{len(others)} of {len(p)} slice"
    assert counted in result.remarks[0] and "left out" in result.remarks[0]


def test_a_map_added_to_a_study_is_left_out_and_what_it_would_change_is_said(rule):
    p = [0.8, 0.8, 0.8, 0.99, 0.99, 0.99]
    where = [(0.8, 0.1, 0.1)] * 3 + [(0.0, 0.0, 1.0)] * 3
    result = answer(p, rule, SURE, [0, 0, 0, 3, 3, 3], where)
    assert (result.decision, result.location, result.reasons) == ("ich", "deep", ())
    assert result.remarks == (
        "3 of 6 slices, unlike the training slices, are left out: with them the location would be "
        "subtentorial",
    )
    mean = dataclasses.replace(rule, aggregation=Aggregation("mean", 0))
    diluted = answer([0.9, 0.9, 0.01, 0.01], mean, SURE, [0, 0, 2, 2])
    assert diluted.decision == "ich"
    assert diluted.remarks[0].endswith("are left out: with them the decision would be 'no ich'")


def test_a_study_of_outliers_alone_has_no_probability(rule):
    result = answer([0.99] * 5, rule, SURE, [1.1] * 5)
    assert (result.p_hemorrhage, result.p_location, result.location) == (None, None, "")
    assert result.decision == "uncertain"
    assert result.reasons == ("5 of 5 slices are unlike the training slices",)
    assert {one.decision for one in result.slices} == {"uncertain"}


def test_too_few_usual_slices_for_the_rule_are_a_reason(rule):
    result = answer([0.9, 0.9, 0.9, 0.9], rule, SURE, [0, 0, 2, 2])
    assert result.decision == "uncertain" and result.p_hemorrhage is not None
    assert result.reasons == (
        "2 slices like the training slices only: the model's rule takes the 3 highest of a study",
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=6))
def test_a_model_trained_on_phantoms_answers_phantoms_alone(rule, phantoms):
    p, real = [0.9] * len(phantoms), phantoms.count(False)
    result = answer(p, rule, SURE, phantoms=phantoms)
    plain = answer(p, rule, SURE)
    assert plain.decision == "ich"
    if not real:
        assert result == plain
        return
    assert (result.decision, result.location) == ("uncertain", "")
    assert (result.p_hemorrhage, result.p_location) == (None, None)
    assert {one.decision for one in result.slices} == {"uncertain"}
    (reason,) = result.reasons
    assert reason.startswith("the model was trained on synthetic phantoms: it has no answer for")
    assert f"{real} of {len(p)} slices" in reason


def test_an_unknown_operating_point_is_an_error_that_lists_the_others(rule):
    with pytest.raises(InputError, match=r"it has balanced_accuracy, sensitivity_0.95"):
        points_of(rule, "sensitivity_0.5")
    many = replaced(q := make(subjects=150, seed=5), split=np.full(len(q), "validation"))
    assured = points_of(fitted_rule.fit(many, Aggregation(), resamples=20), SURE_95)
    assert assured.name == SURE_95 and assured.subject.low == assured.subject.high
    assert math.isfinite(assured.slice.threshold)


SURE_95 = "sensitivity_0.95_assured"
