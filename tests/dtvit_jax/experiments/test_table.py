import json

import numpy as np
import pytest
import sklearn.metrics

from dtvit_jax.experiments.table import difference_of, joined, row_of
from tests.helpers.experiment import HALVES, WHOLE
from tests.helpers.predictions import replaced


def test_a_row_is_the_pooled_folds_and_the_mean_of_its_seeds():
    found = row_of({0: HALVES}, "slice", resamples=50)
    area = sklearn.metrics.roc_auc_score(WHOLE.hemorrhage, WHOLE.p_hemorrhage)
    assert found["ICH AUROC"]["value"] == pytest.approx(area)
    assert found["folds"] == [0, 1] and found["slices"] == len(WHOLE)
    worse = {
        fold: replaced(p, p_hemorrhage=np.sqrt(p.p_hemorrhage * 0.25)) for fold, p in HALVES.items()
    }
    both = row_of({0: HALVES, 1: worse}, "slice", resamples=50)["ICH accuracy"]
    assert both["value"] == pytest.approx(np.mean(both["seeds"])) and len(both["seeds"]) == 2
    assert both["low"] <= both["value"] <= both["high"]


def test_only_folds_that_every_seed_has_are_counted():
    found = row_of({0: HALVES, 1: {1: HALVES[1]}}, "subject", resamples=50)
    assert found["folds"] == [1] and found["slices"] == len(HALVES[1])


def test_a_figure_that_the_folds_leave_undefined_is_none_and_not_nan():
    normal = WHOLE.select(WHOLE.hemorrhage == 0)
    found = row_of({0: {0: normal}}, "slice", resamples=50)
    assert found["ICH AUROC"]["value"] is None and found["ICH AUROC"]["seeds"] == [None]
    json.dumps(found, allow_nan=False)


def test_a_difference_is_paired_on_the_slices_that_both_have():
    other = {1: replaced(HALVES[1], p_hemorrhage=HALVES[1].p_hemorrhage * 0.5)}
    found = difference_of({0: HALVES}, {0: other}, "slice", resamples=50)
    assert found["slices"] == len(HALVES[1])
    a, b = row_of({0: {1: HALVES[1]}}, "slice"), row_of({0: other}, "slice")
    apart = a["ICH accuracy"]["value"] - b["ICH accuracy"]["value"]
    assert found["ICH accuracy"]["value"] == pytest.approx(apart)
    assert len(joined(list(HALVES.values()))) == len(WHOLE)
