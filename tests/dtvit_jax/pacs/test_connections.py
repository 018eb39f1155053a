"""Connections that are no association, or that drip, shut nobody out and end in time."""

import contextlib
import select
import socket
import struct
import time

import pytest

pytest.importorskip("pynetdicom")

from tests.helpers.dicom_network import association, program, status_of, study_of
from tests.helpers.waiting import wait_until


@contextlib.contextmanager
def connected(port, count, address="127.0.0.1"):
    """TCP connections that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", port), 10, source_address=(address, 0))
            )
            for _ in range(count)
        ]


def drip(connection, seconds=20.0):
    """Sends a byte at a time until the peer closes the connection; returns the seconds."""
    since = time.monotonic()
    connection.settimeout(0.02)
    while time.monotonic() - since < seconds:
        try:
            connection.sendall(b"\0")
            if not connection.recv(100):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        raise AssertionError("the connection stayed open")
    return time.monotonic() - since


def begun_association(count):
    """The first bytes of an A-ASSOCIATE-RQ of `count` bytes (PS3.8 9.3.2)."""
    return struct.pack(">BBLH", 1, 0, count, 1)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A listener with short times."""
    times = {"to_associate": 0.5, "pdu": 0.5}
    with program(tmp_path_factory.mktemp("connections"), connections=times) as listener:
        yield listener


def test_silent_connections_shut_nobody_out(tmp_path):
    """With the times and numbers of a real listener."""
    with program(tmp_path) as running, connected(running.port, 100) as silent:
        with association(running.port) as opened:
            assert status_of(opened, study_of(1)[0]) == 0x0000
        assert "(from 127.0.0.1)" in running.wait_for("64 others were no DICOM association")
        for each in silent:
            each.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""
        running.wait_for("no DICOM association within 5 s")
        # A line for the first connection of a kind, and a number for the others.
        assert sum("connection was closed" in line for line in running.printed) == 2


def test_dripping_connections_end_in_time(running):
    with connected(running.port, 9) as dripping:
        for each in dripping:
            each.sendall(begun_association(200))
        assert drip(dripping[0]) < 10
        for each in dripping:
            drip(each)
    running.wait_for("no DICOM association within 0.5 s")
    with association(running.port) as opened:
        assert opened.is_established


def test_the_address_with_the_most_connections_makes_room(tmp_path):
    limits = {"pending": 4, "to_associate": 60.0}
    with (
        program(tmp_path, connections=limits) as running,
        connected(running.port, 1) as (early,),
        connected(running.port, 5, "127.0.0.2") as flood,
    ):
        assert "(from 127.0.0.2)" in running.wait_for("4 others were no DICOM association")
        closed = []  # a closed socket is readable

        def two_closed():
            closed[:] = select.select([early, *flood], [], [], 0)[0]
            return len(closed) == 2

        wait_until(two_closed, running.process)
        assert early not in closed


def test_a_pdu_that_drips_ends_its_association(running):
    with association(running.port) as opened:
        connection = opened.dul.socket.socket
        connection.sendall(struct.pack(">BBL", 4, 0, 1000))
        with contextlib.suppress(OSError):
            drip(connection)
    assert running.wait_for("a PDU took more than 0.5 s")


def test_associations_above_their_number_are_refused_with_the_reason(tmp_path):
    with program(tmp_path, connections={"associations": 2}) as running:
        with association(running.port) as first, association(running.port) as second:
            assert first.is_established and second.is_established
            with association(running.port) as third:
                assert third.is_rejected
                answer = third.acceptor.primitive
                assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
            assert "(caller 'KNOWN')" in running.wait_for("an association was refused: 2 are open")
            with association(running.port, caller="STRANGER") as stranger:
                assert stranger.is_rejected
        ends = time.monotonic() + 10  # until the listener has ended them
        while time.monotonic() < ends:
            with association(running.port) as again:
                if again.is_established:
                    break
        else:
            raise AssertionError("their places are not free")
