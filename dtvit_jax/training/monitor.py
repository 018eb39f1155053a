"""Shows a training as it runs: on the terminal, in TensorBoard, and as a profile of a few steps."""

import datetime
import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import ml_collections
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.loader import stacked
from dtvit_jax.training import record
from dtvit_jax.training.failures import check_finite
from dtvit_jax.training.record import HistoryRow
from dtvit_jax.training.steps import SUMS, Setup, TrainState
from dtvit_jax.training.tensorboard import MOST_IMAGES, TensorBoard
from dtvit_jax.training.validation import in_words

SECONDS_BETWEEN_READINGS = 2.0
SECONDS_BETWEEN_LINES = 15.0


class ProgressDisplay:
    """A bar on a terminal, plain lines elsewhere: loss, steps a second and time left.

    Reading the loss waits for the device, so it is done every few seconds only.
    """

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

    def __enter__(self) -> "ProgressDisplay":
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
        """Takes note that `step` steps are done, the last with this `loss`."""
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

    def print(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True)


def describe(
    board: TensorBoard,
    config: ml_collections.ConfigDict,
    setup: Setup,
    abstract: TrainState,
    examples: TrainingExamples,
) -> None:
    """Writes the config, the parameters and the first augmented slices to TensorBoard."""
    board.text("config", json.dumps(record.public_config(config), indent=1))
    board.parameters(abstract.params)
    batch = stacked([examples[i] for i in range(min(config.batch_size, MOST_IMAGES))])
    augmented = jax.jit(setup.network.transform)(batch["image"], batch["augmentation"])
    board.images("augmented", augmented)


def show(
    history: list[HistoryRow], epoch: float, board: TensorBoard, display: ProgressDisplay
) -> None:
    """Writes the last validation, and the training since the one before it, to both displays."""
    last = [r for r in history[-2:] if r["step"] == history[-1]["step"]]
    for r in last:
        values = {f"{r['split']}/{k}": v for k, v in r.items() if k not in ("step", "split")}
        board.scalars(r["step"], values)
    display.print(f"epoch {epoch:g}: {in_words(last)}")


SKIPPED = 2
"""Steps before a profile begins: the first compiles, the second may still wait for it."""

TRACED = 3
"""Steps of a profile."""


class StepTrace:
    """A profile of TRACED steps, after SKIPPED; fewer where the run is short.

    XProf and TensorBoard's profile page open it.

    Args:
      folder: where plugins/profile is made.
      first: steps that were done before this process.
      steps: of the whole run.
      on: False for no profile.
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
        """A context that names the step after `number` steps; a profile may begin with it."""
        if self._on and number == self._begin < self._end:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def done(self, number: int, result: Any) -> None:
        """Ends the profile after its last step, once the device has computed `result`."""
        if self._running and number + 1 == self._end:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            self._running = False


class StepLog:
    """What steps log, still on the device, and its sums since the last validation.

    It is fetched every few steps, so that no step waits for the device.

    Args:
      board: receives the loss and the gradient's norm of each step.
      sums: those of an earlier process of the run; empty at the start.
    """

    def __init__(self, board: TensorBoard, sums: dict[str, float]) -> None:
        self._board = board
        self._waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self.sums = sums or dict.fromkeys(SUMS, 0.0)

    def append(self, step: int, logged: dict[str, jax.Array]) -> None:
        """Takes what `step` logged; it may not be computed yet."""
        self._waiting.append((step, logged))

    def fetch(self, leave: int = 0) -> None:
        """Fetches and adds all but the last `leave` steps, which may not be computed yet.

        Steps are added one at a time, so the sums do not depend on when that is. Raises
        NotFiniteError for the first step with a loss or gradient that is nan or infinite.
        """
        n = max(len(self._waiting) - leave, 0)
        ready, self._waiting = self._waiting[:n], self._waiting[n:]
        for step, logged in jax.device_get(ready):
            values = {name: float(logged[name]) for name in ("loss", "gradient_norm")}
            check_finite("training", values, step)
            self._board.scalars(step, {f"step/{name}": value for name, value in values.items()})
            self.sums = {name: total + float(logged[name]) for name, total in self.sums.items()}

    def start_again(self) -> dict[str, Any]:
        """Returns the sums since the last call, and begins at 0 again."""
        sums, self.sums = self.sums, dict.fromkeys(self.sums, 0.0)
        return sums
