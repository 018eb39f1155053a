"""A run goes on from the journal of the last one, to the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from data_builder.cleaning.journal import NAME
from data_builder.dicom.header import PHANTOM_MARKS
from tests.helpers import ROOT
from tests.helpers.dicom_files import ct, head_hu
from tests.helpers.source_folder import (
    PSEUDONYMS,
    all_listed,
    clean,
    contents,
    put,
    put_mixed,
    put_study,
    read_table,
)
from tests.helpers.waiting import wait_until


def test_jobs_do_not_change_a_byte_and_a_second_run_does_nothing(tmp_path):
    src = put_mixed(tmp_path / "src")
    (src / "d" / "gone").unlink()  # what can't be read is tried again every time
    clean(src, tmp_path / "one", jobs=1)
    clean(src, tmp_path / "two", jobs=3)
    before = contents(tmp_path / "one")
    assert before == contents(tmp_path / "two")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*.png")}
    again = clean(src, tmp_path / "one")
    assert again.skipped == again.used + again.refused and "nothing to do" in str(again)
    assert contents(tmp_path / "one") == before
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*.png")}


def test_files_whose_journal_lacks_a_field_are_cleaned_again(tmp_path):
    """The journal of an earlier version does not say which slices are phantoms."""
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src, **PHANTOM_MARKS)
    clean(src, out)
    before = contents(out)
    journal = out / NAME
    head, *lines = journal.read_text().splitlines()
    for i, line in enumerate(lines[:-1]):
        values = json.loads(line)
        for row in values["rows"]:
            del row["phantom"]
        lines[i] = json.dumps(values)
    journal.write_text("\n".join([head, *lines, ""]))
    assert clean(src, out).skipped == 0
    assert contents(out) == before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(tmp_path, how):
    src = tmp_path / "src"
    for k in range(30):
        put_study(src, f"v{k}", slices=8, patient=f"P{k}")
    program = (
        "import sys; from pathlib import Path; "
        "from data_builder.cleaning.clean_folder import clean_folder; "
        "clean_folder(Path(sys.argv[1]), Path(sys.argv[2]), jobs=1, key='public')"
    )
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(src), str(stopped)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(list(stopped.glob("images/*/*.png"))) >= 20, process)
    process.send_signal(how)
    process.wait(60)
    assert not (stopped / "manifest.csv").exists()
    clean(src, stopped)
    clean(src, tmp_path / "whole")
    assert contents(stopped) == contents(tmp_path / "whole")
    assert all_listed(src, stopped)


def test_what_changes_in_the_source_is_done_anew(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    clean(src, out)
    future = time.time() + 5
    replaced = put(src, "visit/001", ct(head_hu() + 9, SOPInstanceUID="1.2.77"))
    os.utime(replaced, (future, future))
    put(src, "late/1", ct(SOPInstanceUID="1.2.78"))
    summary = clean(src, out)
    assert summary.skipped == 3 and summary.slices == 5
    assert len(list(out.glob("images/*/*"))) == 5
    assert PSEUDONYMS.slice("1.2.77") in {row["key"] for row in read_table(out)}


def test_what_killed_runs_left_is_removed(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    clean(src, out)
    before = contents(out)
    study = next(out.glob("images/stu-*"))
    for path in (out / ".draft-7-1-manifest.csv", out / ".draft-7-1-.journal.jsonl"):
        path.write_text("x")
    # The last of these names is that of a draft of an earlier version.
    for name in (".draft-7-1-sli-a.png", "sli-a.png", ".sli-a.png.7"):
        (study / name).write_text("x")
    clean(src, out)
    assert contents(out) == before
