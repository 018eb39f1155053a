"""Sends results to a PACS with C-STORE, again and again until they are taken."""

import dataclasses
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)
from pynetdicom import AE

from data_builder.dicom.read import quiet
from data_builder.errors import InputError
from dtvit_jax.pacs.spool import Spool

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER = 5, 30
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 600.0

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it tells what it sends


@dataclasses.dataclass(frozen=True)
class Peer:
    """A DICOM application on the network."""

    aet: str
    host: str
    port: int


def read_peer(text: str) -> Peer:
    """'AET@host:port'. Raises InputError."""
    found = re.fullmatch(r"([^\s@\\][^@\\]{0,15})@(.+):(\d{1,5})", text)
    if not found or not 0 < int(found[3]) < 65536:
        raise InputError("--send_to is AET@host:port, such as PACS@127.0.0.1:104")
    return Peer(found[1].strip(), found[2].strip("[]"), int(found[3]))


class SendBack:
    """What of a spool is to be sent, to one peer, from the application called `aet`."""

    def __init__(self, spool: Spool, peer: Peer, aet: str) -> None:
        self._spool, self._peer, self._aet = spool, peer, aet
        self._wait, self._next = _FIRST_WAIT, 0.0

    def send_due(self) -> None:
        """Sends all that waits, unless the last try failed too short a time ago. Never raises."""
        try:
            if time.monotonic() >= self._next:
                self._send_all()
        except OSError as error:  # what was sent and could not be noted is sent again
            print(f"the spool can't be written ({error.strerror})", flush=True)
            self._put_off()

    def _send_all(self) -> None:
        for study, objects in self._spool.unsent().items():
            gone = [path for path in objects if not path.is_file()]
            taken = send([path for path in objects if path not in gone], self._peer, self._aet)
            if gone:
                print(f"{study}: {len(gone)} results are gone from --out: not sent", flush=True)
            self._spool.sent(study, [*taken, *gone])
            if len(taken) + len(gone) < len(objects):
                left = len(objects) - len(taken) - len(gone)
                print(
                    f"{study}: {left} results were not taken by --send_to, next try in "
                    f"{self._wait:.0f} s",
                    flush=True,
                )
                self._put_off()
                return
            if taken:
                print(f"{study}: {len(taken)} results sent", flush=True)
            self._wait = _FIRST_WAIT

    def _put_off(self) -> None:
        self._next = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT)


def send(objects: Sequence[Path], peer: Peer, aet: str) -> list[Path]:
    """The objects that the peer took: success or a warning (PS3.4 B.2.3). Never raises."""
    if not objects:
        return []
    entity = AE(ae_title=aet)
    entity.connection_timeout = _SECONDS_TO_CONNECT
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _SECONDS_TO_ANSWER
    entity.add_requested_context(Comprehensive3DSRStorage, _SYNTAXES)
    entity.add_requested_context(MultiFrameTrueColorSecondaryCaptureImageStorage, _SYNTAXES)
    taken = []
    with quiet():
        association = entity.associate(peer.host, peer.port, ae_title=peer.aet)
        if not association.is_established:
            return []
        try:
            for path in objects:
                try:
                    status = association.send_c_store(path).get("Status", 0xC000)
                except (OSError, ValueError, RuntimeError, AttributeError):
                    continue  # not accepted in negotiation, or the peer is gone
                if status == 0 or 0xB000 <= status <= 0xBFFF:
                    taken.append(path)
        finally:
            if association.is_established:
                association.release()
            else:
                association.abort()
    return taken
