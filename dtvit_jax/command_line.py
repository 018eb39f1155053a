"""Parses the command lines of main, plan and experiment, which take a config."""

import sys

from absl import flags


def parse(argv: list[str]) -> list[str]:
    """Parses flags with absl and returns the program's name.

    An unknown field, a value of another type or an argument that is no flag ends the process with
    one line on standard error and status 2.
    """
    try:
        arguments = flags.FLAGS(argv)
        flags.FLAGS.config.lock()  # a file that can't be read fails here, at its first use
        if len(arguments) > 1:
            raise flags.Error(f"what is {arguments[1]!r}? Options start with --")
        return arguments
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = " ".join(str(error).split()).strip("\"'")
        if "Failed loading config file" in message and "No such file" in message:
            message = "--config names a file that does not exist"
        print(
            f"error: the command line: {message}: see --help and the config file", file=sys.stderr
        )
        sys.exit(2)
