"""Answers for head-CT studies: is there a hemorrhage, where, and how sure is the model?

PATH is a study's folder, a folder of many studies, or single images: DICOM in any layout, or 8-bit
PNG/JPG of slices that are cleaned already. results.csv, slices.csv, results.json, files.csv (every
file: used, or refused with its reason) and studies/KEY/report.html go to --out. Names are
pseudonyms. Studies that are done are not done again. For research only.
"""

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from data_builder.errors import InputError, run_command
from data_builder.parallel import processes
from dtvit_jax import runtime
from dtvit_jax.pacs.listener import add_flags

EXAMPLE = "python -m dtvit_jax.predict scans/study1 --workdir runs/phantom --out answers"

# Worker processes import this module too: what is heavy is imported where it is needed.


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m dtvit_jax.predict", description=__doc__, epilog=f"example: {EXAMPLE}"
    )
    top.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="folders and files")
    top.add_argument(
        "--watch", type=Path, metavar="DIR", help="instead of PATH: answer what comes into DIR"
    )
    top.add_argument("--workdir", type=Path, required=True, help="a run, trained and evaluated")
    top.add_argument("--out", type=Path, required=True, help="folder to write")
    top.add_argument(
        "--point",
        default="sensitivity_0.95",
        help="the operating point that decides (default sensitivity_0.95); an unknown one is "
        "answered with those that the model has",
    )
    top.add_argument(
        "--dicom_out",
        choices=("yes", "no"),
        default="yes",
        help="objects for a PACS in OUT/dicom, which alone carries identity (default yes)",
    )
    top.add_argument(
        "--explain",
        choices=("auto", "gradient", "rollout", "grad_cam", "none"),
        default="auto",
        help="heat maps on the most suspicious slices (default auto: the model's usual method)",
    )
    top.add_argument("--jobs", type=int, help="processes that read and clean (default: one a core)")
    top.add_argument("--batch", type=int, help="slices at a time (default 2, or 32 off the CPU)")
    top.add_argument(
        "--key",
        help="file with the site's key for pseudonyms, made on first use (default: in your config "
        "folder); 'public' for phantoms and tests",
    )
    add_flags(top)
    return top


def run(args: argparse.Namespace) -> int:
    """Answers all of it; 1 where a file was refused or a study has no answer."""
    listens = args.listen is not None
    if [bool(args.paths), bool(args.watch), listens].count(True) != 1:
        raise InputError(
            "give PATH (a study's folder, a folder of studies, or images), or --watch DIR, or "
            "--listen PORT"
        )
    if min(n for n in (args.jobs, args.batch, 1) if n is not None) < 1 or args.quiet < 0:
        raise InputError("--jobs and --batch are 1 or more, --quiet is 0 or more")
    _check_places([args.watch] if args.watch else args.paths, args.out)
    args.jobs = args.jobs or len(os.sched_getaffinity(0))
    if listens:
        return _listen(args)
    return _watch(args) if args.watch else _answer(args)


def _answer(args: argparse.Namespace) -> int:
    processes.preload("dtvit_jax.prediction.intake")
    from data_builder.parallel.processes import InOrder
    from data_builder.pseudonyms import load_key
    from dtvit_jax.prediction.intake import SECONDS_TO_LOOK, files_in, look

    key = load_key(args.key)
    looks = files_in(args.paths, key)
    if not looks:
        raise InputError("PATH is empty: give files, or folders with files")
    looking = InOrder(looks, look, args.jobs, lambda _: SECONDS_TO_LOOK)
    # JAX loads while the workers look.
    with closing(looking), _session(args, key) as session:
        summary = session.answer(looking)
    print(f"{args.out}: {summary}")
    return 1 if summary.refused_files or summary.without_answer else 0


def _watch(args: argparse.Namespace) -> int:
    from data_builder.pseudonyms import load_key
    from dtvit_jax.prediction.watch import Watch, watch

    key = load_key(args.key)
    watched = Watch(args.watch, key, args.jobs, args.quiet)
    with _session(args, key) as session:
        print("watching; Ctrl-C ends it", file=sys.stderr, flush=True)
        watch(session, watched, lambda finished: None)
    return 0


def _listen(args: argparse.Namespace) -> int:
    from data_builder.pseudonyms import load_key
    from dtvit_jax.pacs.listener import listen

    key = load_key(args.key)
    with _session(args, key) as session:
        return listen(args, key, session.answer_folder)


def _session(args: argparse.Namespace, key: bytes) -> Any:
    with runtime.paused():
        from dtvit_jax.prediction.session import Session, Settings

        return Session(
            Settings(
                workdir=args.workdir,
                out=args.out,
                point=args.point,
                batch=args.batch,
                jobs=args.jobs,
                key=key,
                key_name=args.key,
                dicom=args.dicom_out == "yes",
                explain=args.explain,
            )
        )


def _check_places(paths: list[Path], out: Path) -> None:
    for place, path in enumerate(paths, start=1):
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise InputError(f"--out lies inside PATH {place}: give a folder apart from it")
    if out.exists() and not out.is_dir():
        raise InputError("--out is a file: give a folder")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""

    def command() -> int:
        args, more = parser().parse_known_args(argv)
        if more:  # argparse would repeat them, and a path may hold a name
            raise InputError("the command line has an option that is not known: see --help")
        return run(args)

    return run_command(command)


if __name__ == "__main__":
    status = main()
    runtime.spare_the_end()
    sys.exit(status)
