"""Work of processes, one result after the other in the order of the items, ahead of who asks."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from data_builder import isolation

Item = TypeVar("Item")
Result = TypeVar("Result")
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
            with contextlib.closing(isolation.each(items, work, jobs, seconds)) as results:
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

    def __next__(self) -> tuple[Item, Result | isolation.Lost]:
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
