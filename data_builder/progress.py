"""Shows the progress of long work: a bar on a terminal, a line every 10 seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yields `items` unchanged and shows on standard error how many of `total` are done."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            yield from bar.track(items, total=total, description=description)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            remaining = (now - start) / done * (total - done)
            text = f"{description}: {done}/{total}, {remaining:.0f} s left"
            print(text, file=sys.stderr, flush=True)
    seconds = time.monotonic() - start
    print(f"{description}: {done}/{total} in {seconds:.1f} s", file=sys.stderr, flush=True)
