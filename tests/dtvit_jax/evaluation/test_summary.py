import json

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from data_builder.errors import InputError
from data_builder.files import write_json
from dtvit_jax.decision.aggregation import by_subject
from dtvit_jax.evaluation.differences import paired_difference
from dtvit_jax.evaluation.summary import evaluate_predictions
from tests.helpers.predictions import make, replaced

FAST = {"resamples": 200}


def entries(result):
    for level in ("slice", "subject"):
        for task, metrics in result[level].items():
            for name, entry in metrics.items():
                yield f"{level} {task} {name}", entry


def test_numbers_are_those_of_the_slices_and_of_the_subjects():
    p = make()
    result = evaluate_predictions(p, **FAST)
    subjects, _ = by_subject(p)
    for level, table in (("slice", p), ("subject", subjects)):
        area = sklearn.metrics.roc_auc_score(table.hemorrhage, table.p_hemorrhage)
        assert result[level]["hemorrhage"]["auroc"]["value"] == pytest.approx(area)
        ich = table.location >= 0
        recall = sklearn.metrics.recall_score(
            table.location[ich], table.p_location[ich].argmax(1), average="macro"
        )
        assert result[level]["location"]["macro_recall"]["value"] == pytest.approx(recall)
        cells = sklearn.metrics.confusion_matrix(table.hemorrhage, table.p_hemorrhage >= 0.5)
        assert result["confusion"][level]["hemorrhage"] == cells.tolist()
    assert result["n"]["slices"] == 200 and result["n"]["subjects"] == 20
    assert result["n"]["subjects_by_class"] == {
        "normal": 8,
        "deep": 6,
        "lobar": 4,
        "subtentorial": 2,
    }


def test_rates_have_counts_and_subject_level_rates_have_exact_intervals():
    result = evaluate_predictions(make(skill=0.7), **FAST)
    for level in ("slice", "subject"):
        for task in ("hemorrhage", "location"):
            for name, entry in result[level][task].items():
                if "count" in entry:
                    assert entry["value"] == pytest.approx(entry["count"] / entry["of"]), name
                assert ("exact" in entry) == (level == "subject" and "count" in entry), name
    entry = result["subject"]["hemorrhage"]["specificity"]
    theirs = scipy.stats.binomtest(entry["count"], entry["of"]).proportion_ci(method="exact")
    assert entry["exact"]["low"] == pytest.approx(theirs.low)
    assert entry["exact"]["high"] == pytest.approx(theirs.high)


def test_a_sample_without_errors_has_the_interval_of_as_many_trials_as_subjects():
    p = make(subjects=20, slices=10)
    p = replaced(p, p_hemorrhage=np.where(p.hemorrhage == 1, 0.9, 0.1))
    result = evaluate_predictions(p, **FAST)
    for level in ("slice", "subject"):
        entry = result[level]["hemorrhage"]["sensitivity"]  # of 12 subjects with ICH
        assert entry["value"] == 1 and entry["high"] == 1
        assert entry["low"] == pytest.approx(0.025 ** (1 / 12))
        assert "12 subjects" in entry["method"]
        assert result[level]["hemorrhage"]["auroc"]["low"] < 1
    f1 = result["subject"]["hemorrhage"]["f1"]
    assert f1["value"] == 1 and f1["low"] is None and "no interval" in f1["reason"]


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_gives_nulls_with_reasons(only):
    p = make()
    p = p.select(p.hemorrhage == only)
    result = evaluate_predictions(p, **FAST)
    absent = {0: "ICH", 1: "normal"}[only]
    for level in ("slice", "subject"):
        entry = result[level]["hemorrhage"]["auroc"]
        assert entry["value"] is None and entry["reason"] == f"no {level} of class {absent}"
        assert result[level]["hemorrhage"]["accuracy"]["value"] is not None
        if only == 0:
            assert "no slice" in result["slice"]["location"]["macro_recall"]["reason"]


def without_truth(p):
    return replaced(p, hemorrhage=np.full(len(p), -1), location=np.full(len(p), -1))


def without_location_task(p):
    return replaced(p, p_location=np.full((len(p), 3), np.nan))


def without_location_truth(p):
    return replaced(p, location=np.full(len(p), -1))


def one_subject(p):
    return p.select(p.subject == "sub-001")


def one_slice(p):
    return p.select(np.array([0]))


def never_ich(p):
    return replaced(p, p_hemorrhage=p.p_hemorrhage * 0.4)


def one_score(p):
    return replaced(p, p_hemorrhage=np.full(len(p), 0.5))


@pytest.mark.parametrize(
    "change",
    [
        without_truth,
        without_location_task,
        without_location_truth,
        one_subject,
        one_slice,
        never_ich,
        one_score,
    ],
)
def test_an_undefined_metric_is_null_with_a_reason(tmp_path, change):
    result = evaluate_predictions(change(make()), **FAST)
    write_json(tmp_path / "metrics.json", result)
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert [f.name for f in tmp_path.iterdir()] == ["metrics.json"]
    some_null = False
    for name, entry in entries(read):
        assert {"value", "low", "high"} <= set(entry), name
        if entry["value"] is None or entry["low"] is None:
            some_null = True
            assert entry["reason"], name
        else:
            assert entry["low"] <= entry["high"], name
    assert some_null


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_the_order_of_rows_and_the_names_of_subjects_do_not_change_the_numbers(seed):
    p = make(subjects=10, slices=6)
    order = np.random.default_rng(seed).permutation(len(p))
    first = evaluate_predictions(p, resamples=50)
    second = evaluate_predictions(p.select(order), resamples=50)
    for (name, a), (_, b) in zip(entries(first), entries(second), strict=True):
        for part in ("value", "low", "high"):
            assert a[part] == pytest.approx(b[part], abs=1e-9), name


def test_ties_few_subjects_and_mixed_splits_give_warnings():
    p = make()
    first = np.flatnonzero((p.subject == "sub-001") & (p.hemorrhage == 1))
    location = p.location.copy()
    location[first] = [0, 0, 1, 1]
    split = np.where(p.subject == "sub-000", "validation", "test")
    result = evaluate_predictions(replaced(p, location=location, split=split), **FAST)
    assert result["n"]["location_ties"] == ["sub-001"]
    text = " ".join(result["warnings"])
    assert "left out" in text and "2 splits" in text and "2 subtentorial" in text


def test_the_difference_of_a_model_from_itself_is_zero():
    result = paired_difference(make(), make(), **FAST)
    for name, entry in entries(result):
        assert entry["value"] in (0, None), name
        assert entry["a"] == entry["b"], name


def test_the_difference_changes_sign_with_the_order_of_the_models():
    a, b = make(skill=2.0), make(skill=1.0)
    first, second = paired_difference(a, b, **FAST), paired_difference(b, a, **FAST)
    one = first["slice"]["hemorrhage"]["auroc"]
    two = second["slice"]["hemorrhage"]["auroc"]
    assert one["value"] == pytest.approx(-two["value"]) and one["value"] > 0
    assert (one["low"], one["high"]) == pytest.approx((-two["high"], -two["low"]))
    area = evaluate_predictions(a, **FAST)["slice"]["hemorrhage"]["auroc"]["value"]
    assert one["a"] == pytest.approx(area)
    assert one["p"] < 0.05


def test_pairing_narrows_the_interval_of_correlated_models():
    a = make(subjects=40, skill=1.0)
    b = replaced(a, p_hemorrhage=np.clip(a.p_hemorrhage + 0.02 * a.hemorrhage, 0, 1))
    difference = paired_difference(a, b, **FAST)["slice"]["hemorrhage"]["auroc"]
    alone = evaluate_predictions(a, **FAST)["slice"]["hemorrhage"]["auroc"]
    assert difference["high"] - difference["low"] < 0.2 * (alone["high"] - alone["low"])


def test_models_on_different_slices_or_truths_are_not_compared():
    a = make()
    with pytest.raises(InputError, match="key"):
        paired_difference(a, a.select(np.arange(len(a) - 1)), **FAST)
    with pytest.raises(InputError, match="hemorrhage"):
        paired_difference(a, replaced(a, hemorrhage=1 - a.hemorrhage), **FAST)
