"""Writes a run's model for programs without this package: StableHLO or ONNX, in a folder.

DIR holds model.stablehlo or model.onnx, the model card, decision_rule.json (the operating points)
and index.json: inputs, outputs, classes, cleaning, versions, and the SHA-256 of each file. The
model takes cleaned 8-bit slices at the size of the shards and gives calibrated probabilities. A
second format goes into the same DIR; a model that is there already is not written again.
"""

import argparse
import signal
import sys
from pathlib import Path

from data_builder.errors import run_command
from dtvit_jax.runs.export_folder import export
from dtvit_jax.runs.portable import FORMATS
from dtvit_jax.training.failures import EXIT_STATUS

EXAMPLE = "python -m dtvit_jax.export --workdir runs/phantom --out exported --format stablehlo"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m dtvit_jax.export", description=__doc__, epilog=f"example: {EXAMPLE}"
    )
    top.add_argument("--workdir", type=Path, required=True, help="an evaluated run")
    top.add_argument("--out", type=Path, required=True, help="folder to write")
    top.add_argument("--format", choices=tuple(FORMATS), default="stablehlo")
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = parser().parse_args(argv)
    # By default SIGTERM ends the process at once, and the draft of the folder would stay.
    before = signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(EXIT_STATUS[signal.SIGTERM])
    )

    def command() -> int:
        written = export(args.workdir, args.out, args.format)
        print(f"{args.out}: model.{args.format}" + ("" if written else ", there already"))
        return 0

    try:
        return run_command(command, "stopped; nothing was written")
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
