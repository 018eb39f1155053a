"""The command line of `predict --listen`. Light: pynetdicom is imported when it is asked for."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from data_builder.errors import InputError


def add_flags(top: argparse.ArgumentParser) -> None:
    """The listener's flags of the command line, and --quiet, which --watch has too."""
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
    flags.add_argument("--spool", type=Path, help="folder for what is received (default OUT/spool)")
    flags.add_argument("--send_to", metavar="AET@HOST:PORT", help="send results there with C-STORE")
    flags.add_argument(
        "--spool_gib", type=float, default=32.0, help="what the spool may hold (default 32 GiB)"
    )


def listen(args: argparse.Namespace, key: bytes, handle: Callable[[Path], Sequence[Path]]) -> int:
    """Listens as the flags say, until it is stopped; the exit status.

    `key` is for the names in the spool; `handle` answers the study in a folder, and gives the
    DICOM objects to send. Raises InputError.
    """
    try:
        from dtvit_jax.acceptor import Listening
        from dtvit_jax.listener import serve
        from dtvit_jax.send_back import read_peer
    except ModuleNotFoundError as error:
        if error.name != "pynetdicom":
            raise
        raise InputError(
            "--listen needs pynetdicom: install this package with its extra 'listener'"
        ) from None
    from dtvit_jax.spool import Limits, Spool

    callers = tuple(title.strip() for title in args.callers.split(",") if title.strip())
    peer = read_peer(args.send_to) if args.send_to else None
    if args.spool_gib <= 0:
        raise InputError("--spool_gib is above 0")
    listening = Listening(args.listen, args.aet, callers, args.bind, args.quiet, peer)
    limits = Limits(spool_bytes=int(args.spool_gib * 2**30))
    with Spool(args.spool or args.out / "spool", key, limits) as spool:
        return serve(listening, spool, handle)
