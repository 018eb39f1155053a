import numpy as np
import pytest
import sklearn.metrics

from data_builder.errors import InputError
from dtvit_jax.decision.aggregation import by_subject
from dtvit_jax.evaluation.subgroups import MOST, read_facts, subgroups
from tests.helpers.predictions import make

P = make(subjects=40, slices=6, skill=1.0)
NUMBER = np.array([int(s[-3:]) for s in P.subject])
FEW = {"resamples": 50}


def facts(**columns):
    return {
        key: {name: str(values[i]) for name, values in columns.items() if str(values[i])}
        for i, key in enumerate(P.key)
    }


def test_the_metrics_of_a_group_are_those_of_its_slices():
    sex = np.where(NUMBER % 3 == 0, "F", "M")
    result = subgroups(P, facts(sex=sex), **FEW)
    assert list(result) == ["sex"]
    groups = {group["value"]: group for group in result["sex"]["groups"]}
    for value, group in groups.items():
        subjects, _ = by_subject(P.select(sex == value))
        area = sklearn.metrics.roc_auc_score(subjects.hemorrhage, subjects.p_hemorrhage)
        assert group["subject"]["hemorrhage"]["auroc"]["value"] == pytest.approx(area)
        assert group["n"]["subjects"] == len(subjects)
    assert sum(group["n"]["slices"] for group in groups.values()) == len(P)


def test_a_year_that_separates_the_classes_is_a_confound():
    ich = np.isin(P.subject, P.subject[P.hemorrhage == 1])
    result = subgroups(P, facts(year=np.where(ich, np.where(NUMBER % 2, 2019, 2020), 2024)), **FEW)
    sentence = result["year"]["confound"]
    assert sentence.startswith("No year has both ICH and normal subjects")
    assert "ICH: 2019, 2020; normal: 2024" in sentence
    assert result["year"]["alone"] == 1
    for group in result["year"]["groups"]:
        assert group["subject"]["hemorrhage"]["auroc"]["value"] is None


def test_a_fact_known_for_one_class_only_is_a_confound_too():
    ich = np.isin(P.subject, P.subject[P.hemorrhage == 1])
    result = subgroups(P, facts(year=np.where(ich, "2019", "")), **FEW)
    assert "normal: not known" in result["year"]["confound"]


def test_a_fact_associated_with_the_label_is_a_confound_and_a_balanced_one_is_not():
    ich = np.isin(P.subject, P.subject[P.hemorrhage == 1])
    mostly = np.where(ich ^ (NUMBER % 10 == 0), "A", "B")
    result = subgroups(P, facts(scanner=mostly, sex=np.where(NUMBER % 2, "F", "M")), **FEW)
    assert "AUROC of 0." in result["scanner"]["confound"] and 0.75 < result["scanner"]["alone"] < 1
    assert result["sex"]["confound"] is None


def test_a_fact_that_is_constant_or_unknown_makes_no_groups():
    assert subgroups(P, {}, **FEW) == {}
    assert subgroups(P, facts(sex=np.full(len(P), "F")), **FEW) == {}


def test_many_values_become_a_few_groups_in_order():
    result = subgroups(P, facts(thickness_mm=NUMBER % 12 + 0.5), **FEW)
    values = [group["value"] for group in result["thickness_mm"]["groups"]]
    assert len(values) == MOST and values[-1] == "other"
    assert values[:-1] == sorted(values[:-1], key=float)


def test_facts_are_read_from_a_manifest_and_another_file_is_refused(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("key,subject,sex,year,extra\na,s,F,,x\nb,s,,2020,x\n")
    assert read_facts(path) == {"a": {"sex": "F"}, "b": {"year": "2020"}}
    path.write_text("subject,sex\ns,F\n")
    with pytest.raises(InputError, match="no column key"):
        read_facts(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_facts(tmp_path / "none.csv")
