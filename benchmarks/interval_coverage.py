"""Coverage of 95% intervals: the method of `dtvit_jax.evaluation.bootstrap` against others.

    python benchmarks/interval_coverage.py --simulations 400

Synthetic subjects whose slices share half of their variance; the truth is that of a sample
thousands of times as large. 'hull' is the interval of `bootstrap.bootstrap`, 'percentile' the plain
percentile interval over subjects, 'slices' the percentile interval over slices, as in most papers.
"""

import argparse
from collections.abc import Callable

import numpy as np

from dtvit_jax.evaluation import bootstrap, metrics

SCENARIOS = (
    ("hemorrhage", (30, 30), 8, 1.2),
    ("hemorrhage", (20, 20), 1, 2.5),
    ("location", (14, 10, 6), 4, 1.5),
    ("location", (60, 15, 7), 6, 1.5),
    ("hemorrhage", (15, 15), 4, 2.5),
)
SHOWN = {
    "hemorrhage": ("accuracy", "sensitivity", "f1", "auroc", "average_precision", "log_loss"),
    "location": ("accuracy", "macro_recall", "macro_f1", "macro_auroc", "log_loss"),
}
LARGE = 3000


def sample(
    task: str, sizes: tuple[int, ...], slices: int, distance: float, rng: np.random.Generator
) -> tuple[bootstrap.Statistic, np.ndarray, np.ndarray]:
    """Returns a statistic of synthetic slices, slices' subjects and subjects' classes."""
    strata = np.repeat(np.arange(len(sizes)), sizes)
    subject = np.repeat(np.arange(len(strata)), slices)
    truth = strata[subject]
    own = rng.normal(size=(len(strata), len(sizes)))[subject]
    score = own + rng.normal(size=own.shape)
    if task == "hemorrhage":
        z = score[:, 0] + distance * (truth - 0.5)
        p = 1 / (1 + np.exp(-z * distance / 2))
        compute = _hemorrhage(truth, p)
    else:
        score[np.arange(len(truth)), truth] += distance
        p = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
        compute = _location(truth, p)
    return (
        lambda weights: {n: v for n, v in compute(weights).items() if n in SHOWN[task]},
        subject,
        strata,
    )


def _hemorrhage(truth: np.ndarray, p: np.ndarray) -> bootstrap.Statistic:
    return lambda weights: metrics.hemorrhage_metrics(truth, p, weights)


def _location(truth: np.ndarray, p: np.ndarray) -> bootstrap.Statistic:
    return lambda weights: metrics.location_metrics(truth, p, weights)


def percentiles(
    statistic: bootstrap.Statistic, row: np.ndarray, strata: np.ndarray, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    parts = [
        statistic(counts[:, row].astype(float))
        for counts in bootstrap.subject_counts(strata, resamples, seed, 500)
    ]
    drawn = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: tuple(np.nanquantile(v, [0.025, 0.975])) for name, v in drawn.items()}


def hull(
    statistic: bootstrap.Statistic, row: np.ndarray, strata: np.ndarray, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    intervals = bootstrap.bootstrap(statistic, row, strata, resamples, seed)
    return {name: (interval.low, interval.high) for name, interval in intervals.items()}


METHODS: dict[str, Callable[..., dict[str, tuple[float, float]]]] = {
    "hull": hull,
    "percentile": percentiles,
    "slices": percentiles,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    for task, sizes, slices, distance in SCENARIOS:
        large = tuple(LARGE * size for size in sizes)
        statistic, subject, _ = sample(task, large, slices, distance, np.random.default_rng(1))
        true = {n: v[0] for n, v in statistic(np.ones((1, len(subject)))).items()}
        covered = {name: dict.fromkeys(METHODS, 0) for name in true}
        rng = np.random.default_rng(2)
        for simulation in range(options.simulations):
            statistic, subject, strata = sample(task, sizes, slices, distance, rng)
            for method, interval in METHODS.items():
                by_slice = method == "slices"
                row = np.arange(len(subject)) if by_slice else subject
                classes = strata[subject] if by_slice else strata
                bounds = interval(statistic, row, classes, options.resamples, simulation)
                for name, (low, high) in bounds.items():
                    covered[name][method] += low <= true[name] <= high
        print(f"\n{task}: {' + '.join(map(str, sizes))} subjects of {slices} slices")
        print(f"{'':20}{'truth':>8}" + "".join(f"{method:>12}" for method in METHODS))
        for name, counts in covered.items():
            shares = "".join(f"{n / options.simulations:12.3f}" for n in counts.values())
            print(f"{name:20}{true[name]:8.3f}{shares}", flush=True)


if __name__ == "__main__":
    main()
