"""Studies come over the network, are answered once, and results go back; strangers are refused."""

import contextlib
import copy
import json
import re
import signal
import socket
import stat
import struct
import sys
import time
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, MRImageStorage

pytest.importorskip("pynetdicom")
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from data_builder.dicom.header import PHANTOM_MARKS
from dtvit_jax import predict
from dtvit_jax.dicom.write import PHANTOM
from tests.helpers.dicom_files import ct, head_hu
from tests.helpers.dicom_network import (
    QUIET,
    archive,
    association,
    key_of,
    program,
    saved,
    started,
    status_of,
    study_of,
    tool,
)
from tests.helpers.model_folder import save_model


@pytest.fixture(scope="module")
def pacs():
    with archive() as port_and_received:
        yield port_and_received


@pytest.fixture(scope="module")
def running(tmp_path_factory, pacs):
    limits = {"object_bytes": 300_000, "study_objects": 3}
    out = tmp_path_factory.mktemp("listening")
    with program(out, send_to=f"PACS@127.0.0.1:{pacs[0]}", limits=limits) as listener:
        yield listener


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
    # As received, under pseudonyms, readable by the owner only.
    stored = running.studies()[key]
    assert stat.S_IMODE(stored.stat().st_mode) == 0o700
    objects = [pydicom.dcmread(path) for path in stored.iterdir()]
    assert sorted(ds.SOPInstanceUID for ds in objects) == sorted(ds.SOPInstanceUID for ds in sent)
    assert {ds.PixelData for ds in objects} == {sent[0].PixelData}
    assert all(re.fullmatch(r"sli-[a-z2-7]{16}\.dcm", path.name) for path in stored.iterdir())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in stored.iterdir())
    # The same study again is accepted and ignored.
    assert tool("storescu", *send).returncode == 0
    time.sleep(QUIET + 1.2)
    assert sum("answered" in line for line in running.printed if key in line) == 1
    # A late image is answered together with the earlier ones.
    late = study_of(1, StudyInstanceUID=sent[0].StudyInstanceUID)
    with association(running.port) as opened:
        assert status_of(opened, late[0]) == 0x0000
    running.wait_for(f"answered {key} of 3")
    running.wait_for(f"{key}: 2 results sent")


def test_objects_other_than_ct_are_refused_with_a_status(running):
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


def test_an_object_above_the_limits_is_refused_and_the_listener_continues(running, tmp_path):
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


def test_an_aborted_association_loses_no_accepted_object(running):
    sent = study_of(2)
    with association(running.port) as opened:
        assert status_of(opened, sent[0]) == 0x0000
        opened.abort()
    running.wait_for(f"answered {key_of(sent)} of 1")


def test_other_pixels_of_the_same_uid_replace_the_first_and_are_answered(running):
    sent = study_of(1)
    key, changed = key_of(sent), copy.deepcopy(sent[0])
    changed.PixelData = bytes(len(changed.PixelData))
    with association(running.port) as opened:
        assert status_of(opened, sent[0]) == 0x0000
        running.wait_for(f"answered {key} of 1")
        running.wait_for(f"{key}: 2 results sent")
        assert status_of(opened, changed) == 0x0000
        running.wait_for("an object replaced an earlier one")
        running.wait_for(f"answered {key} of 1")
        running.wait_for(f"{key}: 2 results sent")
        (stored,) = running.studies()[key].iterdir()
        assert pydicom.dcmread(stored).PixelData == changed.PixelData


def test_malformed_values_are_not_repeated(running, monkeypatch):
    """As in messages of libraries on values that their own rules forbid."""
    for mode in ("reading_validation_mode", "writing_validation_mode"):
        monkeypatch.setattr(pydicom.config.settings, mode, pydicom.config.IGNORE)
    forbidden = [
        {"SOPInstanceUID": "1.2.826.0.01.SECRET"},
        {"SOPInstanceUID": "1.2.826.007", "StudyInstanceUID": "1.2.826.008"},
        {"StudyInstanceUID": "1.2.826.9.SECRET!", "PatientAge": "SECRETAGE"},
        {"PatientBirthDate": "SECRETDATE", "StudyDate": "20SECRET", "StudyID": "SECRET" * 9},
        {"Modality": "SECRET" * 9},
    ]
    for changes in forbidden:
        (ds,) = study_of(1, **changes)
        with association(running.port) as opened:
            status = status_of(opened, ds)
        if status == 0:
            running.wait_for(f"{key_of([ds])}: complete")
    (ds,) = study_of(1)
    with association(running.port) as opened:
        assert status_of(opened, ds) == 0
    running.wait_for(f"{key_of([ds])}: 2 results sent")
    printed = "\n".join(running.printed).upper()
    assert "SECRET" not in printed and "1.2.826" not in printed


def test_nothing_of_a_patient_is_printed_or_logged(running):
    """The program of these tests prints every library's log, debug messages too."""
    printed = "\n".join(running.printed)
    assert "complete" in printed and "DEBUG" in printed
    assert "SECRET" not in printed.upper()
    assert "1.2.826" not in printed and "Traceback" not in printed


def test_a_study_received_before_a_stop_is_answered_after_the_restart(tmp_path):
    sent = study_of(2)

    with program(tmp_path, quiet=60) as first, association(first.port) as opened:
        assert [status_of(opened, ds) for ds in sent] == [0, 0]
        # Strangers: one announces a PDU of 100 MB, one falls silent within a PDU.
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
def test_wrong_flags_are_one_clear_line(flags, words, tmp_path, monkeypatch, capsys):
    session = contextlib.nullcontext(SimpleNamespace(answer_folder=lambda study: []))
    monkeypatch.setattr(predict, "_session", lambda args, key: session)
    places = ["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert predict.main([*flags, *places, "--key", "public"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_predict_listens_answers_and_sends_back(tmp_path, pacs):
    port, received = pacs
    received.clear()
    save_model(tmp_path / "run")
    sent = [
        ct(np.rot90(head_hu(), i).copy(), StudyInstanceUID="1.2.3.4", SOPInstanceUID=f"1.2.3.4.{i}",
           PatientName="Secret^Person", PatientID="SECRET1", ImagePositionPatient=[-30, -30, 5 * i],
           **PHANTOM_MARKS)
        for i in range(4)
    ]  # fmt: skip
    scan = [ct(StudyInstanceUID="1.2.3.5", SOPInstanceUID=f"1.2.3.5.{i}") for i in range(3)]
    flags = ["--listen", "0", "--callers", "KNOWN", "--send_to", f"PACS@127.0.0.1:{port}"]
    flags += ["--quiet", "0.5", "--key", "public", "--jobs", "1"]
    flags += ["--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "dtvit_jax.predict", *flags]
    with started(command, tmp_path / "out") as running:
        folder = saved(tmp_path / "scan", sent)
        send = ("-aet", "KNOWN", "-aec", "DTVIT", "127.0.0.1", running.port, "+sd", folder)
        assert tool("storescu", *send).returncode == 0
        running.wait_for("2 results sent", 90)
        send = (*send[:-1], saved(tmp_path / "another", scan))
        assert tool("storescu", *send).returncode == 0
        running.wait_for(f"{key_of(scan)}: 2 results sent", 90)
        assert running.stop(signal.SIGINT)[0] == 130
    key = key_of(sent)
    answer = json.loads((tmp_path / "out/studies" / key / "results.json").read_text())["study"]
    report, capture, *of_scan = received
    assert report.StudyInstanceUID == capture.StudyInstanceUID == "1.2.3.4"
    group = report.ContentSequence[-1].ContentSequence[0]
    numbers = [item for item in group.ContentSequence if item.ValueType == "NUM"]
    stated = float(numbers[0].MeasuredValueSequence[0].FloatingPointValue)
    assert stated == answer["p_hemorrhage"]
    comments = [item.TextValue for item in group.ContentSequence if item.ValueType == "TEXT"]
    assert PHANTOM in comments
    assert capture.NumberOfFrames == 4
    assert "SECRET" not in "\n".join(running.printed).upper()
    # The model was trained on phantoms, and this is none.
    assert [ds.StudyInstanceUID for ds in of_scan] == 2 * ["1.2.3.5"]
    (group,) = of_scan[0].ContentSequence[-1].ContentSequence
    reasons = [item.TextValue for item in group.ContentSequence if item.ValueType == "TEXT"]
    assert any("it has no answer for 3 of 3 slices" in reason for reason in reasons)
    assert f"{key_of(scan)}: uncertain (the model was trained" in "\n".join(running.printed)
