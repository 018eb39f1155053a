"""Times 10,000 resamples of 1,300 slices of 400 subjects, against a loop over scikit-learn.

    OMP_NUM_THREADS=1 python benchmarks/bootstrap_speed.py

CPU seconds of one process. The loop draws subjects with numpy and calls scikit-learn's functions,
as most papers' code does; it is timed on fewer resamples and scaled up. Pairs of runs, in turn;
median and range.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import sklearn.metrics as reference

from dtvit_jax.evaluation import bootstrap, metrics

SUBJECTS, SLICES, RESAMPLES = 400, 1300, 10_000
LOOP = 200


def sample(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Returns slices' subjects, subjects' strata, truth, p, location and its p, all synthetic."""
    subject = np.sort(np.concatenate([np.arange(SUBJECTS), rng.integers(SUBJECTS, size=900)]))
    strata = np.arange(SUBJECTS) % 4
    truth = (strata[subject] > 0).astype(int)
    p = 1 / (1 + np.exp(-rng.normal(2 * truth - 1)))
    location = strata[subject] - 1
    odds = np.exp(rng.normal(size=(SLICES, 3)) + np.eye(3)[location] * truth[:, None])
    return subject, strata, truth, p, location, odds / odds.sum(axis=1, keepdims=True)


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def loop(subject: np.ndarray, strata: np.ndarray, truth: np.ndarray, p: np.ndarray) -> None:
    """Computes the ICH task's metrics by scikit-learn on LOOP resamples of subjects."""
    rng = np.random.default_rng(0)
    rows_of = [np.flatnonzero(subject == s) for s in range(SUBJECTS)]
    members = [np.flatnonzero(strata == label) for label in np.unique(strata)]
    for _ in range(LOOP):
        drawn = np.concatenate([rng.choice(group, len(group)) for group in members])
        rows = np.concatenate([rows_of[s] for s in drawn])
        t, q = truth[rows], p[rows]
        predicted = q >= 0.5
        for score in (
            reference.accuracy_score,
            reference.precision_score,
            reference.recall_score,
            reference.f1_score,
            reference.balanced_accuracy_score,
        ):
            score(t, predicted)
        reference.recall_score(t, predicted, pos_label=0)
        reference.roc_auc_score(t, q)
        reference.average_precision_score(t, q)
        reference.brier_score_loss(t, q)
        reference.log_loss(t, q)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    subject, strata, truth, p, location, p_location = sample(np.random.default_rng(0))
    ich = truth == 1
    used, place = np.unique(subject[ich], return_inverse=True)

    def ours() -> None:
        statistic = lambda w: metrics.hemorrhage_metrics(truth, p, w)  # noqa: E731
        bootstrap.bootstrap(statistic, subject, strata, RESAMPLES)

    def ours_location() -> None:
        statistic = lambda w: metrics.location_metrics(location[ich], p_location[ich], w)  # noqa: E731
        bootstrap.bootstrap(statistic, place, strata[used], RESAMPLES)

    times: dict[str, list[float]] = {"hemorrhage": [], "location": [], "loop": []}
    for _ in range(options.pairs):
        times["hemorrhage"].append(seconds(ours))
        times["loop"].append(seconds(lambda: loop(subject, strata, truth, p)) * RESAMPLES / LOOP)
        times["location"].append(seconds(ours_location))
    ratios = np.array(times["loop"]) / np.array(times["hemorrhage"])
    for name, words in (
        ("hemorrhage", "this project, 13 metrics of the ICH task"),
        ("location", "this project, 33 metrics of the location task"),
        ("loop", "loop over scikit-learn, 10 metrics of the ICH task"),
    ):
        t = np.array(times[name])
        print(f"{words}: {np.median(t):.1f} s ({t.min():.1f} to {t.max():.1f})")
    print(f"ratio: {np.median(ratios):.0f} ({ratios.min():.0f} to {ratios.max():.0f})")


if __name__ == "__main__":
    main()
