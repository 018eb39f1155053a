"""A figure that is no number: the run stops, and leaves the batch that did it.

SIGINT and SIGTERM: noted, for the loop to save and leave at the next step.
"""

import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_builder.errors import InputError
from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.shards import SliceSource
from dtvit_jax.training import distributed
from dtvit_jax.training.checkpoint import has_checkpoint


class NotFiniteError(Exception):
    """The figure `name` was `value` (nan or infinite) after `step` steps."""

    def __init__(self, name: str, value: float, step: int) -> None:
        super().__init__(f"the {name} is {value} at step {step}")
        self.step = step


def check_finite(side: str, figures: Mapping[str, float], step: int) -> None:
    """Raises NotFiniteError for the first figure that is no number."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NotFiniteError(f"{side} {name}", float(value), step)


@contextmanager
def keeping_the_batch(
    workdir: Path, examples: TrainingExamples, source: SliceSource, config: Any
) -> Iterator[None]:
    """Turns a NotFiniteError into an InputError, and writes the batch that did it.

    The batch is a function of step and seed alone, so that it is read again here instead of being
    kept at each step.
    """
    try:
        yield
    except NotFiniteError as error:
        stays = f"the last good checkpoint stays in {workdir}"
        said = f"{error}: {stays if has_checkpoint(workdir) else 'nothing was saved yet'}"
        if error.step and distributed.is_primary():
            path = write_batch(workdir, examples, source, error.step, config)
            said += f", the batch that did it is {path}"
        mend = "take a smaller --config.learning_rate into a new --workdir"
        raise InputError(f"{said}; {mend}") from error


def write_batch(
    workdir: Path,
    examples: TrainingExamples,
    source: SliceSource,
    step: int,
    config: Any,
) -> Path:
    """The batch that made step `step` (from 1), as a NumPy file that needs no pickle.

    It holds each field of the examples (slices as stored, labels, augmentation, index), the
    slices' keys (pseudonyms), the step and the seed.
    """
    end = step * config.batch_size
    rows = [examples[i] for i in range(end - config.batch_size, end)]
    fields: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    keys = [source.describe(int(row["index"]))["key"] for row in rows]
    path = workdir / f"not_finite_step_{step}.npz"
    np.savez_compressed(path, **fields, key=keys, step=step, seed=config.seed)
    return path


STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit statuses, as a shell gives them."""


def stop_status(seen: list[signal.Signals]) -> int:
    """The status to leave with; as SIGTERM's, where another process of the run got the signal."""
    return STOPPED[seen[0] if seen else signal.SIGTERM]


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects the signals that come."""
    seen: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        del frame
        seen.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in STOPPED}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
