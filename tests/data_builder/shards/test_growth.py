"""A data set that grows: known subjects stay, newcomers fill up, bridges go aside."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builder.records import CLASSES, Record
from data_builder.shards.growth import ASIDE, EarlierDivision
from data_builder.shards.splits import SplitPlan, divide
from tests.helpers.shard_records import records


def as_earlier(data: list[Record], division, same_fold: bool = True) -> EarlierDivision:
    """The earlier division that a splits.csv of `division` gives."""
    kept = [r for r in data if division.side_of[r.key] != ASIDE]
    return EarlierDivision(
        {r.digest: r.subject for r in kept},
        {r.digest: division.side_of[r.key] for r in kept} if same_fold else {},
        {r.digest: division.fold_of[r.key] for r in kept if division.fold_of[r.key] >= 0},
    )


def renamed(data: list[Record], site: str) -> list[Record]:
    return [dataclasses.replace(r, subject=site + r.subject, key=site + r.key) for r in data]


BEFORE = st.fixed_dictionaries({name: st.integers(3, 9) for name in CLASSES})
MORE = st.fixed_dictionaries({name: st.integers(0, 9) for name in CLASSES})


@settings(max_examples=40, deadline=None)
@given(BEFORE, MORE, st.sampled_from([0, 2, 5]), st.integers(0, 1))
def test_known_subjects_stay_under_other_pseudonyms(before, more, folds, fold):
    plan = SplitPlan(folds=folds, fold=fold if folds else 0)
    data = records(before)
    first = divide(data, plan)
    grown = renamed(records({name: before[name] + more[name] for name in CLASSES}), "x")
    second = divide(grown, plan, earlier=as_earlier(data, first))
    for r in data:
        assert second.side_of["x" + r.key] == first.side_of[r.key]
        assert second.fold_of["x" + r.key] == first.fold_of[r.key]
    assert set(second.side_of.values()) <= {"train", "validation", "test"}


@settings(max_examples=20, deadline=None)
@given(BEFORE, MORE)
def test_growing_folds_test_every_slice_once(before, more):
    data = records(before)
    grown = records({name: before[name] + more[name] for name in CLASSES})
    tested = Counter()
    for fold in range(4):
        plan = SplitPlan(folds=4, fold=fold)
        # Only fold 0 was built before; the other folds take the folds from it.
        first = divide(data, SplitPlan(folds=4))
        second = divide(grown, plan, earlier=as_earlier(data, first, same_fold=fold == 0))
        tested.update(key for key, side in second.side_of.items() if side == "test")
    assert tested == Counter(r.key for r in grown)


def test_another_fold_of_the_same_data_is_as_without_an_earlier_one():
    data = records({"normal": 20, "deep": 11, "lobar": 4})
    first = divide(data, SplitPlan(folds=3))
    alone = divide(data, SplitPlan(folds=3, fold=1))
    assert divide(data, SplitPlan(folds=3, fold=1), earlier=as_earlier(data, first, False)) == alone


def test_newcomers_go_to_the_side_furthest_below_its_share():
    # 80/10/10 of 20 is 16/2/2; ten more of deep make it 24/3/3.
    data = records({"normal": 20, "deep": 20})
    first = divide(data, SplitPlan())
    grown = records({"normal": 20, "deep": 30})
    sides = divide(grown, SplitPlan(), earlier=as_earlier(data, first)).side_of
    deep_sides = Counter(sides[f"deep{i}-0"] for i in range(30))
    assert deep_sides == {"train": 24, "validation": 3, "test": 3}


def subject_on(sides: dict[str, str], side: str) -> str:
    return next(key for key in sides if sides[key] == side).split("-")[0]


@pytest.mark.parametrize("folds", [0, 3])
def test_a_newcomer_that_bridges_two_sides_is_set_aside(folds):
    plan = SplitPlan(folds=folds)
    data = records({"normal": 12, "deep": 12})
    first = divide(data, plan)
    one, other = subject_on(first.side_of, "train"), subject_on(first.side_of, "test")
    bridge = [
        Record("new-0", "", 0, "", "new", "", 0.0, f"{one}-0"),
        Record("new-1", "", 0, "", "new", "", 0.0, f"{other}-0"),
        Record("friend-0", "", 0, "", "friend", "", 0.0, f"{other}-1"),
    ]
    second = divide([*data, *bridge], plan, earlier=as_earlier(data, first))
    assert second.side_of["new-0"] == second.side_of["new-1"] == ASIDE
    assert second.side_of["friend-0"] == "test"
    assert {key: second.side_of[key] for key in first.side_of} == first.side_of


def test_a_chain_of_newcomers_between_two_sides_loses_one_of_them():
    plan = SplitPlan()
    data = records({"normal": 12, "deep": 12})
    first = divide(data, plan)
    one, other = subject_on(first.side_of, "train"), subject_on(first.side_of, "test")
    chain = [
        Record("a-0", "", 0, "", "a", "", 0.0, f"{one}-0"),
        Record("a-1", "", 0, "", "a", "", 0.0, "between"),
        Record("b-0", "", 0, "", "b", "", 0.0, "between"),
        Record("b-1", "", 0, "", "b", "", 0.0, f"{other}-0"),
    ]
    sides = divide([*data, *chain], plan, earlier=as_earlier(data, first)).side_of
    assert [sides["a-0"], sides["b-0"]].count(ASIDE) == 1
    assert {sides["a-0"], sides["b-0"]} - {ASIDE} <= {"train", "test"}
    again = divide(renamed([*data, *chain], "z"), plan, earlier=as_earlier(data, first)).side_of
    assert {key[1:]: side for key, side in again.items()} == sides
