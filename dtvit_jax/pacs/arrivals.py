"""Writes objects to drafts in the spool while they arrive, and limits their bytes and their time.

pynetdicom gathers an object in memory, where it takes a multiple of its size; a draft takes none.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from pynetdicom import _config, dimse_messages, evt

from data_builder.files import DRAFT
from dtvit_jax.pacs.notices import Notices
from dtvit_jax.pacs.spool import Spool

_IN_MEMORY = 2**20  # of a command, whose usual size is 200 bytes
_UNANSWERED = 8  # messages; a client that negotiates no window sends one, and waits


@dataclasses.dataclass(frozen=True)
class Pace:
    """The time that a message has.

    Attributes:
      seconds: from its first PDU to its last, beside those for its bytes.
      bytes_a_second: of an object, at least.
    """

    seconds: float = 60.0
    bytes_a_second: int = 2**16


@dataclasses.dataclass(eq=False)
class _Arrival:
    """What arrives over one association, and is neither stored nor refused yet.

    Attributes:
      drafts: files of objects.
      since: when the message that is arriving began.
      size: bytes of its object; `earlier`: of objects that are complete.
      in_memory: its bytes that are in no draft.
      refused: whether the association was aborted for a limit.
    """

    drafts: set[Path] = dataclasses.field(default_factory=set)
    since: float = 0.0
    size: int = 0
    earlier: int = 0
    in_memory: int = 0
    refused: bool = False


class Arrivals:
    """All objects that are arriving."""

    def __init__(self, spool: Spool, pace: Pace, notices: Notices) -> None:
        self._spool, self._pace, self._notices = spool, pace, notices
        self._mutex = threading.Lock()
        self._all: dict[Any, _Arrival] = {}

    @contextlib.contextmanager
    def written_to_drafts(self) -> Iterator[None]:
        """Has pynetdicom, in the whole process, write objects to drafts while the block runs."""
        dimse_messages.NamedTemporaryFile = self._draft  # type: ignore[assignment]
        _config.STORE_RECV_CHUNKED_DATASET = True
        try:
            yield
        finally:
            _config.STORE_RECV_CHUNKED_DATASET = False
            dimse_messages.NamedTemporaryFile = NamedTemporaryFile

    def handlers(self) -> list[Any]:
        """The handlers of pynetdicom's events."""
        return [(evt.EVT_REQUESTED, self._requested), (evt.EVT_PDU_RECV, self._received)]

    def stored(self, association: Any, draft: Path | None) -> None:
        """Ends the account of an object that was stored or refused; None: a message without one."""
        arrival = self._all[association]
        if draft:
            draft.unlink(missing_ok=True)
            arrival.drafts.discard(draft)
        if association.dimse.message is None and association.dimse.msg_queue.empty():
            arrival.size = arrival.earlier = 0

    def end(self, association: Any, expected: bool) -> None:
        """Removes the drafts of an association that ended; a notice says so where it matters."""
        with self._mutex:
            arrival = self._all.pop(association, _Arrival())
        for draft in arrival.drafts:
            draft.unlink(missing_ok=True)
        if arrival.size and not (arrival.refused or expected):
            self._notices.add("a connection ended within an object, which was not stored")

    def _requested(self, event: Any) -> None:
        with self._mutex:
            self._all[event.assoc] = _Arrival()

    def _draft(self, **options: Any) -> Any:
        """Opens the file for an object that begins to arrive, in its association's thread."""
        reader: Any = threading.current_thread()
        drafts = self._all[reader.assoc].drafts
        options |= {"dir": self._spool.incoming, "prefix": DRAFT}
        file = NamedTemporaryFile(**options)  # noqa: SIM115 - pynetdicom closes it
        drafts.add(Path(file.name))
        return file

    def _received(self, event: Any) -> None:
        """Counts the bytes of a PDU, before pynetdicom keeps them."""
        arrival = self._all.get(event.assoc)
        items = getattr(event.pdu, "presentation_data_value_items", ())
        if not arrival or arrival.refused or not items:
            return
        self._count(arrival, event.assoc.dimse, [each.presentation_data_value for each in items])
        if reason := self._excess(arrival, event.assoc.dimse):
            self._refuse(event.assoc, arrival, reason)
        self._refuse_largest()

    def _count(self, arrival: _Arrival, dimse: Any, values: Sequence[bytes]) -> None:
        if dimse.message is None:  # the message before is complete
            arrival.earlier += arrival.size
            arrival.size = arrival.in_memory = 0
            arrival.since = time.monotonic()
        has_draft = isinstance(dimse.message, dimse_messages.C_STORE_RQ)
        for value in values:
            if has_draft and not value[0] & 1:  # PS3.8 E.2: the first bit marks a command
                arrival.size += len(value) - 1
            else:
                arrival.in_memory += len(value)

    def _excess(self, arrival: _Arrival, dimse: Any) -> str:
        """The limit that a message is past; empty for none."""
        pace, seconds = self._pace, time.monotonic() - arrival.since
        if arrival.size > self._spool.limits.object_bytes:
            return "it is past the limit on bytes"
        if seconds > pace.seconds + arrival.size / pace.bytes_a_second:
            return f"it came slower than {pace.bytes_a_second / 2**10:g} KiB/s"
        if arrival.in_memory > _IN_MEMORY:
            return "its command is past the limit on bytes"
        if dimse.msg_queue.qsize() > _UNANSWERED:
            return "it was sent before the answers to earlier ones"
        if not self._spool.can_receive():
            return "the disk of the spool is full"
        return ""

    def _refuse_largest(self) -> None:
        most = self._spool.limits.incoming_bytes
        with self._mutex:
            arrivals = {key: each for key, each in self._all.items() if not each.refused}
        if sum(each.size + each.earlier for each in arrivals.values()) > most:
            largest = max(arrivals, key=lambda key: arrivals[key].size + arrivals[key].earlier)
            reason = f"more than {most / 2**20:g} MiB were arriving at a time"
            self._refuse(largest, arrivals[largest], reason)

    def _refuse(self, association: Any, arrival: _Arrival, reason: str) -> None:
        arrival.refused = True
        self._notices.add(f"an object was refused: {reason}")
        association.abort(block=False)
