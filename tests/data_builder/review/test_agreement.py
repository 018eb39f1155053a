"""Kappas against published and independent values, and their intervals."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from data_builder.review.agreement import cohen, fleiss

# Wikipedia, "Fleiss' kappa", worked example: 10 items, 14 raters, 5 categories; kappa 0.210.
FLEISS_EXAMPLE = """0 0 0 0 14  0 2 6 4 2  0 0 3 5 6  0 3 9 2 0  2 2 8 1 1
                    7 7 0 0 0  3 2 6 3 0  2 5 3 2 2  6 5 2 1 0  0 2 2 3 7"""


def test_fleiss_kappa_of_the_published_example():
    votes = np.array(FLEISS_EXAMPLE.split(), int).reshape(10, 5)
    ratings = np.array([np.repeat(np.arange(5), row) for row in votes])
    kappa = fleiss(ratings, [str(item) for item in range(10)], 5)
    assert kappa.value == pytest.approx(0.210, abs=0.0005)
    assert kappa.observed == pytest.approx(0.378, abs=0.0005)
    assert kappa.low < kappa.value < kappa.high


def test_cohens_kappa_by_hand_and_in_scikit_learn():
    one, other = [0] * 25 + [1] * 25, [0] * 20 + [1] * 5 + [0] * 10 + [1] * 15
    kappa = cohen(one, other, [str(i) for i in range(50)], 2)
    assert kappa.value == pytest.approx(0.4) and kappa.observed == pytest.approx(0.7)
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 3, (2, 200))
    b = np.where(rng.uniform(size=200) < 0.6, a, b)
    kappa = cohen(a.tolist(), b.tolist(), [str(i % 20) for i in range(200)], 3)
    assert kappa.value == pytest.approx(cohen_kappa_score(a, b))


def test_more_slices_of_the_same_subjects_do_not_narrow_the_interval():
    rng = np.random.default_rng(2)
    a = rng.integers(0, 2, 60)
    b = np.where(rng.uniform(size=60) < 0.8, a, 1 - a)
    subjects = [str(i % 12) for i in range(60)]
    once = cohen(a.tolist(), b.tolist(), subjects, 2)
    often = cohen(a.tolist() * 9, b.tolist() * 9, subjects * 9, 2)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert often.slices == 9 * once.slices and often.subjects == once.subjects == 12


def test_an_undefined_kappa_is_none():
    assert cohen([], [], [], 2).value is None
    equal = cohen([1, 1], [1, 1], ["a", "b"], 2)
    assert (equal.value, equal.observed) == (None, 1.0)
    assert cohen([0, 1], [0, 1], ["a", "a"], 2).low is None  # one subject: no interval
