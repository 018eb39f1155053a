"""Maps a function over many items in threads, in order, with bounded memory."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from data_builder.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST_AHEAD = 64


def in_order(
    function: Callable[[Item], Result], items: Sequence[Item], description: str
) -> Iterator[Result]:
    """Yields `function(item)` in the order of the items and shows the progress.

    At most 64 items are computed ahead of the reader. Threads suffice for Pillow and OpenCV, which
    release Python's lock.
    """
    return track(_ahead(function, items), len(items), description)


def _ahead(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    remaining = iter(items)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        futures = collections.deque(
            pool.submit(function, item) for item in itertools.islice(remaining, _MOST_AHEAD)
        )
        try:
            while futures:
                result = futures.popleft().result()
                for item in itertools.islice(remaining, 1):
                    futures.append(pool.submit(function, item))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
