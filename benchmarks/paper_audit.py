"""Recomputes the published figures of arXiv 2405.06814 from its printed integers.

    python -m benchmarks.paper_audit

Prints the tables of docs/paper_audit.md. The integers are outputs that the authors' notebook
comparative_experiments.ipynb printed, and numbers in the paper's tables and text; nothing is
reconstructed from an accuracy.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from scipy import stats as distributions

from dtvit_jax.evaluation.intervals import exact_interval

NORMAL, ICH = 459, 807
"""Test slices of each class (section 4.3 of the paper, and the notebook)."""

TRUE_LOCATIONS = (599, 162, 46)
"""Deep, Lobar and Subtentorial among the 807, as the notebook counted; the paper prints others."""


@dataclasses.dataclass(frozen=True)
class Published:
    """One model's printed numbers.

    Attributes:
      pooled: percentage of correct decisions of both tasks.
      task1: TP, TN, FP, FN with NORMAL as the positive class.
      task2: C[i][j], slices of location i predicted as j. A Deep slice predicted as Lobar was added
        to C[1][1] instead of C[0][1].
      counted: the slices of each location that were not predicted as 'none'.
      printed: the accuracies of tasks 1 and 2.
      table4: the paper's accuracy column.
    """

    name: str
    loss: float
    pooled: float
    task1: tuple[int, int, int, int]
    task2: tuple[tuple[int, int, int], ...]
    counted: tuple[int, int, int]
    printed: tuple[float, float]
    table4: float | None = None


NOTEBOOK = (
    Published(
        "DTViT",
        0.0102,
        99.8815,
        (459, 807, 0, 0),
        ((597, 0, 2), (1, 161, 0), (0, 0, 46)),
        (599, 162, 46),
        (1.0, 0.9962825278810409),
        0.9988,
    ),
    Published(
        "DTViT, no balancing",
        0.0341,
        99.4076,
        (459, 803, 4, 0),
        ((592, 0, 2), (3, 160, 1), (0, 0, 46)),
        (596, 162, 46),
        (0.9968404423380727, 0.9925373134328358),
    ),
    Published(
        "VGG16",
        0.0079,
        99.842,
        (459, 807, 0, 0),
        ((595, 0, 1), (0, 165, 0), (0, 0, 46)),
        (599, 162, 46),
        (1.0, 0.9987608426270136),
    ),
    Published(
        "DenseNet121",
        0.0119,
        99.763,
        (458, 807, 0, 1),
        ((595, 0, 3), (0, 163, 0), (0, 0, 46)),
        (599, 162, 46),
        (0.9992101105845181, 0.9962825278810409),
        0.9976,
    ),
    Published(
        "AlexNet",
        0.0142,
        99.763,
        (459, 806, 1, 0),
        ((594, 0, 2), (0, 163, 0), (0, 0, 46)),
        (597, 162, 46),
        (0.9992101105845181, 0.9975155279503105),
        0.9976,
    ),
    Published(
        "ResNet18",
        0.0170,
        99.6841,
        (459, 806, 1, 0),
        ((592, 0, 2), (0, 166, 0), (0, 0, 46)),
        (598, 162, 46),
        (0.9992101105845181, 0.9975186104218362),
        0.9984,
    ),
    Published(
        "SqueezeNet 1.0",
        0.1244,
        97.7488,
        (457, 806, 1, 2),
        ((556, 0, 10), (10, 182, 0), (0, 0, 46)),
        (596, 162, 46),
        (0.9976303317535545, 0.9751243781094527),
        0.9775,
    ),
)


def location_matrix(model: Published) -> Int[np.ndarray, "3 4"]:
    """Returns the corrected confusion matrix: true location in rows, the prediction in columns.

    Columns: Deep, Lobar, Subtentorial, 'none'. Raises ValueError if the printed integers contradict
    each other.
    """
    cells = np.array(model.task2)
    moved = model.counted[0] - cells[0, 0] - cells[0, 2]
    cells[0, 1], cells[1, 1] = moved, cells[1, 1] - moved
    matrix = np.column_stack([cells, np.array(TRUE_LOCATIONS) - model.counted])
    if (matrix < 0).any() or tuple(matrix.sum(axis=1)) != TRUE_LOCATIONS:
        raise ValueError(f"{model.name}: the printed integers do not add up")
    return matrix


def location_errors(model: Published) -> int:
    """Returns how many of the 807 ICH slices are predicted in a wrong location or as 'none'."""
    return ICH - int(np.trace(location_matrix(model)[:, :3]))


def hemorrhage_errors(model: Published) -> int:
    """Returns how many of all 1,266 slices are misclassified as ICH or normal."""
    return model.task1[2] + model.task1[3]


def ich_rates(model: Published) -> tuple[float, float]:
    """Returns sensitivity and specificity for ICH, which are printed as specificity and recall."""
    tp, tn, fp, fn = model.task1
    return tn / (tn + fp), tp / (tp + fn)


def pooled_errors(model: Published) -> int:
    """Returns the wrong decisions among the 2 x 1,266 of both tasks that the notebook pooled."""
    return round(2 * (NORMAL + ICH) * (1 - model.pooled / 100))


def table4_is(model: Published) -> str:
    """Returns what the paper's accuracy is: 'pooled', or the 'mean' of both printed accuracies."""
    values = {"pooled": model.pooled / 100, "mean": sum(model.printed) / 2}
    return " and ".join(w for w, v in values.items() if round(v, 4) == model.table4)


def mcnemar_range(errors_a: int, errors_b: int, n: int) -> tuple[float, float]:
    """Returns the smallest and the largest p of McNemar's exact test for two error counts.

    The slices that both models got wrong are not published, so every possible overlap is tried.
    """
    p = []
    for both in range(max(0, errors_a + errors_b - n), min(errors_a, errors_b) + 1):
        a, b = errors_a - both, errors_b - both
        p.append(float(distributions.binomtest(a, a + b).pvalue) if a + b else 1.0)
    return min(p), max(p)


def errors_table() -> Iterator[str]:
    """Yields Markdown: the printed and the corrected accuracy of each model."""
    yield from _head(
        "model",
        "ICH errors of 1,266",
        "location accuracy, printed",
        "corrected, of 807",
        "errors",
        "exact 95% if slices were independent",
        "loss",
    )
    for model in NOTEBOOK:
        wrong = location_errors(model)
        low, high = exact_interval(ICH - wrong, ICH)
        yield (
            f"| {model.name} | {hemorrhage_errors(model)} | {model.printed[1]:.4f} | "
            f"{(ICH - wrong) / ICH:.4f} | {wrong} | {low:.4f} to {high:.4f} | {model.loss:.4f} |"
        )


def table4_table() -> Iterator[str]:
    """Yields Markdown: the definition behind the accuracy column of Table 4."""
    yield from _head(
        "model",
        "printed in Table 4",
        "both tasks pooled",
        "mean of both tasks, as printed",
        "the column has",
    )
    for model in NOTEBOOK:
        if model.table4 is not None:
            yield (
                f"| {model.name} | {model.table4:.4f} | {model.pooled / 100:.4f} | "
                f"{sum(model.printed) / 2:.4f} | {table4_is(model)} |"
            )


def tests_table() -> Iterator[str]:
    """Yields Markdown: DTViT against each other model, over every possible overlap of errors."""
    yield from _head(
        "DTViT against",
        "location errors of 807",
        "p, least to greatest",
        "errors of all 2,532 decisions",
        "p, least to greatest",
    )
    first = NOTEBOOK[0]
    for other in NOTEBOOK[1:]:
        row = [other.name]
        for errors, n in ((location_errors, ICH), (pooled_errors, 2 * (NORMAL + ICH))):
            a, b = errors(first), errors(other)
            low, high = mcnemar_range(a, b, n)
            row += [f"{a} and {b}", f"{_p(low)} to {_p(high)}"]
        yield f"| {' | '.join(row)} |"


def _head(*columns: str) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def main() -> None:
    """Prints the tables."""
    for table in (errors_table, table4_table, tests_table):
        print("\n".join(table()), end="\n\n")


if __name__ == "__main__":
    main()
