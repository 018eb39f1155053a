"""A DICOM listener: studies come over the network, are answered, and results go back.

The command line of `predict --listen`. Light: pynetdicom is imported when it is asked for.
"""

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_builder.errors import InputError
from dtvit_jax.pacs.receiver import Listening, accepting
from dtvit_jax.pacs.sender import SendBack
from dtvit_jax.pacs.spool import Spool

_ROUND = 0.5  # seconds between looks at the spool
_FIRST_WAIT, _LONGEST_WAIT = 60.0, 3600.0


class Terminated(BaseException):
    """SIGTERM came."""


Handler = Callable[[Path], Sequence[Path]]
"""Answers the study in a folder; gives the DICOM objects to send. Called in the main thread."""


def serve(listening: Listening, spool: Spool, handle: Handler) -> int:
    """Receives studies and has each answered, until SIGINT (returns 130) or SIGTERM (143).

    What was received is on disk before its sender is told so; what is not answered or sent by then
    is so after the next start. Raises InputError where it can't listen.
    """
    back = SendBack(spool, listening.send_to, listening.aet) if listening.send_to else None
    rounds = _Rounds(spool, handle, listening.quiet, back is not None)
    with _signals():
        try:
            with accepting(listening, spool):
                while True:
                    rounds.answer_complete()
                    if back:
                        back.send_due()
                    spool.expire()
                    time.sleep(_ROUND)
        except (KeyboardInterrupt, Terminated) as stop:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return 130 if isinstance(stop, KeyboardInterrupt) else 143


class _Rounds:
    """Has each complete study answered; one that fails is tried again later."""

    def __init__(self, spool: Spool, handle: Handler, quiet_seconds: float, sends: bool) -> None:
        self._spool, self._handle = spool, handle
        self._quiet, self._sends = quiet_seconds, sends
        self._failed: dict[str, tuple[float, float]] = {}

    def answer_complete(self) -> None:
        for study in self._spool.complete(self._quiet):
            wait, since = self._failed.get(study.name, (0.0, 0.0))
            if time.monotonic() - since < wait:
                continue
            images = self._spool.images(study)
            print(f"{study.name}: complete, {len(images)} objects", flush=True)
            try:
                objects = self._handle(study)
                self._spool.answered(study, images, objects if self._sends else [])
                self._failed.pop(study.name, None)
            except Exception as error:
                wait = min(max(2 * wait, _FIRST_WAIT), _LONGEST_WAIT)
                self._failed[study.name] = (wait, time.monotonic())
                told = f"not answered: {_in_words(error)}; next try in {wait:.0f} s"
                print(f"{study.name}: {told}", flush=True)


def _in_words(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return f"the spool can't be written ({error.strerror})"
    return f"a fault in the program ({type(error).__name__})"


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise Terminated

    def fault(args: threading.ExceptHookArgs) -> None:  # a traceback may repeat what was sent
        print(f"a connection ended with a fault ({args.exc_type.__name__})", flush=True)

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminate),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    hook, threading.excepthook = threading.excepthook, fault
    try:
        yield
    finally:
        threading.excepthook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


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
        from dtvit_jax.pacs.receiver import Listening

        pass
        from dtvit_jax.pacs.sender import read_peer
    except ModuleNotFoundError as error:
        if error.name != "pynetdicom":
            raise
        raise InputError(
            "--listen needs pynetdicom: install this package with its extra 'listener'"
        ) from None
    from dtvit_jax.pacs.spool import Limits, Spool

    callers = tuple(title.strip() for title in args.callers.split(",") if title.strip())
    peer = read_peer(args.send_to) if args.send_to else None
    if args.spool_gib <= 0:
        raise InputError("--spool_gib is above 0")
    listening = Listening(args.listen, args.aet, callers, args.bind, args.quiet, peer)
    limits = Limits(spool_bytes=int(args.spool_gib * 2**30))
    with Spool(args.spool or args.out / "spool", key, limits) as spool:
        return serve(listening, spool, handle)
