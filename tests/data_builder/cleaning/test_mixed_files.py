"""A hundred good, odd and broken files: each in one table, nothing said, however often killed."""

import signal
import subprocess
import sys
import time

import psutil

from tests.helpers.mixed_files import check, clean, contents, make_folder


def test_a_folder_of_all_sorts_goes_through_whole_and_killed(tmp_path):
    src = tmp_path / "src"
    make_folder(src, 110, seed=4, good=[], bombs=False)
    status, said = clean(src, tmp_path / "whole", jobs=2)
    counts = check(src, tmp_path / "whole", said)
    assert status == 1 and counts["used"] > 15 and len(counts) >= 7
    for after in (0.0, 0.3, 0.9):  # before its lock, at the start of work, in the middle of it
        killed(src, tmp_path / "killed", after)
    status, said = clean(src, tmp_path / "killed", jobs=1)
    assert status == 1 and check(src, tmp_path / "killed", said) == counts
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


def killed(src, out, after):
    """Kills a run so many seconds after its journal is there; nothing of it stays alive."""
    command = [sys.executable, "-m", "data_builder", "clean", src, "--out", out, "--key", "public"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while after and not (out / ".journal.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(after)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(family, timeout=20)[1]
