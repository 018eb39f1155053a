"""SIGINT and SIGTERM: noted, for the loop to save and leave at the next step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit statuses, as a shell gives them."""


def stop_status(seen: list[signal.Signals]) -> int:
    """The status to leave with; as SIGTERM's, where another process of the run got the signal."""
    return STOPPED[seen[0] if seen else signal.SIGTERM]


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collects the signals that come."""
    seen: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        del frame
        seen.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in STOPPED}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
