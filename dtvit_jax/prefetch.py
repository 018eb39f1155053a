"""Batches on the device before the step asks for them, and how long a step had to wait."""

import collections
import concurrent.futures
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import jax

AHEAD = 2
"""Batches that lie ready, or are being made, beside the one that the step computes."""


@runtime_checkable
class Resumable(Protocol):
    """An iterator that can go on from a saved place, such as grain's."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


class Prefetched(Iterator):
    """`batches`, each handed to `put` (host arrays to device arrays) by a thread, AHEAD of use.

    `get_state` is that of the batches taken so far, not of those made ahead: a run that sets it
    goes on with the next batch, whatever lay ready. `waited` counts the seconds in which the
    device had nothing to do for want of data.
    """

    def __init__(self, batches: Resumable, put: Callable[[Any], Any], ahead: int = AHEAD) -> None:
        self._batches, self._put, self._ahead = batches, put, ahead
        self._state = batches.get_state()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: collections.deque[concurrent.futures.Future] = collections.deque()
        self.waited = 0.0

    def __next__(self) -> Any:
        return self.take()

    def take(self, busy: Any = None) -> Any:
        """The next batch. Raises what making it raised, and StopIteration at the end.

        `busy`: what the device still computes. Where no batch is ready, that is waited for first,
        since a device at work does not starve; only the wait after it is counted.
        """
        self._fill()
        coming = self._coming.popleft()
        if not coming.done():
            jax.block_until_ready(busy)
            started = time.perf_counter()
            concurrent.futures.wait([coming])
            self.waited += time.perf_counter() - started
        batch, self._state = coming.result()
        self._fill()
        return batch

    def peek(self) -> Any:
        """The next batch, which `take` will give. Raises what making it raised."""
        self._fill()
        return self._coming[0].result()[0]

    def get_state(self) -> Any:
        """The place after the last batch that was taken."""
        return self._state

    def set_state(self, state: Any) -> None:
        """Goes on from a saved place; what lay ready is dropped."""
        while self._coming:
            concurrent.futures.wait([self._coming.popleft()])
        self._batches.set_state(state)
        self._state = state

    def close(self) -> None:
        """Ends the thread; a batch that it is making is waited for."""
        self._thread.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        while len(self._coming) < self._ahead:
            self._coming.append(self._thread.submit(self._make))

    def _make(self) -> tuple[Any, Any]:
        batch = next(self._batches)
        return self._put(batch), self._batches.get_state()
