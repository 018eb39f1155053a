"""The one exception that means 'the user can mend this'."""


class InputError(Exception):
    """Bad input. Its text is one line: what is wrong, where, and how to mend it.

    Commands print that line without a traceback and exit with status 2.
    """
