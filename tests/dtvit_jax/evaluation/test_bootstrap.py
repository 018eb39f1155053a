import time

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from dtvit_jax.evaluation import bootstrap, metrics, ranking

SIMULATIONS = 500
RESAMPLES = 500


def correlated(rng, subjects, slices, distance=1.2):
    """Scores of subjects of two classes; half of a score's variance is its subject's."""
    strata = np.repeat([0, 1], subjects)
    subject = np.repeat(np.arange(2 * subjects), slices)
    own = rng.normal(size=2 * subjects)
    score = own[subject] + rng.normal(size=len(subject)) + distance * strata[subject]
    return subject, strata, strata[subject], score


def auroc_and_accuracy(truth, score, cut):
    right = ((score > cut) == (truth == 1)).astype(float)
    return lambda weights: {
        "auroc": ranking.auroc(truth == 1, score, weights),
        "accuracy": weights @ right / weights.sum(axis=1),
        "average_precision": ranking.average_precision(truth == 1, score, weights),
    }


def test_the_subject_bootstrap_covers_the_truth_and_the_slice_bootstrap_undercovers():
    distance, spread = 1.2, np.sqrt(2)
    true = {  # of two normal distributions, by hand
        "auroc": scipy.stats.norm.cdf(distance / (spread * np.sqrt(2))),
        "accuracy": scipy.stats.norm.cdf(distance / 2 / spread),
    }
    large = correlated(np.random.default_rng(12), 60_000, 1, distance)
    true["average_precision"] = sklearn.metrics.average_precision_score(large[2], large[3])
    rng = np.random.default_rng(11)
    covered = {unit: dict.fromkeys(true, 0) for unit in ("subject", "slice")}
    for simulation in range(SIMULATIONS):
        subject, strata, truth, score = correlated(rng, 30, 8, distance)
        statistic = auroc_and_accuracy(truth, score, distance / 2)
        units = {"subject": (subject, strata), "slice": (np.arange(len(subject)), truth)}
        for unit, (rows, classes) in units.items():
            if unit == "slice" and simulation % 4:
                continue  # a quarter of them suffices to show its undercoverage
            result = bootstrap.bootstrap(statistic, rows, classes, RESAMPLES, simulation)
            for name, value in true.items():
                covered[unit][name] += result[name].low <= value <= result[name].high
    for name in true:
        assert covered["subject"][name] / SIMULATIONS >= 0.93, covered
        assert covered["slice"][name] / (SIMULATIONS / 4) <= 0.80, covered


def test_differences_keep_their_level_for_equal_models_and_have_power_for_unequal_ones():
    rng = np.random.default_rng(5)
    runs, significant = 200, {"equal": 0, "unequal": 0}
    for run in range(runs):
        subject, strata, truth, shared = correlated(rng, 20, 4, distance=2.4)
        a, b = (shared + rng.normal(size=len(truth)) for _ in range(2))
        blind = rng.normal(size=len(truth))
        for name, other in (("equal", b), ("unequal", blind)):

            def difference(weights, first=a, second=other, truth=truth):
                areas = [ranking.auroc(truth == 1, score, weights) for score in (first, second)]
                return {"auroc": areas[0] - areas[1]}

            result = bootstrap.bootstrap(difference, subject, strata, 400, run, difference=True)[
                "auroc"
            ]
            significant[name] += result.p <= 0.05
            zero_is_out = result.low > 0 or result.high < 0
            assert zero_is_out == (result.p < 0.05) or abs(result.p - 0.05) < 0.02
    assert significant["equal"] <= scipy.stats.binom.ppf(0.999, runs, 0.05)
    assert significant["unequal"] >= 0.8 * runs


def test_ten_thousand_resamples_of_1300_slices_take_less_than_ten_seconds_of_one_core():
    rng = np.random.default_rng(0)
    subject = np.sort(np.concatenate([np.arange(400), rng.integers(400, size=900)]))
    strata = np.arange(400) % 2
    truth = strata[subject]
    p = 1 / (1 + np.exp(-rng.normal(2 * truth - 1)))
    start = time.process_time()
    result = bootstrap.bootstrap(
        lambda weights: metrics.hemorrhage_metrics(truth, p, weights), subject, strata, 10_000
    )
    assert time.process_time() - start < 10
    assert result["auroc"].low < result["auroc"].value < result["auroc"].high


def test_one_row_a_subject_gives_the_hull_of_scipys_intervals_at_the_stretched_level():
    n = 60
    x = np.random.default_rng(1).exponential(size=n)
    ours = bootstrap.bootstrap(
        lambda weights: {"mean": weights @ x / weights.sum(axis=1)},
        np.arange(n),
        np.zeros(n, int),
        20_000,
    )["mean"]
    # Hesterberg (2015), 'expanded': the level whose normal quantile is t's, by sqrt(n / (n - 1)).
    expanded = np.sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.975, n - 1)
    theirs = [
        scipy.stats.bootstrap(
            (x,),
            np.mean,
            n_resamples=20_000,
            method=method,
            confidence_level=2 * scipy.stats.norm.cdf(expanded) - 1,
            rng=np.random.default_rng(2),
        ).confidence_interval
        for method in ("BCa", "percentile")
    ]
    low, high = min(i.low for i in theirs), max(i.high for i in theirs)
    # Each end is a quantile of 20,000 draws: its Monte Carlo error is about 0.5% of the width.
    assert ours.low == pytest.approx(low, abs=0.02 * (high - low))
    assert ours.high == pytest.approx(high, abs=0.02 * (high - low))


@given(st.integers(1, 50), st.integers(0, 2**31))
def test_draws_keep_class_sizes_and_do_not_depend_on_the_chunk(chunk, seed):
    strata = np.array([0, 0, 0, 1, 1, 2, 0])
    at_once = np.concatenate(list(bootstrap.subject_counts(strata, 50, seed, 50)))
    chunked = np.concatenate(list(bootstrap.subject_counts(strata, 50, seed, chunk)))
    np.testing.assert_array_equal(at_once, chunked)
    for label, size in ((0, 4), (1, 2), (2, 1)):
        assert (at_once[:, strata == label].sum(axis=1) == size).all()


def test_each_subject_of_a_class_is_drawn_once_on_average():
    strata = np.repeat([0, 1], [5, 20])
    drawn = np.concatenate(list(bootstrap.subject_counts(strata, 20_000, 3, 1000)))
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.05)
    # A count is binomial: its variance is 1 - 1/n.
    np.testing.assert_allclose(drawn.var(axis=0), np.where(strata == 0, 0.8, 0.95), atol=0.06)


def test_the_seed_determines_the_interval():
    subject, strata, truth, score = correlated(np.random.default_rng(0), 10, 4)
    statistic = auroc_and_accuracy(truth, score, 0.6)
    first, again, other = (
        bootstrap.bootstrap(statistic, subject, strata, 300, s) for s in (1, 1, 2)
    )
    assert first == again and first != other


def test_a_metric_that_is_the_same_in_all_resamples_has_no_interval():
    result = bootstrap.bootstrap(
        lambda w: {"one": np.ones(len(w))}, np.arange(4), np.zeros(4, int), 100
    )
    assert result["one"].value == 1
    assert np.isnan(result["one"].low) and np.isnan(result["one"].high)


def test_resamples_without_a_denominator_are_counted():
    # Precision over subjects 0 and 1, of whom a resample of three may draw neither: (1/3)^3.
    predicted = np.array([1.0, 1.0, 0.0])

    def statistic(weights):
        with np.errstate(invalid="ignore"):
            return {"precision": (weights @ (predicted * [1, 0, 0])) / (weights @ predicted)}

    result = bootstrap.bootstrap(statistic, np.arange(3), np.zeros(3, int), 20_000)["precision"]
    assert result.undefined == pytest.approx(1 / 27, abs=0.005)
    assert result.value == 0.5


def test_strata_are_classes_and_a_single_subject_of_a_location_joins_unknown_ich():
    hemorrhage = np.array([0, 0, 1, 1, 1, 1, 1, -1])
    location = np.array([-1, -1, 0, 0, 2, 1, 1, -1])
    strata = bootstrap.strata_of(hemorrhage, location)
    assert strata.tolist() == [0, 0, 2, 2, 1, 3, 3, -1]
