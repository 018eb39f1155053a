"""The exception that means 'the user can mend this', and how commands report it."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input. Its text is one line: what is wrong, where, and how to mend it."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def run_command(
    command: Callable[[], int], stopped: str = "stopped; the same command continues"
) -> int:
    """Runs a command and returns its exit status.

    An InputError is printed as one line on standard error, without a traceback; the status is 2.
    Ctrl-C prints `stopped`; the status is 130.
    """
    try:
        return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
