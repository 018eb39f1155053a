"""Work on many items in processes, where an item that kills or hangs its process costs only itself.

A pool of `concurrent.futures` breaks as a whole when one worker dies, and can't stop a hung one.
A worker whose master was killed ends with its item, and at the latest when that one's time is up.

Work of processes, one result after the other in the order of the items, ahead of who asks.
"""

import contextlib
import multiprocessing
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

import psutil

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY = 4 << 30
"""Bytes that a worker may use: a file that would take more gets a MemoryError, not the machine."""

_BUSY = 4  # times as long as its seconds an item may take where others use the processor
_LATER_SECONDS = 5.0  # a worker kills itself so long after its master should have
_TRIES = 2  # a worker may be killed for what others do (memory): the second death is the item's


class Lost(Exception):
    """An item without a result; `cause` says in a word what its process did."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class _Turn(NamedTuple):
    """An item, and the how manieth try it is."""

    item: Any
    tried: int


class _Worker:
    """One process, the turn it works on, and until when it may.

    `seconds` are the turn's; `spent` is the processor time that the process had used before it.
    """

    def __init__(self, context: Any, work: Callable) -> None:
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, work), daemon=True)
        self.process.start()
        end.close()
        self.turn: _Turn | None = None
        self.seconds = self.spent = self.deadline = self.last = 0.0

    def ready(self) -> "_Worker":
        """Waits until the process serves."""
        try:
            self.pipe.recv()
            self._process = psutil.Process(self.process.pid)
        except (EOFError, OSError, psutil.Error):
            raise RuntimeError(
                "a worker process can't start: a script that starts them needs "
                "`if __name__ == '__main__':` around its work"
            ) from None
        return self

    def begin(self, turn: _Turn, seconds: float) -> None:
        """Gives the process its turn; a dead one is found when its answer is due."""
        self.turn, self.seconds, self.spent = turn, seconds, self._used()
        self.deadline = time.monotonic() + seconds
        self.last = self.deadline + (_BUSY - 1) * seconds
        with contextlib.suppress(OSError):
            self.pipe.send((turn.item, _BUSY * seconds))

    def is_late(self) -> bool:
        """Whether the turn's time is up: where others use the processor, its own use counts."""
        now = time.monotonic()
        if now <= self.deadline:
            return False
        left = self.seconds - (self._used() - self.spent)
        self.deadline = min(now + max(left, 0.1), self.last)
        return left <= 0 or now >= self.last

    def _used(self) -> float:
        with contextlib.suppress(psutil.Error):
            times = self._process.cpu_times()
            return times.user + times.system
        return 0.0

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, work: Callable) -> None:
    """A worker's life: silent (libraries print what stands in files), deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send("ready")
        while True:
            item, seconds = pipe.recv()
            # A decoder that hangs lets no Python run: the system ends the process.
            signal.setitimer(signal.ITIMER_REAL, seconds + _LATER_SECONDS)
            outcome = work(item)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(outcome)


def _limit_memory() -> None:
    """Lets this process have MEMORY more than it holds: libraries reserve some for each core."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = MEMORY + getattr(psutil.Process().memory_info(), "data", 0)
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    with contextlib.suppress(ValueError, OSError):  # not every system lets it be set
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def each(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    jobs: int,
    seconds: Callable[[Item], float],
) -> Generator[tuple[Item, Result | Lost], None, None]:
    """Yields each item with its result, as they come, or with `Lost`.

    `work` is a function of a module, and must not raise. It is given `seconds(item)`, of the clock
    or, on a busy machine, of the processor, and then its process is killed; a process that dies
    by itself gets the item a second time. Closing the iterator stops all workers.
    """
    context = _context(work.__module__)
    todo = deque(_Turn(item, 1) for item in items)
    workers: list[_Worker] = []
    done: list[tuple[Item, Result | Lost]] = []
    try:
        workers.extend(_Worker(context, work) for _ in range(min(jobs, len(todo))))
        for worker in workers:
            worker.ready()
        while True:
            for worker in workers:
                if worker.turn is None and todo:
                    following = todo.popleft()
                    worker.begin(following, seconds(following.item))
            yield from done  # while the workers are at the next ones
            busy = [worker for worker in workers if worker.turn]
            if not busy:
                return
            done = []
            nearest = min(worker.deadline for worker in busy)
            ready = wait([w.pipe for w in busy], max(0.0, nearest - time.monotonic()))
            for worker in busy:
                turn = worker.turn
                if turn is None or (worker.pipe not in ready and not worker.is_late()):
                    continue
                outcome = _receive(worker) if worker.pipe in ready else Lost("hung")
                worker.turn = None
                if isinstance(outcome, Lost):
                    worker.stop()
                    workers[workers.index(worker)] = _Worker(context, work).ready()
                    if outcome.cause == "crashed" and turn.tried < _TRIES:
                        todo.append(_Turn(turn.item, turn.tried + 1))
                        continue
                done.append((turn.item, outcome))
    finally:
        for worker in workers:
            worker.stop()


def start_ahead(module: str) -> None:
    """Lets what workers are forked from load `module`, whose functions `each` will be given, now:
    while this process loads it too.
    """
    if _context(module).get_start_method() == "forkserver":
        from multiprocessing import forkserver  # not every system has it

        forkserver.ensure_running()


def _context(module: str) -> Any:
    """How workers are started; those that are forked have `module` loaded."""
    method = "spawn" if sys.platform in ("win32", "darwin") else "forkserver"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([module])
    return context


def _receive(worker: _Worker) -> Any:
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        return Lost("crashed")


_AHEAD = 64
_SECONDS_TO_STOP = 2.0


class InOrder(Generic[Item, Result]):
    """`isolation.each` in the items' order: an iterator of (item, result or `isolation.Lost`).

    The processes start at once and work on, some results ahead, between two asks. Items must
    differ from each other. `close` stops the processes.
    """

    def __init__(
        self,
        items: Sequence[Item],
        work: Callable[[Item], Result],
        jobs: int,
        seconds: Callable[[Item], float],
    ) -> None:
        self._items = iter(items)
        self._early: dict[Item, Any] = {}
        self._waiting: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        arguments = (items, work, jobs, seconds)
        self._thread = threading.Thread(target=self._pump, args=arguments, daemon=True)
        self._thread.start()

    def _pump(
        self,
        items: Sequence[Item],
        work: Callable[[Item], Result],
        jobs: int,
        seconds: Callable[[Item], float],
    ) -> None:
        try:
            with contextlib.closing(each(items, work, jobs, seconds)) as results:
                for pair in results:
                    if not self._put(pair):
                        return
        except BaseException as error:  # raised where the results are asked for
            self._put(error)

    def _put(self, value: Any) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put(value, timeout=0.2)
                return True
        return False

    def __iter__(self) -> "InOrder[Item, Result]":
        return self

    def __next__(self) -> tuple[Item, Result | Lost]:
        item = next(self._items)
        while item not in self._early:
            value = self._waiting.get()
            if isinstance(value, BaseException):
                raise value
            done, result = value
            self._early[done] = result
        return item, self._early.pop(item)

    def close(self) -> None:
        """Stops the processes; results that were not asked for are lost."""
        self._stop.set()
        self._thread.join(_SECONDS_TO_STOP)
