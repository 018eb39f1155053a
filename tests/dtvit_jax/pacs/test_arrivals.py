"""Objects go to private drafts while they arrive, within limits on their bytes and their time."""

import contextlib
import io
import itertools
import signal
import stat
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, generate_uid

pytest.importorskip("pynetdicom")
from pynetdicom.dimse_messages import C_FIND_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_FIND, C_STORE
from pynetdicom.pdu import P_DATA_TF

from tests.helpers.dicom_network import association, program, status_of, study_of
from tests.helpers.waiting import wait_until

PDU = 2**17


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with program(tmp_path_factory.mktemp("arrivals")) as listener:
        yield listener


def fragments(size):
    """P-DATA of a C-STORE with an object of `size` bytes."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = CTImageStorage
    request.AffectedSOPInstanceUID = generate_uid()
    request.DataSet = io.BytesIO(bytes(size))
    return encoded(C_STORE_RQ(), request)


def encoded(message, request):
    message.primitive_to_message(request)
    return message.encode_msg(1, PDU)


@contextlib.contextmanager
def unfinished(running, size):
    """An association over which an object came, but for its last fragment."""
    with association(running.port) as opened:
        *most, _ = fragments(size)
        for each in most:
            opened.dul.send_pdu(each)
        yield opened
        opened.abort()


def drafts(running):
    return list((running.out / "spool/incoming").iterdir())


def size_of(files):
    total = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def peak_bytes(running):
    """The most memory that the process held."""
    with Path(f"/proc/{running.process.pid}/status").open() as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def test_unfinished_objects_hold_no_memory(running):
    size, before = 40 * 2**20, peak_bytes(running)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(unfinished(running, size))
        wait_until(lambda: size_of(drafts(running)) > 3 * (size - PDU), running.process)
        assert peak_bytes(running) - before < 20 * 2**20
        assert {stat.S_IMODE(file.stat().st_mode) for file in drafts(running)} == {0o600}
        assert stat.S_IMODE((running.out / "spool/incoming").stat().st_mode) == 0o700
    running.wait_for("a connection ended within an object, which was not stored")
    wait_until(lambda: not drafts(running), running.process)


def test_stored_and_refused_objects_leave_no_draft(running):
    with association(running.port) as opened:
        good, other = study_of(1)[0], study_of(1, Modality="MR")[0]
        assert [status_of(opened, each) for each in (good, good, other)] == [0, 0, 0xA900]
        wait_until(lambda: not drafts(running), running.process)


def test_a_restart_removes_the_drafts_of_a_killed_listener(tmp_path):
    with program(tmp_path) as running, unfinished(running, 2**20):
        wait_until(lambda: size_of(drafts(running)) > 0, running.process)
        running.stop(signal.SIGKILL)
        assert drafts(running)
    with program(tmp_path) as again:
        assert drafts(again) == []


def test_the_largest_object_makes_room_where_too_many_bytes_arrive(tmp_path):
    limits = {"incoming_bytes": 10 * 2**20}
    with program(tmp_path, limits=limits) as running:
        with unfinished(running, 9 * 2**20) as large, association(running.port) as small:
            wait_until(lambda: size_of(drafts(running)) > 8 * 2**20, running.process)
            with unfinished(running, 3 * 2**20):
                running.wait_for("an object was refused: more than 10 MiB were arriving at a time")
                wait_until(lambda: large.is_aborted, running.process)
                assert status_of(small, study_of(1)[0]) == 0x0000
        wait_until(lambda: not drafts(running), running.process)


def test_an_object_that_is_too_slow_is_refused(tmp_path):
    pace = {"seconds": 0.2, "bytes_a_second": 2**30}
    with program(tmp_path, pace=pace) as running, association(running.port) as opened:
        parts = fragments(2**30)  # never all of it
        for each in itertools.islice(parts, 2):
            opened.dul.send_pdu(each)

        def aborted():
            if not opened.is_aborted:
                opened.dul.send_pdu(next(parts))
            return opened.is_aborted

        wait_until(aborted, running.process, 20)
        assert running.wait_for("it came slower than 1.04858e+06 KiB/s")


def test_messages_that_are_no_objects_have_a_small_limit(running):
    with association(running.port) as opened:
        request = C_FIND()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID = CTImageStorage
        request.Identifier = io.BytesIO(bytes(3 * 2**20))
        for each in encoded(C_FIND_RQ(), request):
            opened.dul.send_pdu(each)
        assert running.wait_for("its command is past the limit on bytes")
        wait_until(lambda: opened.is_aborted, running.process)


def test_objects_that_do_not_wait_for_answers_are_refused(running):
    with association(running.port) as opened:
        parts = itertools.chain.from_iterable(fragments(10) for _ in range(500))
        with contextlib.suppress(OSError):
            opened.dul.socket.socket.sendall(b"".join(P_DATA_TF(each).encode() for each in parts))
        assert running.wait_for("it was sent before the answers to earlier ones")
    wait_until(lambda: not drafts(running), running.process)
    assert drafts(running) == []
