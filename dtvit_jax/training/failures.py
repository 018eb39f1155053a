"""Ends a run early and in order: on a loss that is not finite, and on SIGINT or SIGTERM."""

import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ml_collections
import numpy as np

from data_builder.errors import InputError
from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.loader import stacked
from dtvit_jax.data.shards import SliceSource
from dtvit_jax.training import distributed
from dtvit_jax.training.checkpoint import has_checkpoint


class NotFiniteError(Exception):
    """The figure `name` was `value` (nan or infinite) after `step` steps."""

    def __init__(self, name: str, value: float, step: int) -> None:
        super().__init__(f"the {name} is {value} at step {step}")
        self.step = step


def check_finite(side: str, figures: Mapping[str, float], step: int) -> None:
    """Raises NotFiniteError for the first figure that is nan or infinite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NotFiniteError(f"{side} {name}", float(value), step)


@contextmanager
def keeping_the_batch(
    workdir: Path,
    examples: TrainingExamples,
    source: SliceSource,
    config: ml_collections.ConfigDict,
) -> Iterator[None]:
    """Turns a NotFiniteError into an InputError, and writes the batch of that step.

    The batch is a function of step and seed alone, so it is read again here instead of being kept
    at each step.
    """
    try:
        yield
    except NotFiniteError as error:
        kept = f"the last good checkpoint stays in {workdir}"
        message = f"{error}: {kept if has_checkpoint(workdir) else 'nothing was saved yet'}"
        if error.step and distributed.is_primary():
            path = write_batch(workdir, examples, source, error.step, config)
            message += f", the batch of that step is {path}"
        mend = "take a smaller --config.learning_rate into a new --workdir"
        raise InputError(f"{message}; {mend}") from error


def write_batch(
    workdir: Path,
    examples: TrainingExamples,
    source: SliceSource,
    step: int,
    config: ml_collections.ConfigDict,
) -> Path:
    """Writes the batch of step `step` (from 1) as a NumPy file that needs no pickle.

    It holds each field of the examples (slices as stored, labels, augmentation, index), the
    slices' keys (pseudonyms), the step and the seed.
    """
    end = step * config.batch_size
    batch: dict[str, Any] = stacked([examples[i] for i in range(end - config.batch_size, end)])
    keys = [source.describe(int(index))["key"] for index in batch["index"]]
    path = workdir / f"not_finite_step_{step}.npz"
    np.savez_compressed(path, **batch, key=keys, step=step, seed=config.seed)
    return path


EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit statuses of a process that a signal stopped, as a shell reports them."""


class StopSignals:
    """The signals to stop that this process has received; true once there is one."""

    def __init__(self) -> None:
        self._received: list[signal.Signals] = []

    def __bool__(self) -> bool:
        return bool(self._received)

    def note(self, number: int, frame: FrameType | None) -> None:
        """A handler for `signal.signal`."""
        del frame
        self._received.append(signal.Signals(number))

    @property
    def exit_status(self) -> int:
        """Of the first signal; SIGTERM's where another process of the run received it."""
        return EXIT_STATUS[self._received[0] if self._received else signal.SIGTERM]


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Collects SIGINT and SIGTERM, so that the loop can save and leave at the next step."""
    stopped = StopSignals()
    before = {number: signal.signal(number, stopped.note) for number in EXIT_STATUS}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
