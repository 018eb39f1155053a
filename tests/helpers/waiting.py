"""Waits for a condition instead of a number of seconds."""

import subprocess
import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 60.0
) -> None:
    """Returns once the condition holds; fails where the process ends or the time is up first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended with status {process.returncode}"
        assert time.monotonic() < deadline, f"no such state after {seconds:.0f} s"
        time.sleep(0.01)
