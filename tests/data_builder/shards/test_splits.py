"""Splits by subject, in folds and by slice."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builder.errors import InputError
from data_builder.records import CLASSES, Record
from data_builder.shards.audit import counts, leak
from data_builder.shards.groups import shown_contents, subject_groups
from data_builder.shards.splits import SplitPlan, divide
from tests.helpers.shard_records import records

STRATA = st.fixed_dictionaries({name: st.integers(3, 12) for name in CLASSES})


@settings(max_examples=40, deadline=None)
@given(STRATA, st.integers(0, 5), st.integers(0, 3))
def test_every_slice_and_every_subject_has_one_side(strata, folds, seed):
    if folds == 1:
        return
    data = records(strata)
    sides = divide(data, SplitPlan("subject", folds, 0, seed)).side_of
    assert sides.keys() == {r.key for r in data}
    sides_of_subject = defaultdict(set)
    for r in data:
        sides_of_subject[r.subject].add(sides[r.key])
    assert all(len(subject_sides) == 1 for subject_sides in sides_of_subject.values())
    assert leak(data, sides)["with_sibling_in_training"] == 0


@settings(max_examples=20, deadline=None)
@given(STRATA, st.integers(2, 6), st.sampled_from(["subject", "slice"]))
def test_folds_test_every_slice_once(strata, folds, by):
    data = records(strata)
    tested = Counter()
    for fold in range(folds):
        sides = divide(data, SplitPlan(by, folds, fold)).side_of
        tested.update(key for key, side in sides.items() if side == "test")
    assert tested == Counter(r.key for r in data)


def test_each_class_reaches_each_side():
    data = records({"normal": 20, "deep": 10, "lobar": 3, "subtentorial": 3})
    table = counts(data, divide(data, SplitPlan()).side_of)
    assert all(table[side]["subjects"][name] for side in table for name in CLASSES)
    assert table["train"]["slices"]["normal"] == 3 * table["train"]["subjects"]["normal"] == 48


def test_pseudonyms_do_not_decide_the_side():
    data = records({"normal": 9, "deep": 9})
    renamed = [Record(**{**vars(r), "subject": "other " + r.subject}) for r in data]
    assert divide(data, SplitPlan()) == divide(renamed, SplitPlan())
    assert divide(data, SplitPlan(seed=1)) != divide(data, SplitPlan())


def test_subjects_that_share_a_slice_stay_together():
    shared = [("normal0", "normal1"), ("normal1", "deep0")]
    data = records({"normal": 8, "deep": 8}, shared=tuple(shared))
    groups = subject_groups(shown_contents(data))
    assert groups["normal0"] == groups["normal1"] == groups["deep0"] != groups["deep1"]
    for fold in range(4):
        sides = divide(data, SplitPlan(folds=4, fold=fold)).side_of
        assert len({sides[f"{s}-x"] for s in ("normal0", "normal1", "deep0")}) == 1


def test_the_split_of_the_paper_has_its_sizes_and_leaks():
    """12,651 slices give 10,120 / 1,265 / 1,266; nearly all test slices have a sibling."""
    data = records({"normal": 1469, "deep": 2748}, slices=3)
    assert len(data) == 12651
    sides = divide(data, SplitPlan("slice")).side_of
    assert Counter(sides.values()) == {"train": 10120, "validation": 1265, "test": 1266}
    leaked = leak(data, sides)
    trained = {r.subject for r in data if sides[r.key] == "train"}
    by_hand = sum(sides[r.key] == "test" and r.subject in trained for r in data)
    assert leaked == {"test_slices": 1266, "with_sibling_in_training": by_hand}
    assert by_hand > 1150  # 1 - 0.2**2 of them are expected


def test_a_class_too_small_to_split_is_refused():
    with pytest.raises(InputError, match="ICH slices only"):
        divide(records({"deep": 9}), SplitPlan())
    with pytest.raises(InputError, match="normal slices only"):
        divide(records({"normal": 9}), SplitPlan())
    with pytest.raises(InputError, match="class lobar has 2"):
        divide(records({"normal": 9, "lobar": 2}), SplitPlan())


@pytest.mark.parametrize("plan", [("person", 0, 0), ("subject", 1, 0), ("subject", 5, 5)])
def test_a_bad_plan_is_refused(plan):
    with pytest.raises(InputError):
        SplitPlan(*plan)
