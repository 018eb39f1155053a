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
from typing import TYPE_CHECKING

from data_builder.errors import InputError, run_command
from data_builder.parallel import processes
from data_builder.pseudonyms import check_key_place
from dtvit_jax import runtime

if TYPE_CHECKING:
    from dtvit_jax.prediction.session import Session

EXAMPLE = "python -m dtvit_jax.predict scans/study1 --workdir runs/phantom --out answers"

# Worker processes import this module too, so heavy modules are imported by the functions.


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m dtvit_jax.predict", description=__doc__, epilog=f"example: {EXAMPLE}"
    )
    top.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="folders and files")
    top.add_argument(
        "--watch",
        type=Path,
        metavar="DIR",
        help="instead of PATH: answer studies that come into DIR",
    )
    top.add_argument("--workdir", type=Path, required=True, help="a run, trained and evaluated")
    top.add_argument("--out", type=Path, required=True, help="folder to write")
    top.add_argument(
        "--point",
        default="sensitivity_0.95",
        help="the operating point that decides (default sensitivity_0.95); for an unknown one the "
        "error lists those that the model has",
    )
    top.add_argument(
        "--dicom_out",
        choices=("yes", "no"),
        default="yes",
        help="objects for a PACS in OUT/dicom, the only results with identity (default yes)",
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
        "folder); outside of all that is shared; 'public' for phantoms alone",
    )
    _add_listener_flags(top)
    return top


def _add_listener_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument(
        "--quiet",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="with --watch and --listen: a study is complete when nothing of it came so long "
        "(default 30)",
    )
    flags = top.add_argument_group("DICOM listener (needs the extra 'listener')")
    flags.add_argument("--listen", type=int, metavar="PORT", help="receive studies with C-STORE")
    flags.add_argument("--aet", default="DTVIT", help="this application's title (default DTVIT)")
    flags.add_argument(
        "--callers", default="", metavar="AET,AET", help="titles that may send; others are refused"
    )
    flags.add_argument("--bind", default="127.0.0.1", help="address (default 127.0.0.1)")
    flags.add_argument("--spool", type=Path, help="folder for received files (default OUT/spool)")
    flags.add_argument("--send_to", metavar="AET@HOST:PORT", help="send results there with C-STORE")
    flags.add_argument(
        "--spool_gib", type=float, default=32.0, help="size limit of the spool (default 32 GiB)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command in the mode that the flags choose; returns the exit status.

    The status is 1 where a file was refused or a study has no answer. Raises InputError.
    """
    listens = args.listen is not None
    if [bool(args.paths), bool(args.watch), listens].count(True) != 1:
        raise InputError(
            "give PATH (a study's folder, a folder of studies, or images), or --watch DIR, or "
            "--listen PORT"
        )
    if min(n for n in (args.jobs, args.batch, 1) if n is not None) < 1 or args.quiet < 0:
        raise InputError("--jobs and --batch are 1 or more, --quiet is 0 or more")
    inputs = [args.watch] if args.watch else args.paths
    _check_places(inputs, args.out)
    shared = {f"PATH {number}": path for number, path in enumerate(inputs, start=1)}
    shared |= {"--out": args.out, "--workdir": args.workdir, "--spool": args.spool}
    check_key_place(args.key, shared)
    args.jobs = args.jobs or len(os.sched_getaffinity(0))
    if listens:
        return _listen(args)
    return _watch(args) if args.watch else _answer(args)


def _answer(args: argparse.Namespace) -> int:
    processes.preload("dtvit_jax.prediction.intake")
    from data_builder.pseudonyms import load_key
    from dtvit_jax.prediction.intake import files_in, identify_all

    key = load_key(args.key)
    tasks = files_in(args.paths, key)
    if not tasks:
        raise InputError("PATH is empty: give files, or folders with files")
    # JAX loads while the workers identify the files.
    with closing(identify_all(tasks, args.jobs)) as files, _session(args, key) as session:
        summary = session.answer(files)
    print(f"{args.out}: {summary}")
    return 1 if summary.refused_files or summary.without_answer else 0


def _watch(args: argparse.Namespace) -> int:
    from data_builder.pseudonyms import load_key
    from dtvit_jax.prediction.watch import Watch, watch

    key = load_key(args.key)
    watched = Watch(args.watch, key, args.jobs, args.quiet)
    with _session(args, key) as session:
        print("watching; Ctrl-C ends it", file=sys.stderr, flush=True)
        watch(session, watched)
    return 0


def _listen(args: argparse.Namespace) -> int:
    try:
        from dtvit_jax.pacs.listener import serve
        from dtvit_jax.pacs.receiver import Listening
        from dtvit_jax.pacs.sender import read_peer
    except ModuleNotFoundError as error:
        if error.name != "pynetdicom":
            raise
        raise InputError(
            "--listen needs pynetdicom: install this package with its extra 'listener'"
        ) from None
    from data_builder.pseudonyms import load_key
    from dtvit_jax.pacs.spool import Limits, Spool

    callers = tuple(title.strip() for title in args.callers.split(",") if title.strip())
    peer = read_peer(args.send_to) if args.send_to else None
    if args.spool_gib <= 0:
        raise InputError("--spool_gib is above 0")
    listening = Listening(args.listen, args.aet, callers, args.bind, args.quiet, peer)
    limits = Limits(spool_bytes=int(args.spool_gib * 2**30))
    key = load_key(args.key)
    folder = args.spool or args.out / "spool"
    with _session(args, key) as session, Spool(folder, key, limits) as spool:
        return serve(listening, spool, session.answer_folder)


def _session(args: argparse.Namespace, key: bytes) -> "Session":
    with runtime.collection_paused():
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
    for number, path in enumerate(paths, start=1):
        if out.resolve().is_relative_to(path.resolve()):
            raise InputError(f"--out is inside PATH {number}: give a folder apart from it")
    if os.access(out, os.F_OK) and not out.is_dir():  # the first is False for a long path
        raise InputError("--out is a file: give a folder")


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""

    def command() -> int:
        args, unknown = parser().parse_known_args(argv)
        if unknown:  # argparse would print them, and a path may hold a name
            raise InputError("the command line has an unknown option: see --help")
        return run(args)

    return run_command(command)


if __name__ == "__main__":
    status = main()
    runtime.skip_last_collection()
    sys.exit(status)
