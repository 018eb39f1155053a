"""Receives DICOM objects from known callers into the spool, and answers each with a status.

Nothing of a patient is printed or logged. A caller's title is no password, and transfers are not
encrypted: docs/pacs.md.
"""

import contextlib
import dataclasses
import re
import signal
import sys
import threading
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
from dtvit_jax.pacs.arrivals import Arrivals, Pace
from dtvit_jax.pacs.connections import LONGEST_PDU, ConnectionLimits, Connections
from dtvit_jax.pacs.notices import Notices
from dtvit_jax.pacs.sender import Peer
from dtvit_jax.pacs.spool import Spool, Stored
from dtvit_jax.runtime import quiet_libraries

SUCCESS, OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3)."""

CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
STOPS = (signal.SIGINT, signal.SIGTERM)
_SECONDS_TO_STOP = 2.0


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
      connections, pace: the most connections, and the time that each and its objects have.
    """

    port: int
    aet: str
    callers: tuple[str, ...]
    bind: str = "127.0.0.1"
    quiet: float = 30.0
    send_to: Peer | None = None
    connections: ConnectionLimits = dataclasses.field(default_factory=ConnectionLimits)
    pace: Pace = dataclasses.field(default_factory=Pace)

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
def accepting(listening: Listening, spool: Spool, notices: Notices) -> Iterator[None]:
    """Receives objects into the spool, in threads, while the block runs; in the main thread only.

    Raises InputError where the port can't be opened.
    """
    quiet_libraries()  # pynetdicom logs what it receives
    entity = AE(ae_title=listening.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = list(listening.callers)
    limits = listening.connections
    # It would count connections that are no association: `Connections` counts.
    entity.maximum_associations = sys.maxsize
    entity.maximum_pdu_size = LONGEST_PDU
    entity.acse_timeout, entity.network_timeout = limits.to_associate, limits.silence
    entity.add_supported_context(Verification)
    for sop_class in CLASSES:
        entity.add_supported_context(sop_class, _syntaxes())
    arrivals = Arrivals(spool, listening.pace, notices)
    handlers: list[Any] = [
        (evt.EVT_C_STORE, _store, [spool, arrivals, notices]),
        *arrivals.handlers(),
        *Connections(limits, arrivals, notices).handlers(),
    ]
    with arrivals.written_to_drafts():
        # A signal between the start and the `try` would leave the server running. Its threads
        # inherit the mask, so that only the main thread gets signals.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            server = _start(entity, listening, handlers)
            server.socket.listen(limits.pending)  # not the 5 of pynetdicom
            server.daemon_threads = True
            # The server's own prints a traceback.
            server.handle_error = lambda *_: notices.add("a connection ended with a fault")
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


def _store(event: evt.Event, spool: Spool, arrivals: Arrivals, notices: Notices) -> int:
    """Stores one object; returns the status of its C-STORE."""
    try:
        return _status(event, spool, notices)
    finally:
        arrivals.stored(event.assoc, event.dataset_path)


def _status(event: evt.Event, spool: Spool, notices: Notices) -> int:
    draft = event.dataset_path
    try:
        wanted = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Modality"]
        with quiet():
            header = Tags(pydicom.dcmread(draft, stop_before_pixels=True, specific_tags=wanted))
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
        outcome = spool.store(draft, study, instance)
    except OSError as error:
        notices.add(f"the spool can't be written ({error.strerror})")
        return OUT_OF_RESOURCES
    if outcome is Stored.NO_ROOM:
        notices.add("an object past the limits of the spool was refused")
        return OUT_OF_RESOURCES
    if outcome is Stored.REPLACED:
        notices.add("an object replaced an earlier one of the same UID and other content")
    return SUCCESS
