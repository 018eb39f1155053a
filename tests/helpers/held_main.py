"""`python -m dtvit_jax.main`, which waits before a step until a file exists.

    DTVIT_HOLD_AT=19 DTVIT_HOLD_UNTIL=FILE python -m tests.helpers.held_main --config ...

So a test can kill a process between two steps without racing against the training.
"""

import os
import runpy
import time
from pathlib import Path

from dtvit_jax.training.run import TrainingRun

HOLD_AT, HOLD_UNTIL = "DTVIT_HOLD_AT", "DTVIT_HOLD_UNTIL"
PATIENCE = 300.0

trace = TrainingRun.trace


def held(self, step):
    deadline = time.monotonic() + PATIENCE
    if step == int(os.environ[HOLD_AT]):
        while not Path(os.environ[HOLD_UNTIL]).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    return trace(self, step)


if __name__ == "__main__":
    TrainingRun.trace = held
    runpy.run_module("dtvit_jax.main", run_name="__main__")
