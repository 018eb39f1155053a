"""A hundred good, odd and broken files: each in one table, no name gets out, also after kills."""

import signal
import subprocess
import sys

import psutil

from tests.helpers.mixed_files import check, clean, key_file, make_folder
from tests.helpers.source_folder import contents
from tests.helpers.waiting import wait_until


def test_a_folder_of_all_sorts_is_cleaned_whole_and_after_kills(tmp_path):
    src = tmp_path / "src"
    make_folder(src, 110, seed=4, good=[], bombs=False)
    status, output = clean(src, tmp_path / "whole", jobs=2)
    counts = check(src, tmp_path / "whole", output)
    assert status == 1 and counts["used"] > 15 and len(counts) >= 7
    out = tmp_path / "killed"
    images = out / "images"
    kill(src, out, lambda: True)  # before it holds the lock
    kill(src, out, lambda: (out / ".journal.jsonl").exists())
    kill(src, out, lambda: len(list(images.glob("*/*"))) >= 5)  # in the middle of its work
    status, output = clean(src, out, jobs=1)
    assert status == 1 and check(src, out, output) == counts
    assert contents(tmp_path / "whole") == contents(out)


def kill(src, out, condition):
    """Kills a run once the condition holds; its workers end too."""
    command = [sys.executable, "-m", "data_builder", "clean", src, "--out", out]
    command += ["--key", key_file(src)]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(condition, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]
