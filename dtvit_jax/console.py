"""Progress of training: a bar on a terminal, plain lines elsewhere."""

import datetime
import sys
import time
from types import TracebackType

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
