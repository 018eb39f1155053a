"""A DICOM listener: C-ECHO and C-STORE from known callers, a study at a time to be answered.

Nothing of a person is said: a study goes by its pseudonym. A caller's title is no password, and
what is sent is not encrypted: docs/pacs.md.
"""

import contextlib
import dataclasses
import io
import logging
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.pixels import get_decoder
from pydicom.uid import (
    AllTransferSyntaxes,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from data_builder.ct_header import Tags
from data_builder.dicom import quiet
from data_builder.errors import InputError
from dtvit_jax.send_back import Peer, SendBack
from dtvit_jax.spool import Spool, Stored

SUCCESS, OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3)."""

CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
_PDU = 2**17
_ROUND = 0.5  # seconds between looks at the spool
_TRIES, _WAIT = 3, 60.0
_SECONDS_TO_STOP = 5.0

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it tells what it receives


@dataclasses.dataclass(frozen=True)
class Listening:
    """Where to listen and for whom. port 0: any free one. quiet: seconds after a study's last."""

    port: int
    aet: str
    callers: tuple[str, ...]
    bind: str = "127.0.0.1"
    quiet: float = 30.0
    send_to: Peer | None = None


class Terminated(BaseException):
    """SIGTERM came."""


Handler = Callable[[Path], Sequence[Path]]
"""Answers the study in a folder; gives the DICOM objects to send. Called in the main thread."""


def serve(listening: Listening, spool: Spool, handle: Handler) -> int:
    """Receives studies and has each answered, until SIGINT (returns 130) or SIGTERM (143).

    What was received is on disk before its sender is told so; what is not answered or sent by then
    is so after the next start. Raises InputError where it can't listen.
    """
    _check(listening)
    back = SendBack(spool, listening.send_to, listening.aet) if listening.send_to else None
    rounds = _Rounds(spool, handle, listening.quiet, back is not None)
    with _signals():
        try:
            with _server(listening, spool):
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
        self._failed: dict[tuple[str, int], tuple[int, float]] = {}

    def answer_complete(self) -> None:
        for study in self._spool.complete(self._quiet):
            images = self._spool.images(study)
            tries, since = self._failed.get((study.name, len(images)), (0, 0.0))
            if tries >= _TRIES or (tries and time.monotonic() - since < _WAIT * tries):
                continue
            print(f"{study.name}: complete, {len(images)} objects", flush=True)
            try:
                objects = self._handle(study)
            except Exception as error:
                known = isinstance(error, InputError)
                what = str(error) if known else f"a fault in the program ({type(error).__name__})"
                again = "tried again later" if tries + 1 < _TRIES else "not before the next start"
                print(f"{study.name}: not answered: {what}; {again}", flush=True)
                self._failed[study.name, len(images)] = (tries + 1, time.monotonic())
                continue
            self._spool.answered(study, images, objects if self._sends else [])


def _check(listening: Listening) -> None:
    if not listening.callers:
        raise InputError("no caller is known: give the AE titles that may send with --callers")
    for title in (listening.aet, *listening.callers):
        if not re.fullmatch(r"(?! *$)[\x20-\x5b\x5d-\x7e]{1,16}", title):
            raise InputError("an AE title has 1 to 16 ASCII characters and no backslash")


@contextlib.contextmanager
def _server(listening: Listening, spool: Spool) -> Iterator[None]:
    entity = AE(ae_title=listening.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = list(listening.callers)
    entity.maximum_associations = spool.limits.associations
    entity.maximum_pdu_size = _PDU
    entity.acse_timeout = entity.dimse_timeout = 30
    entity.network_timeout = 60
    entity.add_supported_context(Verification)
    for sop_class in CLASSES:
        entity.add_supported_context(sop_class, _syntaxes())
    gate = _Gate(spool.limits.object_bytes)
    handlers: list[Any] = [
        (evt.EVT_C_STORE, _store, [spool]),
        (evt.EVT_CONN_OPEN, gate.opened),
        (evt.EVT_PDU_RECV, gate.received),
        (evt.EVT_REJECTED, _tell_of_rejection),
    ]
    try:
        server = entity.start_server(
            (listening.bind, listening.port), block=False, evt_handlers=handlers
        )
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "no such port"
        raise InputError(f"--listen {listening.port} on {listening.bind}: {why}") from error
    assert server is not None
    host, port = server.server_address[:2]
    print(f"{listening.aet} listens on {host}:{port}", flush=True)
    try:
        yield
    finally:
        # A peer that does not answer an abort must not hold the end up.
        stopping = threading.Thread(target=entity.shutdown, daemon=True)
        stopping.start()
        stopping.join(_SECONDS_TO_STOP)


def _syntaxes() -> list[str]:
    """Transfer syntaxes whose pixels can be read here."""
    found: list[str] = []
    for uid in AllTransferSyntaxes:
        if uid == DeflatedExplicitVRLittleEndian:  # small on the wire, any size when read
            continue
        with contextlib.suppress(NotImplementedError):
            if get_decoder(uid).is_available:
                found.append(uid)
    return found


class _Gate:
    """Ends an association that sends an object, or a part of one, past any limit."""

    def __init__(self, object_bytes: int) -> None:
        self._most = object_bytes
        self._received: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def opened(self, event: evt.Event) -> None:
        """Bounds what is read at once: the length comes from whoever connects, known or not."""
        connection: Any = event.assoc.dul.socket
        read = connection.recv

        def bounded(count: int) -> bytearray:
            if count > 2 * _PDU:
                raise OSError("a PDU longer than was agreed on")
            return read(count)

        connection.recv = bounded

    def received(self, event: evt.Event) -> None:
        """Counts the bytes of the object that is being received, before they pile up."""
        for item in getattr(event.pdu, "presentation_data_value_items", ()):
            value = item.presentation_data_value
            count = self._received.get(event.assoc, 0) + len(value)
            if count > self._most:
                print("an object past the limit on bytes was refused", flush=True)
                event.assoc.abort(block=False)
                count = 0
            # The first byte tells the last fragment of a command (3) or of an object (2).
            self._received[event.assoc] = 0 if value[:1] in (b"\x02", b"\x03") else count


def _tell_of_rejection(event: evt.Event) -> None:
    title = re.sub(r"[^\x20-\x7e]", "?", str(event.assoc.requestor.ae_title or ""))
    print(f"an association was refused: caller {title!r}", flush=True)


def _store(event: evt.Event, spool: Spool) -> int:
    """Takes in one object; the status of its C-STORE."""
    try:
        data = event.encoded_dataset()
        wanted = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Modality"]
        with quiet():
            header = Tags(pydicom.dcmread(io.BytesIO(data), specific_tags=wanted))
            study, instance = header.text("StudyInstanceUID"), header.text("SOPInstanceUID")
            request: Any = event.request
            asked = (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID)
            if not study or not instance or not header.text("Modality"):
                return NOT_UNDERSTOOD
            if (header.text("SOPClassUID"), instance) != asked or header.text("Modality") != "CT":
                return MISMATCH
    except Exception:  # pydicom raises many kinds on what is not as it says
        return NOT_UNDERSTOOD
    try:
        stored = spool.store(data, study, instance)
    except OSError as error:
        print(f"the spool can't be written ({error.strerror})", flush=True)
        return OUT_OF_RESOURCES
    if stored is Stored.NO_ROOM:
        print("an object past the limits of the spool was refused", flush=True)
        return OUT_OF_RESOURCES
    return SUCCESS


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise Terminated

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminate),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
