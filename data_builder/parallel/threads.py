"""One function over many items, read ahead by threads: results in order, memory bounded."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from data_builder.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 64


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], what: str
) -> Iterator[Result]:
    """`function` of each item, in order, at most 64 ahead; `what` names the work in its progress.

    Threads are enough: Pillow and OpenCV let go of Python's lock while they work.
    """
    return track(_ahead(function, items), len(items), what)


def _ahead(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    left = iter(items)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = collections.deque(
            pool.submit(function, item) for item in itertools.islice(left, _AHEAD)
        )
        try:
            while waiting:
                result = waiting.popleft().result()
                for item in itertools.islice(left, 1):
                    waiting.append(pool.submit(function, item))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
