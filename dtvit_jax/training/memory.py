"""Estimates the memory of a training step before anything is compiled."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from data_builder.errors import InputError

GIB = 2**30
MARGIN = 1.1  # XLA's own count was 0.96 to 1.16 of ours without it (ViT micro, S and L)
RUNTIME_BYTES = GIB // 2
"""Python, XLA and the data set's buffers: what a small run takes."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes of one device's training step."""

    state: int
    gradients: int
    activations_per_example: int

    def total(self, batch: int, accumulation: int) -> int:
        """Bytes for a device's part of a batch, computed in `accumulation` parts.

        With more than one part the sum of gradients counts too.
        """
        activations = int(MARGIN * self.activations_per_example * (batch // accumulation))
        summed = self.gradients if accumulation > 1 else 0
        return self.state + max(self.gradients, activations) + summed + RUNTIME_BYTES

    def fitting_accumulation(self, batch: int, least: int, limit: float | int) -> int | None:
        """The smallest accumulation from `least` on that needs at most `limit` bytes, if any."""
        for parts in range(least, batch + 1):
            if batch % parts == 0 and self.total(batch, parts) <= limit:
                return parts
        return None


def estimate(loss: Callable[[Any, int], Any], trained: Any, state: int) -> Estimate:
    """Estimates the bytes from the shapes that the backward pass keeps; compiles nothing.

    Args:
      loss: (trained parameters, number of examples) -> scalar, to be differentiated by the first.
      trained: shapes of the parameters with a gradient.
      state: bytes that are in memory between steps.
    """

    def kept(examples: int) -> int:
        backward = jax.eval_shape(lambda p: jax.vjp(lambda q: loss(q, examples), p)[1], trained)
        return tree_bytes(backward)

    return Estimate(state, tree_bytes(trained), kept(2) - kept(1))


def available() -> int:
    """Bytes that a training step may take: the accelerator's, else what this machine has free."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    limits = [psutil.virtual_memory().available]
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits)


def check(need: Estimate, batch: int, accumulation: int, has: int) -> None:
    """Raises InputError where the step does not fit, and names an accumulation that does.

    `batch` is one device's part of the batch.
    """
    total = need.total(batch, accumulation)
    if total <= has:
        return
    mend = "take a smaller model, or --config.model.remat=True"
    if fitting := need.fitting_accumulation(batch, accumulation, has):
        smaller = f"--config.batch_size={batch // fitting}"
        mend = f"--config.accumulation={fitting} keeps the batch and fits, or {smaller}"
    raise InputError(
        f"a step on {batch // accumulation} examples at a time needs about {total / GIB:.0f} GiB "
        f"and there are {has / GIB:.0f}: {mend}"
    )


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays in `tree`, whole or abstract."""
    arrays = [x for x in jax.tree.leaves(tree) if jax.dtypes.issubdtype(x.dtype, np.generic)]
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in arrays)
