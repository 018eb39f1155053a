"""Sends results to a PACS with C-STORE, and repeats until they are accepted."""

import dataclasses
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
from dtvit_jax.runtime import quiet_libraries

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_SECONDS_TO_CONNECT, _SECONDS_TO_ANSWER = 5, 30
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 600.0


@dataclasses.dataclass(frozen=True)
class Peer:
    """A DICOM application on the network."""

    aet: str
    host: str
    port: int


def read_peer(text: str) -> Peer:
    """Parses 'AET@host:port'. Raises InputError."""
    match = re.fullmatch(r"([^\s@\\][^@\\]{0,15})@(.+):(\d{1,5})", text)
    if not match or not 0 < int(match[3]) < 65536:
        raise InputError("--send_to is AET@host:port, such as PACS@127.0.0.1:104")
    return Peer(match[1].strip(), match[2].strip("[]"), int(match[3]))


class SendBack:
    """Sends the waiting results of a spool to one peer, from the application entitled `aet`."""

    def __init__(self, spool: Spool, peer: Peer, aet: str) -> None:
        self._spool, self._peer, self._aet = spool, peer, aet
        self._wait, self._next = _FIRST_WAIT, 0.0

    def send_due(self) -> None:
        """Sends all waiting results, unless a failed try is too recent. Never raises."""
        try:
            if time.monotonic() >= self._next:
                self._send_all()
        except OSError as error:  # results sent but not recorded as such are sent again
            print(f"the spool can't be written ({error.strerror})", flush=True)
            self._put_off()

    def _send_all(self) -> None:
        for study, objects in self._spool.unsent().items():
            missing = [path for path in objects if not path.is_file()]
            sent = send([path for path in objects if path not in missing], self._peer, self._aet)
            if missing:
                print(f"{study}: {len(missing)} results are gone from --out: not sent", flush=True)
            self._spool.sent(study, [*sent, *missing])
            if unsent := len(objects) - len(sent) - len(missing):
                print(
                    f"{study}: {unsent} results were not accepted by --send_to, next try in "
                    f"{self._wait:.0f} s",
                    flush=True,
                )
                self._put_off()
                return
            if sent:
                print(f"{study}: {len(sent)} results sent", flush=True)
            self._wait = _FIRST_WAIT

    def _put_off(self) -> None:
        self._next = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT)


def send(objects: Sequence[Path], peer: Peer, aet: str) -> list[Path]:
    """Sends the objects and returns those that the peer accepted; never raises.

    A status of success or warning (PS3.4 B.2.3) counts as accepted.
    """
    if not objects:
        return []
    quiet_libraries()  # pynetdicom logs what it sends
    entity = AE(ae_title=aet)
    entity.connection_timeout = _SECONDS_TO_CONNECT
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _SECONDS_TO_ANSWER
    entity.add_requested_context(Comprehensive3DSRStorage, _SYNTAXES)
    entity.add_requested_context(MultiFrameTrueColorSecondaryCaptureImageStorage, _SYNTAXES)
    accepted = []
    with quiet():
        association = entity.associate(peer.host, peer.port, ae_title=peer.aet)
        if not association.is_established:
            return []
        try:
            for path in objects:
                try:
                    status = association.send_c_store(path).get("Status", 0xC000)
                except (OSError, ValueError, RuntimeError, AttributeError):
                    continue  # its class was not negotiated, or the peer is gone
                if status == 0 or 0xB000 <= status <= 0xBFFF:
                    accepted.append(path)
        finally:
            if association.is_established:
                association.release()
            else:
                association.abort()
    return accepted
