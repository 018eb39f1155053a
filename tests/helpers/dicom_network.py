"""A running listener, an archive for results, and clients that send to them."""

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from tests.helpers import ROOT
from tests.helpers.dicom_files import ct

QUIET = 0.7


def tool(name, *args):
    """Runs one of dcmtk's clients."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} (Debian's dcmtk) is not installed")
    return subprocess.run([name, *map(str, args)], capture_output=True, text=True, timeout=60)


class Program:
    """A running listener: its port, its folder, and the lines that it printed."""

    def __init__(self, command, out):
        self.out = out
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
            },
        )
        self.printed, self._lines = [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(re.search(r":(\d+)$", self.wait_for("listens on", 60))[1])

    def _read(self):
        for line in self.process.stdout:
            self.printed.append(line.rstrip())
            self._lines.put(line.rstrip())

    def wait_for(self, text, seconds=20):
        """The next line with `text` in it."""
        ends = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, ends - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {text!r} in {self.printed}") from None
            if text in line:
                return line

    def stop(self, number=signal.SIGTERM):
        """Sends a signal; returns the exit status and the seconds until it ended."""
        since = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(20), time.monotonic() - since

    def studies(self):
        return {each.name: each for each in (self.out / "spool/studies").iterdir()}


def program(out, **settings):
    """Starts `listening_program` with these settings."""
    text = json.dumps({"out": str(out), "quiet": QUIET} | settings)
    return started([sys.executable, "-m", "tests.helpers.listening_program", text], out)


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
    """A second listener, which accepts results; yields its port and the objects received."""
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
