"""Figures of a validation: their names, which of two is better, and when none better comes."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_builder.errors import InputError
from dtvit_jax.evaluation.metrics import hemorrhage_metrics, location_metrics

OF_SUMS = (
    "loss",
    "loss_hemorrhage",
    "loss_location",
    "accuracy_hemorrhage",
    "accuracy_location",
)
"""Figures that `steps.mean_figures` computes from sums over batches; training has them too."""

_SAME_AS_OF_SUMS = ("accuracy", "log_loss")
_LOWER_IS_BETTER = ("loss", "brier", "ece")


def slice_metrics(
    hemorrhage: Int[np.ndarray, " n"],
    location: Int[np.ndarray, " n"],
    p_hemorrhage: Float[np.ndarray, " n"],
    p_location: Float[np.ndarray, "n 3"],
) -> dict[str, float]:
    """The metrics of `evaluation.metrics` over slices, named `METRIC_TASK` (`auroc_hemorrhage`).

    hemorrhage: 0 or 1; location: index into LOCATIONS, -1 for none; p_location: given a hemorrhage.
    Metrics without a denominator, such as the recall of a class with no slice, are left out.
    """
    ich = hemorrhage == 1
    first = hemorrhage_metrics(hemorrhage, p_hemorrhage, np.ones((1, len(hemorrhage))))
    second = location_metrics(location[ich], p_location[ich], np.ones((1, int(ich.sum()))))
    return {
        f"{name}_{task}": float(value[0])
        for task, metrics in (("hemorrhage", first), ("location", second))
        for name, value in metrics.items()
        if name not in _SAME_AS_OF_SUMS and math.isfinite(value[0])
    }


def check_best(strata: Int[np.ndarray, " n"], best: str) -> None:
    """Raises InputError where the labels of the validation side leave `best` undefined.

    strata: each slice's index into CLASSES. The check needs no model: `names` holds figures alone
    that no prediction leaves undefined.
    """
    if best not in (*OF_SUMS, *_defined((strata > 0).astype(int), strata - 1)):
        raise InputError(
            f"config.best={best!r} can't be computed on this validation side (a class has no "
            "slice there): name another"
        )


@functools.cache
def names() -> tuple[str, ...]:
    """The values of config.best: the figures that no prediction leaves undefined."""
    return (*OF_SUMS, *_defined(np.array([0, 1, 1, 1]), np.array([-1, 0, 1, 2])))


def _defined(hemorrhage: Int[np.ndarray, " n"], location: Int[np.ndarray, " n"]) -> tuple[str, ...]:
    """The metrics that these labels define whatever is predicted (a precision is not one)."""
    n = len(hemorrhage)
    all_normal, all_ich = (
        slice_metrics(hemorrhage, location, np.full(n, p), np.tile(np.eye(3)[i], (n, 1)))
        for p, i in ((0.0, 0), (1.0, 2))
    )
    return tuple(name for name in all_normal if name in all_ich)


def validation_steps(steps: int, every: float) -> set[int]:
    """Steps to validate after: each multiple of `every` (rounded, 1 or more), and the last."""
    return {steps} | {max(round(i * every), 1) for i in range(1, int(steps / every) + 1)}


def lower_is_better(name: str) -> bool:
    """Whether the lowest value of the figure `name` is the best."""
    return name.startswith(_LOWER_IS_BETTER)


def validations_since_best(history: Sequence[Mapping[str, Any]], name: str) -> int:
    """The number of validations in `history` after the best one; the first of equals counts."""
    values = [row[name] for row in history if row["split"] == "validation"]
    if not values:
        return 0
    best = min(values) if lower_is_better(name) else max(values)
    return len(values) - 1 - values.index(best)


def history_row(step: int, epoch: float, split: str, values: dict[str, float]) -> dict[str, Any]:
    """A row of the history: the figures of one side (split) after `step` steps."""
    return {"step": step, "epoch": epoch, "split": split, **values}


def is_validated(history: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Whether the state after `step` steps is validated already (before the run was stopped)."""
    return bool(history) and history[-1]["step"] == step


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the history as one line for the terminal."""
    parts = [
        f"{r['split']} loss {r['loss']:.4f}, accuracy {r['accuracy_hemorrhage']:.3f} and "
        f"{r['accuracy_location']:.3f}"
        for r in rows
    ]
    return "; ".join(parts)
