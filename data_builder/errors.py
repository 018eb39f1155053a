"""The exception that means 'the user can mend this', and how commands report it."""

import errno
import os
import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input. Its text is one line: what is wrong, where, and how to mend it."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def run_command(
    command: Callable[[], int], stopped: str = "stopped; the same command continues"
) -> int:
    """Runs a command and returns its exit status.

    An InputError is printed as one line on standard error, without a traceback; the status is 2. So
    is the error of a full disk, or of a file or folder that this user may not use; a path is not
    repeated. Ctrl-C prints `stopped`; the status is 130.
    """
    try:
        return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _FULL + _FORBIDDEN:
            raise
        mend = (
            "make room, and give the same command"
            if error.errno in _FULL
            else "a file or folder of the command can't be used: change its rights or give another"
        )
        print(f"error: {os.strerror(error.errno)}: {mend}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
