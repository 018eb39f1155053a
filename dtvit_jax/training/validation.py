"""The figures of a validation: what they are called, which is better, when no better one comes."""

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
"""Those that `steps.figures` makes of sums over batches; training has them too."""

_SAME_AS_OF_SUMS = ("accuracy", "log_loss")
_LOWER_IS_BETTER = ("loss", "brier", "ece")


def slice_metrics(
    hemorrhage: Int[np.ndarray, " n"],
    location: Int[np.ndarray, " n"],
    p_hemorrhage: Float[np.ndarray, " n"],
    p_location: Float[np.ndarray, "n 3"],
) -> dict[str, float]:
    """The metrics of `metrics.py` over slices, as `auroc_hemorrhage` or `macro_recall_location`.

    Those without a denominator here, such as the recall of a class with no slice, are left out.
    """
    ich = hemorrhage == 1
    first = hemorrhage_metrics(hemorrhage, p_hemorrhage, np.ones((1, len(hemorrhage))))
    second = location_metrics(location[ich], p_location[ich], np.ones((1, int(ich.sum()))))
    return {
        f"{name}_{task}": float(value[0])
        for task, found in (("hemorrhage", first), ("location", second))
        for name, value in found.items()
        if name not in _SAME_AS_OF_SUMS and math.isfinite(value[0])
    }


def check_best(strata: Int[np.ndarray, " n"], best: str) -> None:
    """Raises InputError where slices of these strata (indices into CLASSES) leave `best` undefined.

    It is read off the labels, before any training: no answer of a model makes it undefined.
    """
    if best not in (*OF_SUMS, *_defined((strata > 0).astype(int), strata - 1)):
        raise InputError(
            f"config.best={best!r} can't be computed on this validation side (a class has no "
            "slice there): name another"
        )


@functools.cache
def names() -> tuple[str, ...]:
    """All that config.best may name: the figures that no answer of a model makes undefined."""
    return (*OF_SUMS, *_defined(np.array([0, 1, 1, 1]), np.array([-1, 0, 1, 2])))


def _defined(hemorrhage: Int[np.ndarray, " n"], location: Int[np.ndarray, " n"]) -> tuple[str, ...]:
    """The metrics of these labels that exist whatever is answered (a precision needs a call)."""
    n = len(hemorrhage)
    none, every = (
        slice_metrics(hemorrhage, location, np.full(n, p), np.tile(np.eye(3)[i], (n, 1)))
        for p, i in ((0.0, 0), (1.0, 2))
    )
    return tuple(name for name in none if name in every)


def evaluation_steps(steps: int, every: float) -> set[int]:
    """Each multiple of `every` (rounded, 1 or more), and the last step."""
    return {steps} | {max(round(i * every), 1) for i in range(1, int(steps / every) + 1)}


def lower_is_better(name: str) -> bool:
    """Whether the least value of a figure is the best."""
    return name.startswith(_LOWER_IS_BETTER)


def evaluations_since_best(history: Sequence[Mapping[str, Any]], name: str) -> int:
    """How many validations in `history` came after the best one; the first of equals counts."""
    values = [row[name] for row in history if row["split"] == "validation"]
    if not values:
        return 0
    best = min(values) if lower_is_better(name) else max(values)
    return len(values) - 1 - values.index(best)


def row(step: int, epoch: float, split: str, values: dict[str, float]) -> dict[str, Any]:
    """A row of the history."""
    return {"step": step, "epoch": epoch, "split": split, **values}


def evaluated(history: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Whether `step` was validated before the run was stopped."""
    return bool(history) and history[-1]["step"] == step


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the history in a line for people."""
    parts = [
        f"{r['split']} loss {r['loss']:.4f}, accuracy {r['accuracy_hemorrhage']:.3f} and "
        f"{r['accuracy_location']:.3f}"
        for r in rows
    ]
    return "; ".join(parts)
