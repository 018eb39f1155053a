"""What each step logs: fetched now and then, so that no step waits for the device."""

from typing import Any

import jax

from dtvit_jax.not_finite import check_finite
from dtvit_jax.steps import SUMS
from dtvit_jax.tensorboard import TensorBoard


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
