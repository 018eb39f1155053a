"""Receives DICOM objects from known callers into the spool, and answers each with a status.

Nothing of a patient is printed or logged. A caller's title is no password, and transfers are not
encrypted: docs/pacs.md.
"""

import contextlib
import dataclasses
import io
import re
import signal
import threading
import weakref
from collections.abc import Iterator
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

from data_builder.dicom.header import Tags
from data_builder.dicom.read import quiet
from data_builder.errors import InputError
from dtvit_jax.pacs.sender import Peer
from dtvit_jax.pacs.spool import Spool, Stored
from dtvit_jax.runtime import quiet_libraries

SUCCESS, OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3)."""

CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
STOPS = (signal.SIGINT, signal.SIGTERM)
_PDU = 2**17
_SECONDS_TO_STOP = 2.0
_SECONDS_OF_SILENCE = 60.0


@dataclasses.dataclass(frozen=True)
class Listening:
    """Settings of the listener.

    Attributes:
      port: TCP port; 0: any free one.
      aet: this application's title.
      callers: titles that may send.
      bind: address to listen on.
      quiet: seconds without a new image after which a study is complete.
      send_to: receiver of the results; None: they are not sent.
    """

    port: int
    aet: str
    callers: tuple[str, ...]
    bind: str = "127.0.0.1"
    quiet: float = 30.0
    send_to: Peer | None = None

    def __post_init__(self) -> None:
        """Raises InputError for invalid titles, and where there is no caller."""
        if not self.callers:
            raise InputError(
                "no caller may send: give the AE titles of those that may with --callers"
            )
        for title in (self.aet, *self.callers):
            if not re.fullmatch(r"(?! *$)[\x20-\x5b\x5d-\x7e]{1,16}", title):
                raise InputError("an AE title has 1 to 16 ASCII characters and no backslash")


@contextlib.contextmanager
def accepting(listening: Listening, spool: Spool) -> Iterator[None]:
    """Receives objects into the spool, in threads, while the block runs; in the main thread only.

    Raises InputError where the port can't be opened.
    """
    quiet_libraries()  # pynetdicom logs what it receives
    entity = AE(ae_title=listening.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = list(listening.callers)
    entity.maximum_associations = spool.limits.associations
    entity.maximum_pdu_size = _PDU
    entity.acse_timeout = entity.dimse_timeout = 30
    entity.network_timeout = _SECONDS_OF_SILENCE
    entity.add_supported_context(Verification)
    for sop_class in CLASSES:
        entity.add_supported_context(sop_class, _syntaxes())
    gate = _Gate(spool.limits.object_bytes)
    handlers: list[Any] = [
        (evt.EVT_C_STORE, _store, [spool]),
        (evt.EVT_CONN_OPEN, gate.opened),
        (evt.EVT_PDU_RECV, gate.received),
        (evt.EVT_REJECTED, _print_rejection),
    ]
    # A signal between the start and the `try` would leave the server running. Its threads inherit
    # the mask, so that only the main thread gets signals.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        server = _start(entity, listening, handlers)
        host, port = server.server_address[:2]
        print(f"{listening.aet} listens on {host}:{port}", flush=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        # A peer that does not answer an abort must not delay the end.
        stopping = threading.Thread(target=entity.shutdown, daemon=True)
        stopping.start()
        stopping.join(_SECONDS_TO_STOP)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(entity: AE, listening: Listening, handlers: list[Any]) -> Any:
    try:
        return entity.start_server(
            (listening.bind, listening.port), block=False, evt_handlers=handlers
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such port"
        raise InputError(f"--listen {listening.port} on {listening.bind}: {reason}") from error


def _syntaxes() -> list[str]:
    """Transfer syntaxes whose pixels the installed decoders read."""
    syntaxes: list[str] = []
    for uid in AllTransferSyntaxes:
        if uid == DeflatedExplicitVRLittleEndian:  # a small transfer may inflate to any size
            continue
        with contextlib.suppress(NotImplementedError):
            if get_decoder(uid).is_available:
                syntaxes.append(uid)
    return syntaxes


class _Gate:
    """Ends an association that sends an object, or one PDU, above its limit of bytes."""

    def __init__(self, object_bytes: int) -> None:
        self._most = object_bytes
        self._received: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def opened(self, event: evt.Event) -> None:
        """Limits the bytes read at once: a PDU's length comes from any client, known or not.

        A connection that falls silent within a PDU is closed, and does not delay the end.
        """
        connection: Any = event.assoc.dul.socket
        connection.socket.settimeout(_SECONDS_OF_SILENCE)
        event.assoc.dul.daemon = True
        read = connection.recv

        def bounded(count: int) -> bytearray:
            if count > 2 * _PDU:
                raise OSError("a PDU longer than negotiated")
            return read(count)

        connection.recv = bounded

    def received(self, event: evt.Event) -> None:
        """Counts the bytes of the object that is being received, before they fill the memory."""
        for item in getattr(event.pdu, "presentation_data_value_items", ()):
            value = item.presentation_data_value
            count = self._received.get(event.assoc, 0) + len(value)
            if count > self._most:
                print("an object past the limit on bytes was refused", flush=True)
                event.assoc.abort(block=False)
                count = 0
            # The first byte marks the last fragment of a command (3) or of an object (2).
            self._received[event.assoc] = 0 if value[:1] in (b"\x02", b"\x03") else count


def _print_rejection(event: evt.Event) -> None:
    title = re.sub(r"[^\x20-\x7e]", "?", str(event.assoc.requestor.ae_title or ""))
    print(f"an association was refused: caller {title!r}", flush=True)


def _store(event: evt.Event, spool: Spool) -> int:
    """Stores one object; returns the status of its C-STORE."""
    try:
        data = event.encoded_dataset()
        wanted = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Modality"]
        with quiet():
            header = Tags(pydicom.dcmread(io.BytesIO(data), specific_tags=wanted))
            study, instance = header.text("StudyInstanceUID"), header.text("SOPInstanceUID")
            request: Any = event.request
            requested = (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID)
            if not study or not instance or not header.text("Modality"):
                return NOT_UNDERSTOOD
            if (header.text("SOPClassUID"), instance) != requested:
                return MISMATCH
            if header.text("Modality") != "CT":
                return MISMATCH
    except Exception:  # pydicom raises many kinds of error on malformed data
        return NOT_UNDERSTOOD
    try:
        outcome = spool.store(data, study, instance)
    except OSError as error:
        print(f"the spool can't be written ({error.strerror})", flush=True)
        return OUT_OF_RESOURCES
    if outcome is Stored.NO_ROOM:
        print("an object past the limits of the spool was refused", flush=True)
        return OUT_OF_RESOURCES
    return SUCCESS
