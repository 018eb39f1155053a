"""Runs the DICOM listener: receives studies, has each answered once, sends the results back."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_builder.dicom.read import quiet
from data_builder.errors import InputError
from dtvit_jax.pacs.notices import Notices
from dtvit_jax.pacs.receiver import Listening, accepting
from dtvit_jax.pacs.sender import SendBack
from dtvit_jax.pacs.spool import Spool

_POLL_SECONDS = 0.5
_FIRST_WAIT, _LONGEST_WAIT = 60.0, 3600.0


class Terminated(BaseException):
    """The process received SIGTERM."""


Handler = Callable[[Path], Sequence[Path]]
"""Answers the study in a folder and returns the DICOM objects to send; runs in the main thread."""


def serve(listening: Listening, spool: Spool, handle: Handler) -> int:
    """Receives studies and has each answered, until SIGINT (returns 130) or SIGTERM (143).

    An object is on disk before its sender gets a status. Studies that are not answered or sent by
    the end are so after the next start. Raises InputError where the port can't be opened.
    """
    back = SendBack(spool, listening.send_to, listening.aet) if listening.send_to else None
    rounds = _Rounds(spool, handle, listening.quiet, back is not None)
    notices = Notices()
    with quiet(), _signals(notices):
        try:
            with accepting(listening, spool, notices):
                while True:
                    rounds.answer_complete()
                    if back:
                        back.send_due()
                    spool.expire()
                    notices.flush()
                    time.sleep(_POLL_SECONDS)
        except (KeyboardInterrupt, Terminated) as stop:
            notices.flush(everything=True)
            print("stopped; the same command continues", file=sys.stderr)
            return 130 if isinstance(stop, KeyboardInterrupt) else 143


class _Rounds:
    """Has each complete study answered; a failed one is tried again after a growing wait."""

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
                message = f"not answered: {_describe(error)}; next try in {wait:.0f} s"
                print(f"{study.name}: {message}", flush=True)


def _describe(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return f"the spool can't be written ({error.strerror})"
    return f"a fault in the program ({type(error).__name__})"


@contextlib.contextmanager
def _signals(notices: Notices) -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise Terminated

    def fault(args: threading.ExceptHookArgs) -> None:  # a traceback may repeat sent data
        reason = getattr(args.exc_value, "strerror", None) or args.exc_type.__name__
        notices.add(f"a connection ended with a fault ({reason})")

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
