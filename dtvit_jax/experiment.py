"""Trains a grid of recipes, splits, folds and seeds, and keeps a table of the finished cells.

    python -m dtvit_jax.experiment --config configs/experiments/table4_small.py \
        --config.source=SRC --out experiments/table4_small

The same command continues a run that was stopped or killed: finished cells are not run again, also
if the grid has new rows in addition to the old ones. --out gets table.md, table.html and
table.json, written after each cell; runs/, with a workdir for each cell; failed.csv if cells
failed; and at the end figures of the curves and confusion matrices.
Exit status 1: some cells failed; the table has the rest.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from data_builder.errors import InputError, run_command
from data_builder.shards.files import data_sets
from dtvit_jax.command_line import parse


def define_flags(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    config_flags.DEFINE_config_file("config", None, "The experiment.", flag_values=values)
    flags.DEFINE_string("out", None, "The experiment's folder.", values)
    flags.mark_flags_as_required(["config", "out"], values)


def _main(argv: list[str]) -> None:
    del argv
    config = flags.FLAGS.config

    def command() -> int:
        if not config.source and not data_sets(Path(config.data_dir)):
            raise InputError(
                f"config.source is empty and {config.data_dir} holds no data set: give "
                "--config.source=SRC"
            )
        from dtvit_jax.experiments.run import run  # imports JAX, which takes seconds

        return run(config, Path(flags.FLAGS.out))

    sys.exit(run_command(command))


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    logging.set_verbosity(logging.ERROR)
    app.run(_main, flags_parser=parse)
