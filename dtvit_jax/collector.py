"""Python's garbage collector, kept out of a start and of an end."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No garbage is looked for inside: imports and tracing make many objects and little garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def spare_the_end() -> None:
    """For a process whose work is done: its end does not search what goes with it anyway."""
    gc.freeze()
