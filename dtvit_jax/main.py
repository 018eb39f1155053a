"""Trains a model: `python -m dtvit_jax.main --config configs/vit_l.py --workdir DIR`.

Any field of the config can be set on the command line: `--config.batch_size=8`. The workdir is
runs/<config's name> unless given. Example, on phantoms that data_builder made:

    python -m dtvit_jax.main --config configs/phantom.py --config.data.source=cleaned
"""

import shlex
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

import configs
from data_builder.errors import run_command
from dtvit_jax.command_line import is_private, parse


def define_flags(values: flags.FlagValues) -> None:
    """The program's two flags, --config and --workdir."""
    config_flags.DEFINE_config_file("config", None, "The recipe.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run's folder (default runs/<config>).", values)
    flags.mark_flag_as_required("config", values)


def public_command(values: flags.FlagValues) -> str:
    """The command that these parsed flags make; PATH is in the place of what names a user's path.

    A config of this package and published weights are named. Raises InputError for an unknown name
    of published weights.
    """
    from dtvit_jax.weights import hub

    flag = values["config"]
    file = Path(config_flags.get_config_filename(flag)).resolve()
    own = Path(configs.__path__[0]).resolve()
    name = f"configs/{file.relative_to(own)}" if file.is_relative_to(own) else "PATH"
    words = [f"--config={name}"]
    for field, value in config_flags.get_override_values(flag).items():
        published = field == "init_from" and hub.is_published(value)
        hidden = is_private(field, str(value)) and not published
        words.append(f"--config.{field}={'PATH' if hidden else value}")
    if values["workdir"].present:
        words.append("--workdir=PATH")
    return " ".join(["python -m dtvit_jax.main", *map(shlex.quote, words)])


def _main(argv: list[str]) -> None:
    del argv
    from dtvit_jax.runtime import prepare
    from dtvit_jax.train import train
    from dtvit_jax.training import distributed

    prepare()
    path = Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    workdir = Path(flags.FLAGS.workdir or Path("runs") / path.stem)

    def command() -> int:
        distributed.connect()
        with distributed.ending_with_the_others():
            return train(flags.FLAGS.config, workdir, public_command(flags.FLAGS))

    sys.exit(run_command(command))


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    logging.set_verbosity(logging.WARNING)
    app.run(_main, flags_parser=parse)
