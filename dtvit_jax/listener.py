"""A DICOM listener: studies come over the network, are answered, and results go back."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_builder.errors import InputError
from dtvit_jax.acceptor import Listening, accepting
from dtvit_jax.send_back import SendBack
from dtvit_jax.spool import Spool

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
