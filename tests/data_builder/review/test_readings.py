"""Readings of slices, and the final outcome of all readings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builder.review.readings import LABELS, Reading, conclude, read, runs


@pytest.mark.parametrize(
    ("own", "whole", "dropped", "outcome", "level"),
    [
        ({}, {}, False, "", ""),
        ({"label": "deep"}, {"label": "normal"}, False, "deep", "slice"),
        ({}, {"label": "normal"}, False, "normal", "study"),
        ({"label": "ich"}, {"label": "lobar"}, False, "lobar", "study"),
        ({"label": "ich"}, {"label": "normal"}, False, "ich", "slice"),
        ({"keep": "0"}, {"label": "deep"}, False, "dropped", "study"),
        ({"keep": "1"}, {"keep": "0"}, False, "kept", ""),
        ({}, {"keep": "1", "label": "deep"}, True, "dropped", "study"),
        ({"keep": "1"}, {"label": "deep"}, True, "deep", "study"),
    ],
)
def test_decisions_on_a_slice_come_before_those_on_its_study(own, whole, dropped, outcome, level):
    derived = read({"slice": own, "study": whole}, "slice", "study", dropped)
    assert (derived.outcome, derived.level) == (outcome, level)


def reading(outcome, unsure=False, own=True):
    return Reading(outcome, "slice" if outcome in LABELS else "", unsure, own)


NOBODY = reading("", own=False)


@pytest.mark.parametrize(
    ("readers", "settled", "outcome", "status"),
    [
        ([NOBODY], NOBODY, "", "unread"),
        ([reading("dropped", own=False)], NOBODY, "dropped", "unread"),
        ([reading("deep"), NOBODY], NOBODY, "deep", "single"),
        ([reading("deep"), reading("deep")], NOBODY, "deep", "agreed"),
        ([reading("deep"), reading("kept")], NOBODY, "deep", "agreed"),
        ([reading("deep"), reading("lobar")], NOBODY, "", "open"),
        ([reading("kept"), reading("dropped")], NOBODY, "", "open"),
        ([reading("deep", unsure=True)], NOBODY, "", "open"),
        ([reading("deep"), reading("lobar")], reading("lobar"), "lobar", "settled"),
        ([reading("deep"), reading("dropped")], reading("kept"), "deep", "settled"),
        ([reading("deep"), reading("normal"), reading("dropped")], reading("kept"), "", "open"),
        ([reading("deep", unsure=True)], reading("dropped"), "dropped", "settled"),
    ],
)
def test_the_final_outcome_of_all_readings(readers, settled, outcome, status):
    final = conclude(readers, settled)
    assert (final.outcome, final.status) == (outcome, status)


@given(st.lists(st.sampled_from(["", "kept", "dropped", "normal", "deep"]), max_size=4))
def test_the_order_of_readers_does_not_matter(outcomes):
    readings = [reading(outcome, own=bool(outcome)) for outcome in outcomes]
    assert conclude(readings, NOBODY) == conclude(readings[::-1], NOBODY)


def test_slices_without_a_mark_separate_runs():
    marks = {"a": (1,), "b": (1,), "d": (1,), "e": (2,)}
    assert runs("abcde", marks) == [(["a", "b"], (1,)), (["d"], (1,)), (["e"], (2,))]
