"""Progress of training: a bar on a terminal, plain lines elsewhere.

What a run shows of itself: at its start, and after each validation.

A trace of a few steps, which XProf and TensorBoard's profile page open.

What each step logs: fetched now and then, so that no step waits for the device.
"""

import datetime
import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import ml_collections
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.training import record
from dtvit_jax.training.failures import check_finite
from dtvit_jax.training.steps import SUMS, Task, TrainState
from dtvit_jax.training.tensorboard import MOST_IMAGES, TensorBoard
from dtvit_jax.training.validation import in_words

SECONDS_BETWEEN_READINGS = 2.0
SECONDS_BETWEEN_LINES = 15.0


class TrainingProgress:
    """Shows loss, rate and time left. Reading the loss waits for the device, so it is rare."""

    def __init__(self, first: int, steps: int, shown: bool = True) -> None:
        self._first, self._steps = first, steps
        self._start: float | None = None
        self._console = Console(stderr=True, quiet=not shown)
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn())
        last = (TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, *last, console=self._console)
        self._task = self._bar.add_task("", total=steps, completed=first)
        self._every = (
            SECONDS_BETWEEN_READINGS if self._console.is_terminal else SECONDS_BETWEEN_LINES
        )

    def __enter__(self) -> "TrainingProgress":
        self._last = time.monotonic()
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def advance(self, step: int, loss: jax.Array) -> None:
        """Tells that `step` steps are done."""
        if self._console.quiet:
            return
        now = time.monotonic()
        if self._start is None:  # the first step of a process compiles
            self._start, self._first = now, step
        if now - self._last < self._every or step == self._first:
            return
        self._last = now
        rate = (step - self._first) / (now - self._start)
        text = f"loss {float(jax.device_get(loss)):.4f}, {rate:.2f} steps/s"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step, description=text)
        else:
            left = (self._steps - step) / rate
            words = f"{datetime.timedelta(seconds=round(left))} left"
            print(f"step {step}/{self._steps}: {text}, {words}", file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)


def describe(
    board: TensorBoard,
    config: ml_collections.ConfigDict,
    task: Task,
    abstract: TrainState,
    examples: TrainingExamples,
) -> None:
    """Shows in TensorBoard the config, the parameters, and the first augmented slices."""
    board.text("config", json.dumps(record.public_config(config), indent=1))
    board.parameters(abstract.params)
    rows = [examples[i] for i in range(min(config.batch_size, MOST_IMAGES))]
    images, drawn = (np.stack([row[name] for row in rows]) for name in ("image", "augmentation"))
    board.images("augmented", jax.jit(task.transform)(images, drawn))


def show(
    history: list[dict[str, Any]], epoch: float, board: TensorBoard, bar: TrainingProgress
) -> None:
    """Writes the last validation, and the training since the one before, where people look."""
    last = [r for r in history[-2:] if r["step"] == history[-1]["step"]]
    for r in last:
        values = {f"{r['split']}/{k}": v for k, v in r.items() if k not in ("step", "split")}
        board.scalars(r["step"], values)
    bar.tell(f"epoch {epoch:g}: {in_words(last)}")


SKIPPED = 2  # the first step compiles, the second may still wait for it
TRACED = 3


class StepTrace:
    """Traces three steps into `folder`, after two, or fewer where the run is as short.

    Args:
      folder: where plugins/profile is made.
      first: the step that this process begins after.
      steps: all steps of the run.
      on: False: nothing is done.
    """

    def __init__(self, folder: Path, first: int, steps: int, on: bool) -> None:
        self._folder, self._on, self._running = folder, on, False
        self._begin = max(min(first + SKIPPED, steps - TRACED), first)
        self._end = min(self._begin + TRACED, steps)

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *error: object) -> None:
        if self._running:
            jax.profiler.stop_trace()

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """A context for the step after `number` steps."""
        if self._on and number == self._begin < self._end:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def done(self, number: int, result: Any) -> None:
        """Ends the trace after its last step, once the device has done it."""
        if self._running and number + 1 == self._end:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self._running = False


class StepLog:
    """Figures that are still on the device, and their sums since the last validation.

    Args:
      board: gets the loss and the gradient's norm of each step.
      sums: where an earlier process of the run stopped adding; empty at the start.
    """

    def __init__(self, board: TensorBoard, sums: dict[str, float]) -> None:
        self._board = board
        self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self.sums = sums or dict.fromkeys(SUMS, 0.0)

    def append(self, step: int, logged: dict[str, jax.Array]) -> None:
        """Takes the figures of `step`; they may not be computed yet."""
        self._waiting.append((step, logged))

    def fetch(self, leave: int = 0) -> None:
        """Fetches and adds all but the last `leave`, which the device may still be at.

        Adding one step at a time, the sums do not depend on when that is. Raises NotFiniteError
        for the first step with a loss or gradient that is no number.
        """
        n = max(len(self._waiting) - leave, 0)
        ready, self._waiting = self._waiting[:n], self._waiting[n:]
        for step, logged in jax.device_get(ready):
            seen = {name: float(logged[name]) for name in ("loss", "gradient_norm")}
            check_finite("training", seen, step)
            self._board.scalars(step, {f"step/{name}": value for name, value in seen.items()})
            self.sums = {name: total + float(logged[name]) for name, total in self.sums.items()}

    def start_again(self) -> dict[str, Any]:
        """The sums since the last call; they begin at 0 again."""
        sums, self.sums = self.sums, dict.fromkeys(self.sums, 0.0)
        return sums
