"""A trace of a few steps, which XProf and TensorBoard's profile page open."""

from pathlib import Path
from typing import Any

import jax

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
