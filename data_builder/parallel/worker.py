"""Runs one worker process, with a time limit and a memory limit for each of its items."""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import psutil

MEMORY = 4 << 30
"""Bytes that an item may take: an item that needs more gets a MemoryError."""

_BUSY_FACTOR = 4  # an item may take so many times its seconds where others use the processor
_GRACE_SECONDS = 5.0  # a worker ends itself so long after its parent should have stopped it


class Lost(Exception):
    """The result of an item that has none; `cause` is 'crashed' or 'hung'."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Attempt(NamedTuple):
    """An item, and the number of its attempt, from 1."""

    item: Any
    number: int


class Worker:
    """One process, the attempt that it works on, and the time limits of that attempt.

    `seconds` is the item's limit, `spent` the processor time that the process had used before,
    `deadline` the time of the next check, and `last_deadline` the time when the process is
    stopped in any case.
    """

    def __init__(self, context: Any, work: Callable[[Any], Any]) -> None:
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, work), daemon=True)
        self.process.start()
        end.close()
        self.attempt: Attempt | None = None
        self.seconds = self.spent = self.deadline = self.last_deadline = 0.0

    def wait_until_ready(self) -> "Worker":
        """Waits until the process takes items. Raises RuntimeError where it does not start."""
        try:
            self.pipe.recv()
            self._process = psutil.Process(self.process.pid)
        except (EOFError, OSError, psutil.Error):
            raise RuntimeError(
                "a worker process cannot start: a script that starts them needs "
                "`if __name__ == '__main__':` around its work"
            ) from None
        return self

    def begin(self, attempt: Attempt, seconds: float) -> None:
        """Sends the process its item; if the process is dead, `receive` says so."""
        self.attempt, self.seconds, self.spent = attempt, seconds, self._processor_seconds()
        self.deadline = time.monotonic() + seconds
        self.last_deadline = self.deadline + (_BUSY_FACTOR - 1) * seconds
        with contextlib.suppress(OSError):
            self.pipe.send((attempt.item, _BUSY_FACTOR * seconds))

    def receive(self) -> Any:
        """The result of the attempt, or Lost where the process has died."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return Lost("crashed")

    def is_late(self) -> bool:
        """Whether the time is up; past the deadline, only the process's own processor time counts.

        Moves the deadline where the process has processor time left.
        """
        now = time.monotonic()
        if now <= self.deadline:
            return False
        remaining = self.seconds - (self._processor_seconds() - self.spent)
        self.deadline = min(now + max(remaining, 0.1), self.last_deadline)
        return remaining <= 0 or now >= self.last_deadline

    def _processor_seconds(self) -> float:
        with contextlib.suppress(psutil.Error):
            times = self._process.cpu_times()
            return times.user + times.system
        return 0.0

    def stop(self) -> None:
        """Ends the process."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Runs in a worker: answers one item after the other until the pipe closes.

    The worker ignores Ctrl-C, which its parent handles. Its output is discarded, because libraries
    print values of the files that they read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory()
    discard = os.open(os.devnull, os.O_WRONLY)
    os.dup2(discard, 1)
    os.dup2(discard, 2)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send("ready")
        while True:
            item, seconds = pipe.recv()
            # A decoder that hangs runs no Python, so the system's default for the signal ends it.
            signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)
            result = work(item)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(result)


def _limit_memory() -> None:
    """Limits this process to MEMORY above what it holds: libraries reserve some for each core."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = MEMORY + getattr(psutil.Process().memory_info(), "data", 0)
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    with contextlib.suppress(ValueError, OSError):  # some systems refuse to set it
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
