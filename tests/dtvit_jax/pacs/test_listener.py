"""Studies come over the network, are answered once, and results go back; strangers stay out."""

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from tests.helpers.dicom_files import ct, head_hu

pytest.importorskip("pynetdicom")
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from dtvit_jax.pacs.listener import add_flags, listen
from dtvit_jax.pacs.sender import Peer, SendBack, read_peer
from dtvit_jax.pacs.spool import Limits, Spool, Stored

QUIET = 0.7


def tool(name, *args):
    """Runs one of dcmtk's clients."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} (Debian's dcmtk) is not installed")
    return subprocess.run([name, *map(str, args)], capture_output=True, text=True, timeout=60)


class Program:
    """A running listener: its port, its folder, and what it has said so far."""

    def __init__(self, command, out):
        self.out = out
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.said, self._lines = [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(re.search(r":(\d+)$", self.wait_for("listens on", 60))[1])

    def _read(self):
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            self._lines.put(line.rstrip())

    def wait_for(self, words, seconds=20):
        """The next line with `words` in it."""
        ends = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, ends - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {words!r} in {self.said}") from None
            if words in line:
                return line

    def stop(self, number=signal.SIGTERM):
        """Its exit status, and the seconds it took."""
        since = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(20), time.monotonic() - since

    def studies(self):
        return {each.name: each for each in (self.out / "spool/studies").iterdir()}


def program(out, **asked):
    asked = {"out": str(out), "quiet": QUIET} | asked
    return started(
        [sys.executable, "-m", "tests.helpers.listening_program", json.dumps(asked)], out
    )


@contextlib.contextmanager
def started(command, out):
    running = Program(command, out)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@contextlib.contextmanager
def archive():
    """A second listener, which takes results; yields its port and what it received."""
    received = []

    def take(event):
        received.append(event.dataset)
        return 0x0000

    entity = AE(ae_title="PACS")
    entity.add_supported_context(Comprehensive3DSRStorage)
    entity.add_supported_context(MultiFrameTrueColorSecondaryCaptureImageStorage)
    handlers = [(evt.EVT_C_STORE, take)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()


def study_of(count=2, **changes):
    uid = generate_uid()
    return [
        ct(**{"StudyInstanceUID": uid, "SOPInstanceUID": generate_uid(), "InstanceNumber": i}
           | {"PatientName": "Secret^Person", "PatientID": "SECRET1"} | changes)
        for i in range(count)
    ]  # fmt: skip


def saved(folder, objects):
    folder.mkdir()
    for i, ds in enumerate(objects):
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(folder / f"{i}.dcm", enforce_file_format=True)
    return folder


def key_of(objects):
    return Pseudonyms(PUBLIC_KEY).study(objects[0].StudyInstanceUID)


@contextlib.contextmanager
def association(port, *classes, caller="KNOWN"):
    entity = AE(ae_title=caller)
    for each in classes or (CTImageStorage,):
        entity.add_requested_context(each, ExplicitVRLittleEndian)
    opened = entity.associate("127.0.0.1", port, ae_title="DTVIT")
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()


def status_of(opened, ds):
    return opened.send_c_store(ds).get("Status")


@pytest.fixture(scope="module")
def pacs():
    with archive() as found:
        yield found


@pytest.fixture(scope="module")
def running(tmp_path_factory, pacs):
    limits = {"object_bytes": 300_000, "study_objects": 3}
    out = tmp_path_factory.mktemp("listening")
    with program(out, send_to=f"PACS@127.0.0.1:{pacs[0]}", limits=limits) as found:
        yield found


def test_a_known_caller_is_answered_and_a_stranger_refused(running):
    ask = ("127.0.0.1", running.port)
    assert tool("echoscu", "-aet", "KNOWN", "-aec", "DTVIT", *ask).returncode == 0
    stranger = tool("echoscu", "-aet", "STRANGER", "-aec", "DTVIT", *ask)
    assert stranger.returncode != 0 and "Calling AE Title Not Recognized" in stranger.stderr
    assert "'STRANGER'" in running.wait_for("refused")
    other = tool("echoscu", "-aet", "KNOWN", "-aec", "OTHER", *ask)
    assert other.returncode != 0 and "Called AE Title Not Recognized" in other.stderr


def test_a_study_is_answered_once_when_it_is_quiet_and_results_go_back(running, pacs, tmp_path):
    sent, received = study_of(2), pacs[1]
    folder, key = saved(tmp_path / "scan", sent), key_of(sent)
    send = ("-aet", "KNOWN", "-aec", "DTVIT", "127.0.0.1", running.port, "+sd", folder)
    received.clear()
    since = time.monotonic()
    assert tool("storescu", *send).returncode == 0
    assert key in running.wait_for(f"answered {key} of 2")
    assert time.monotonic() - since >= QUIET
    running.wait_for(f"{key}: 2 results sent")
    assert [str(ds.SOPClassUID) for ds in received] == [
        Comprehensive3DSRStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    ]
    for ds in received:
        assert ds.StudyInstanceUID == sent[0].StudyInstanceUID and ds.PatientID == "SECRET1"
    # As received, under names that tell nothing, for the owner alone.
    stored = running.studies()[key]
    assert stat.S_IMODE(stored.stat().st_mode) == 0o700
    found = [pydicom.dcmread(path) for path in stored.iterdir()]
    assert sorted(ds.SOPInstanceUID for ds in found) == sorted(ds.SOPInstanceUID for ds in sent)
    assert {ds.PixelData for ds in found} == {sent[0].PixelData}
    assert all(re.fullmatch(r"sli-[a-z2-7]{16}\.dcm", path.name) for path in stored.iterdir())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in stored.iterdir())
    # The same again is taken and ignored.
    assert tool("storescu", *send).returncode == 0
    time.sleep(QUIET + 1.2)
    assert sum("answered" in line for line in running.said if key in line) == 1
    # One more is answered together with what was there.
    late = study_of(1, StudyInstanceUID=sent[0].StudyInstanceUID)
    with association(running.port) as opened:
        assert status_of(opened, late[0]) == 0x0000
    running.wait_for(f"answered {key} of 3")
    running.wait_for(f"{key}: 2 results sent")


def test_what_is_no_ct_object_is_refused_with_its_status(running):
    good, other = study_of(1)[0], study_of(1, Modality="MR")[0]
    nameless = study_of(1, StudyInstanceUID=None)[0]
    magnetic = study_of(1, SOPClassUID=MRImageStorage)[0]
    with association(running.port, CTImageStorage, MRImageStorage) as opened:
        accepted = [context.abstract_syntax for context in opened.accepted_contexts]
        assert accepted == [CTImageStorage]
        assert status_of(opened, other) == 0xA900
        assert status_of(opened, nameless) == 0xC000
        with pytest.raises(ValueError, match="presentation context"):
            opened.send_c_store(magnetic)
        assert status_of(opened, good) == 0x0000
    assert key_of([good]) in running.studies() and key_of([other]) not in running.studies()


def test_past_the_limits_an_object_is_refused_and_the_listener_goes_on(running, tmp_path):
    large = study_of(1)[0]
    large.Rows, large.Columns, large.PixelData = 400, 400, bytes(2 * 400 * 400)
    folder = saved(tmp_path / "large", [large])
    send = ("-aet", "KNOWN", "-aec", "DTVIT", "127.0.0.1", running.port, "+sd", folder)
    assert tool("storescu", *send).returncode != 0
    running.wait_for("past the limit on bytes")
    assert key_of([large]) not in running.studies()
    many = study_of(4)
    with association(running.port) as opened:
        assert [status_of(opened, ds) for ds in many] == [0, 0, 0, 0xA700]
    running.wait_for(f"answered {key_of(many)} of 3")


def test_an_aborted_association_loses_no_object_that_was_taken(running):
    sent = study_of(2)
    with association(running.port) as opened:
        assert status_of(opened, sent[0]) == 0x0000
        opened.abort()
    running.wait_for(f"answered {key_of(sent)} of 1")


def test_it_says_nothing_of_a_person(running):
    said = "\n".join(running.said)
    assert "complete" in said
    assert "SECRET" not in said.upper() and "1.2.826" not in said and "Traceback" not in said


def test_what_was_received_before_a_stop_is_answered_after_it(tmp_path):
    sent = study_of(2)

    with program(tmp_path, quiet=60) as first, association(first.port) as opened:
        assert [status_of(opened, ds) for ds in sent] == [0, 0]
        # Strangers: one wants to send 100 MB at once, one falls silent in the middle of a word.
        with socket.create_connection(("127.0.0.1", first.port), 10) as greedy:
            greedy.sendall(struct.pack(">BBL", 1, 0, 100_000_000))
            assert greedy.recv(1) == b""
        with socket.create_connection(("127.0.0.1", first.port), 10) as silent:
            silent.sendall(struct.pack(">BBL", 1, 0, 200) + b"half")
            status, seconds = first.stop(signal.SIGTERM)  # with associations open
        assert status == 143 and seconds < 10
    with program(tmp_path) as second:
        second.wait_for(f"answered {key_of(sent)} of 2")
        time.sleep(0.3)
        assert second.stop(signal.SIGINT)[0] == 130


def stored(spool, count=1, study=None, size=1000):
    study = study or generate_uid()
    done = [spool.store(bytes(size), study, generate_uid()) for _ in range(count)]
    return study, done


def test_results_are_kept_until_they_are_taken(tmp_path, pacs, capsys):
    port, received = pacs
    received.clear()
    result = saved(tmp_path / "results", study_of(1, SOPClassUID=Comprehensive3DSRStorage))
    path = result / "0.dcm"
    with Spool(tmp_path / "spool", PUBLIC_KEY, Limits()) as spool:
        stored(spool)
        (study,) = spool.complete(0.0)
        spool.answered(study, spool.images(study), [path])
        deaf = SendBack(spool, Peer("PACS", "127.0.0.1", 9), "DTVIT")
        deaf.send_due()
        assert spool.unsent() == {study.name: [path]}
        assert "next try in 5 s" in capsys.readouterr().out
    with Spool(tmp_path / "spool", PUBLIC_KEY, Limits()) as spool:  # started again
        SendBack(spool, Peer("PACS", "127.0.0.1", port), "DTVIT").send_due()
        assert spool.unsent() == {} and len(received) == 1


def test_room_is_made_by_what_was_answered_and_sent_and_by_nothing_else(tmp_path):
    limits = Limits(spool_bytes=4500)
    with Spool(tmp_path, PUBLIC_KEY, limits, keep_seconds=-1.0) as spool:
        for _ in range(4):
            stored(spool)
        answered, unsent, *waiting = spool.complete(0.0)
        assert stored(spool)[1] == [Stored.NO_ROOM]
        spool.answered(answered, spool.images(answered), [])
        spool.answered(unsent, spool.images(unsent), [tmp_path / "sr.dcm"])
        assert stored(spool)[1] == [Stored.NEW]
        assert stored(spool)[1] == [Stored.NO_ROOM]
        left = {path.name for path in (tmp_path / "studies").iterdir()}
        assert answered.name not in left and {unsent.name, *(w.name for w in waiting)} <= left
        spool.sent(unsent.name, [tmp_path / "sr.dcm"])
        spool.expire()  # kept for no time
        assert unsent.name not in {path.name for path in (tmp_path / "studies").iterdir()}
        assert [path.name for path in spool.complete(0.0)][:2] == [w.name for w in waiting]


def test_a_spool_has_one_listener_and_starts_where_it_was(tmp_path):
    with Spool(tmp_path, PUBLIC_KEY, Limits(study_bytes=2500)) as spool:
        study, done = stored(spool, 3)
        assert done == [Stored.NEW, Stored.NEW, Stored.NO_ROOM]
        with pytest.raises(InputError, match="another listener"):
            Spool(tmp_path, PUBLIC_KEY, Limits())
        assert spool.complete(60.0) == []
    (tmp_path / "incoming/.draft-1-x.dcm").write_bytes(b"half")
    with Spool(tmp_path, PUBLIC_KEY, Limits(spare_bytes=2**60)) as spool:
        assert list((tmp_path / "incoming").iterdir()) == []
        (folder,) = spool.complete(0.0)
        assert folder.name == Pseudonyms(PUBLIC_KEY).study(study)
        assert len(spool.images(folder)) == 2
        assert stored(spool)[1] == [Stored.NO_ROOM]  # the disk is nearly full


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--listen", "0"], "--callers"),
        (["--listen", "0", "--callers", "A,B\\C"], "AE title"),
        (["--listen", "0", "--callers", "A", "--send_to", "PACS:104"], "AET@host:port"),
        (["--listen", "0", "--callers", "A", "--spool_gib", "0"], "--spool_gib"),
        (["--listen", "0", "--callers", "A", "--bind", "192.0.2.1"], "192.0.2.1"),
        (["--listen", "99999", "--callers", "A"], "99999"),
    ],
)
def test_wrong_flags_are_one_clear_line(flags, words, tmp_path):
    import argparse

    top = argparse.ArgumentParser()
    top.add_argument("--out", type=Path, default=tmp_path)
    add_flags(top)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        listen(top.parse_args(flags), PUBLIC_KEY, lambda study: [])
    assert "\n" not in str(caught.value)


def test_a_peer_is_read_from_its_text():
    assert read_peer("PACS@[::1]:104") == Peer("PACS", "::1", 104)


def test_predict_listens_answers_and_sends_back(tmp_path, pacs):
    from dtvit_jax.dicom.write import PHANTOM
    from tests.helpers.model_folder import save_model

    port, received = pacs
    received.clear()
    save_model(tmp_path / "run")
    sent = [
        ct(np.rot90(head_hu(), i).copy(), StudyInstanceUID="1.2.3.4", SOPInstanceUID=f"1.2.3.4.{i}",
           PatientName="Secret^Person", PatientID="SECRET1", ImagePositionPatient=[-30, -30, 5 * i])
        for i in range(4)
    ]  # fmt: skip
    flags = ["--listen", "0", "--callers", "KNOWN", "--send_to", f"PACS@127.0.0.1:{port}"]
    flags += ["--quiet", "0.5", "--key", "public", "--jobs", "1"]
    flags += ["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "dtvit_jax.predict", *flags]
    with started(command, tmp_path / "out") as running:
        folder = saved(tmp_path / "scan", sent)
        send = ("-aet", "KNOWN", "-aec", "DTVIT", "127.0.0.1", running.port, "+sd", folder)
        assert tool("storescu", *send).returncode == 0
        running.wait_for("2 results sent", 90)
        assert running.stop(signal.SIGINT)[0] == 130
    key = key_of(sent)
    told = json.loads((tmp_path / "out/studies" / key / "results.json").read_text())["study"]
    report, capture = received
    assert report.StudyInstanceUID == capture.StudyInstanceUID == "1.2.3.4"
    group = report.ContentSequence[-1].ContentSequence[0]
    numbers = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    stated = float(numbers[0].MeasuredValueSequence[0].FloatingPointValue)
    assert stated == told["p_hemorrhage"]
    comments = [item.TextValue for item in group.ContentSequence if item.ValueType == "TEXT"]
    assert PHANTOM in comments
    assert capture.NumberOfFrames == 4
    assert "SECRET" not in "\n".join(running.said).upper()
