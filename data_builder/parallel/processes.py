"""Runs a function on many items in worker processes; an item that crashes or hangs costs itself.

`concurrent.futures` loses its whole pool when one worker dies, and cannot stop one that hangs. Here
each worker has a time limit and a memory limit, its output is discarded, and the item that its
process dies of gets `Lost` for a result. `as_completed` yields results as they come, `InOrder` in
the order of the items. A worker whose parent was killed ends with its item, at the latest when the
item's time is up.
"""

import contextlib
import multiprocessing
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

from data_builder.parallel.worker import Attempt, Lost, Worker

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_ATTEMPTS = 2  # the system may kill a worker for the memory of others: the item gets a second
_MOST_WAITING = 64  # results of `InOrder` that wait for their reader
_SECONDS_TO_STOP = 2.0


def as_completed(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    jobs: int,
    seconds: Callable[[Item], float],
) -> Generator[tuple[Item, Result | Lost], None, None]:
    """Yields each item with its result, or with Lost, as they come.

    `work` is a function of a module and must not raise. An item that takes longer than
    `seconds(item)` is lost; on a busy machine that is processor time. An item that its process
    dies of is tried twice. Closing the iterator stops the `jobs` workers.
    """
    context = _context(work.__module__)
    todo = deque(Attempt(item, 1) for item in items)
    workers: list[Worker] = []
    completed: list[tuple[Item, Result | Lost]] = []
    try:
        workers.extend(Worker(context, work) for _ in range(min(jobs, len(todo))))
        for worker in workers:
            worker.wait_until_ready()
        while True:
            for worker in workers:
                if worker.attempt is None and todo:
                    attempt = todo.popleft()
                    worker.begin(attempt, seconds(attempt.item))
            yield from completed  # while the workers are busy with the next items
            completed = []
            busy = [(worker, worker.attempt) for worker in workers if worker.attempt]
            if not busy:
                return
            ready = _wait_for([worker for worker, _ in busy])
            for worker, attempt in busy:
                if worker.pipe in ready:
                    result = worker.receive()
                elif worker.is_late():
                    result = Lost("hung")
                else:
                    continue
                worker.attempt = None
                if isinstance(result, Lost):
                    worker.stop()
                    workers[workers.index(worker)] = Worker(context, work).wait_until_ready()
                    if result.cause == "crashed" and attempt.number < _MOST_ATTEMPTS:
                        todo.append(Attempt(attempt.item, attempt.number + 1))
                        continue
                completed.append((attempt.item, result))
    finally:
        for worker in workers:
            worker.stop()


def _wait_for(workers: list[Worker]) -> list[Any]:
    """The pipes that hold a result, once there is one or the nearest deadline has passed."""
    nearest = min(worker.deadline for worker in workers)
    return wait([worker.pipe for worker in workers], max(0.0, nearest - time.monotonic()))


def preload(module: str) -> None:
    """Starts to load `module` into the process that workers are forked from, and returns at once.

    `module` defines the functions that `as_completed` will run. An early call lets the two
    processes load their modules at the same time.
    """
    if _context(module).get_start_method() == "forkserver":
        from multiprocessing import forkserver  # absent on Windows

        forkserver.ensure_running()


def _context(module: str) -> Any:
    """The start method of workers; forked ones have `module` loaded."""
    method = "spawn" if sys.platform in ("win32", "darwin") else "forkserver"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([module])
    return context


class InOrder(Generic[Item, Result]):
    """Iterates over items with their results, or with Lost, in the order of the items.

    Takes the arguments of `as_completed`. The workers start at once and go on while nobody asks,
    until 64 results wait. Items must differ from each other. `close` stops the workers.
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
        self._waiting: queue.Queue[Any] = queue.Queue(_MOST_WAITING)
        self._stop = threading.Event()
        results = as_completed(items, work, jobs, seconds)  # runs in the thread
        self._thread = threading.Thread(target=self._pump, args=(results,), daemon=True)
        self._thread.start()

    def _pump(self, results: Generator[tuple[Item, Result | Lost], None, None]) -> None:
        try:
            with contextlib.closing(results):
                for pair in results:
                    if not self._put(pair):
                        return
        except BaseException as error:  # raised again in __next__, in the reader's thread
            self._put(error)

    def _put(self, value: Any) -> bool:
        """Whether the value was put before `close`."""
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
            completed, result = value
            self._early[completed] = result
        return item, self._early.pop(item)

    def close(self) -> None:
        """Stops the workers; results that were not read are lost."""
        self._stop.set()
        self._thread.join(_SECONDS_TO_STOP)
