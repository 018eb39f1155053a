import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from dtvit_jax.evaluation import intervals


@given(st.integers(0, 60), st.integers(1, 60))
def test_exact_interval_is_scipys(successes, trials):
    successes = min(successes, trials)
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(method="exact")
    assert intervals.exact_interval(successes, trials) == pytest.approx((theirs.low, theirs.high))


def test_exact_interval_of_no_trials_and_of_invalid_counts():
    assert intervals.exact_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes"):
        intervals.exact_interval(3, 2)


def test_auroc_score_interval_covers_with_small_well_separated_classes():
    rng = np.random.default_rng(4)
    positives, negatives, distance = 12, 18, 2.2
    true = scipy.stats.norm.cdf(distance / np.sqrt(2))
    covered = 0
    for _ in range(1500):
        a = rng.normal(distance, size=positives)
        b = rng.normal(size=negatives)
        area = (a[:, None] > b).mean()
        low, high = intervals.auroc_interval(float(area), positives, negatives)
        covered += low <= true <= high
    assert covered / 1500 >= 0.94


def test_auroc_score_interval_mirrors_and_has_a_length_at_one():
    low, high = intervals.auroc_interval(0.8, 10, 20)
    mirrored = intervals.auroc_interval(0.2, 10, 20)
    assert mirrored == pytest.approx((1 - high, 1 - low))
    low, high = intervals.auroc_interval(1.0, 10, 20)
    assert high == 1 and 0.7 < low < 0.95
    with pytest.raises(ValueError, match="positive and a negative"):
        intervals.auroc_interval(0.5, 0, 3)
