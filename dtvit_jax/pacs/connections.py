"""Limits the connections to the listener: how many there are, and how long each may take.

pynetdicom counts every open connection as an association, and waits for a PDU as long as bytes of
it drip in. Here only associations count as such, a connection has seconds to become one, and a PDU
has to end in time.
"""

import contextlib
import dataclasses
import functools
import re
import socket
import threading
import time
from collections import Counter
from typing import Any, NoReturn

from pynetdicom import evt

from dtvit_jax.pacs.arrivals import Arrivals
from dtvit_jax.pacs.notices import Notices

LONGEST_PDU = 2**17
"""Bytes of a PDU that are negotiated."""

_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)  # rejected, transient: PS3.8 9.3.4
_OTHER_CALLED_TITLE = 7


@dataclasses.dataclass(frozen=True)
class ConnectionLimits:
    """The most connections, and the time that each has.

    Attributes:
      associations: at a time.
      pending: connections at a time that are no association.
      to_associate: seconds from the connection to the end of its A-ASSOCIATE-RQ.
      pdu: seconds from a PDU's first bytes to its last.
      silence: seconds without a PDU after which an association ends.
    """

    associations: int = 8
    pending: int = 64
    to_associate: float = 5.0
    pdu: float = 30.0
    silence: float = 60.0


@dataclasses.dataclass(eq=False)
class _Connection:
    """A connection.

    Attributes:
      requested, associated: whether its A-ASSOCIATE-RQ came, and was admitted.
      closed: whether it was closed here, with a notice.
      pdu_since: when the PDU that is arriving began.
    """

    association: Any
    socket: socket.socket
    address: str
    opened: float
    requested: bool = False
    associated: bool = False
    closed: bool = False
    pdu_since: float | None = None


class Connections:
    """All connections of a listener."""

    def __init__(self, limits: ConnectionLimits, arrivals: Arrivals, notices: Notices) -> None:
        self._limits, self._arrivals, self._notices = limits, arrivals, notices
        self._mutex = threading.Lock()
        self._all: dict[Any, _Connection] = {}

    def handlers(self) -> list[Any]:
        """The handlers of pynetdicom's events."""
        return [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._disconnected),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_PDU_RECV, self._received),
        ]

    def _opened(self, event: Any) -> None:
        """Sets the connection up, before pynetdicom reads from it."""
        association, wrapped = event.assoc, event.assoc.dul.socket
        now, host = time.monotonic(), str(event.address[0])
        connection = _Connection(association, wrapped.socket, host, now)
        wrapped.recv = functools.partial(self._read, connection)
        association.dul.daemon = True  # does not delay the end of the process
        run = association.run

        def run_to_the_end() -> None:
            try:
                run()
            finally:
                self._ended(connection)

        association.run = run_to_the_end
        with self._mutex:
            self._all[association] = connection
            surplus = self._surplus()
        if surplus:
            self._close(surplus, f"{self._limits.pending} others were no DICOM association")
            with contextlib.suppress(OSError):
                surplus.socket.shutdown(socket.SHUT_RDWR)
        if not self._speaks(connection):
            association.run = functools.partial(self._ended, connection)

    def _speaks(self, connection: _Connection) -> bool:
        """Waits for the first byte; pynetdicom would look for it a thousand times a second."""
        try:
            connection.socket.settimeout(self._limits.to_associate)
            return bool(connection.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _surplus(self) -> _Connection | None:
        """The connection that has to make room: the oldest from the address that has the most."""
        pending = [each for each in self._all.values() if not (each.associated or each.closed)]
        if len(pending) <= self._limits.pending:
            return None
        (address, _), *_ = Counter(each.address for each in pending).most_common(1)
        return next(each for each in pending if each.address == address)

    def _read(self, connection: _Connection, count: int) -> bytearray:
        """Reads from a socket for pynetdicom; less than `count` bytes where the peer closed it.

        A PDU's length comes from any client, known or not, so that the bytes read at once are
        limited. Raises OSError past this limit, and where there is no time left.
        """
        if count > 2 * LONGEST_PDU:
            self._close(connection, "a PDU longer than negotiated")
            raise OSError("a PDU longer than negotiated")
        if connection.pdu_since is None:
            connection.pdu_since = time.monotonic()
        if connection.associated:
            ends = connection.pdu_since + self._limits.pdu
        else:
            ends = connection.opened + self._limits.to_associate
        data, read = bytearray(count), 0
        with memoryview(data) as view:
            while read < count:
                if (left := ends - time.monotonic()) <= 0:
                    self._late(connection)
                connection.socket.settimeout(left)
                try:
                    more = connection.socket.recv_into(view[read:])
                except TimeoutError:
                    self._late(connection)
                if not more:
                    break
                read += more
        connection.socket.settimeout(self._limits.silence)  # for what is sent
        return data if read == count else data[:read]

    def _late(self, connection: _Connection) -> NoReturn:
        if connection.associated:
            self._close(connection, f"a PDU took more than {self._limits.pdu:g} s")
        raise TimeoutError

    def _close(self, connection: _Connection, reason: str) -> None:
        connection.closed = True
        kind = f"a connection was closed: {reason}"
        self._notices.add(kind, f"from {connection.address}")

    def _requested(self, event: Any) -> None:
        association, most = event.assoc, self._limits.associations
        connection = self._all[association]
        connection.requested = True
        with self._mutex:
            others = sum(each.associated for each in self._all.values())
            connection.associated = others < most
        if not connection.associated:
            self._refuse(association, f"{most} are open")
            association.acse.send_reject(*_LIMIT_EXCEEDED)
            association.is_rejected = True
            association.kill()

    def _rejected(self, event: Any) -> None:
        association = event.assoc
        self._all[association].associated = False
        if association.acceptor.primitive.diagnostic == _OTHER_CALLED_TITLE:
            self._refuse(association, "it called another title than --aet")
        else:
            self._refuse(association, "its caller is not one of --callers")

    def _refuse(self, association: Any, reason: str) -> None:
        title = str(association.requestor.primitive.calling_ae_title or "")
        caller = re.sub(r"[^\x20-\x7e]", "?", title)
        self._notices.add(f"an association was refused: {reason}", f"caller {caller!r}")

    def _received(self, event: Any) -> None:
        self._all[event.assoc].pdu_since = None

    def _disconnected(self, event: Any) -> None:
        connection = self._all.get(event.assoc)
        if connection and not connection.requested:  # pynetdicom would go on to wait for it
            event.assoc.dul.to_user_queue.put(None)

    def _ended(self, connection: _Connection) -> None:
        with self._mutex:
            del self._all[connection.association]
        with contextlib.suppress(OSError):
            connection.socket.close()
        self._arrivals.end(connection.association, expected=connection.closed)
        seconds, took = self._limits.to_associate, time.monotonic() - connection.opened
        if not (connection.requested or connection.closed) and took >= seconds:
            self._close(connection, f"no DICOM association within {seconds:g} s")
