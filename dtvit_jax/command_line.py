"""Parses the command lines that take a config: main, plan and experiment."""

import sys

from absl import flags


def parse(argv: list[str]) -> list[str]:
    """absl's parser, with one line and status 2 for an unknown field or a value of another type."""
    try:
        left = flags.FLAGS(argv)
        flags.FLAGS.config.lock()  # a file that could not be read fails at its first use
        if len(left) > 1:
            raise flags.Error(f"what is {left[1]!r}? Options start with --")
        return left
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        said = " ".join(str(error).split()).strip("\"'")
        if "Failed loading config file" in said and "No such file" in said:
            said = "--config names a file that does not exist"
        print(f"error: the command line: {said}: see --help and the config file", file=sys.stderr)
        sys.exit(2)
