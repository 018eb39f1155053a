"""A run goes on from the journal of the last one, to the same bytes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import pytest

from data_builder.cleaning.journal import NAME
from data_builder.dicom.header import PHANTOM_MARKS
from data_builder.records import pixel_digest
from tests.helpers import ROOT
from tests.helpers.dicom_files import ct, encoded, head_hu
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
    for i, line in enumerate(lines):
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


def overwrite(path, ds):
    """Writes other bytes of the same number into a file, which keeps its times."""
    before = path.stat()
    data = encoded(ds)
    assert len(data) == before.st_size and data != path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def assert_images_are_those_of_the_manifest(out):
    rows = read_table(out)
    for row in rows:
        image = cv2.imread(str(out / row["image"]), cv2.IMREAD_UNCHANGED)
        assert pixel_digest(image) == row["digest"]
    assert len(list(out.glob("images/*/*"))) == len(rows) > 0


def test_other_pixels_under_the_same_uid_size_and_times_are_cleaned_anew(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    twin = ct(SOPInstanceUID="1.2.77")
    changed = put(src, "visit/9", twin)
    clean(src, out)
    overwrite(changed, ct(head_hu() + 9, SOPInstanceUID="1.2.77"))
    summary = clean(src, out)
    assert summary.skipped == 4 and "nothing to do" not in str(summary)
    clean(src, tmp_path / "new")
    assert read_table(out) == read_table(tmp_path / "new")
    assert_images_are_those_of_the_manifest(out)
    assert clean(src, out).unchanged


def test_other_times_alone_are_no_change(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    clean(src, out)
    for path in src.rglob("0*"):
        os.utime(path, (time.time() + 5, time.time() + 5))
    assert "nothing to do" in str(clean(src, out))


def test_files_that_are_gone_leave_the_folder_and_that_is_no_nothing_to_do(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    (src / "notes.txt").write_text("words")
    clean(src, out)
    (src / "visit" / "002").unlink()
    summary = clean(src, out)
    assert (summary.slices, summary.skipped) == (3, 4) and "nothing to do" not in str(summary)
    assert_images_are_those_of_the_manifest(out)
    (src / "notes.txt").unlink()
    assert "nothing to do" not in str(clean(src, out)) and all_listed(src, out)
    assert "nothing to do" in str(clean(src, out))


@pytest.mark.parametrize("content", [b"other bytes", None])
def test_an_image_that_was_changed_or_removed_is_written_again(tmp_path, content):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    clean(src, out)
    before = contents(out)
    image = next(out.glob("images/*/*"))
    image.unlink() if content is None else image.write_bytes(content)
    summary = clean(src, out)
    assert summary.skipped == 3 and "nothing to do" not in str(summary)
    assert contents(out) == before


def test_where_the_first_of_two_duplicates_is_gone_the_second_gets_its_own_pixels(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put(src, "first", ct(SOPInstanceUID="1.2.77"))
    put(src, "second", ct(head_hu() + 9, SOPInstanceUID="1.2.77"))
    clean(src, out)
    assert_images_are_those_of_the_manifest(out)
    (src / "first").unlink()
    clean(src, out)
    assert_images_are_those_of_the_manifest(out)
    clean(src, tmp_path / "new")
    assert contents(out) == contents(tmp_path / "new")


def test_the_journal_of_an_earlier_version_is_cleaned_again_once(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    clean(src, out)
    before = contents(out)
    head, *lines = (out / ".journal.jsonl").read_text().splitlines()
    earlier = [json.loads(line) for line in lines]
    for values in earlier:
        del values["content"], values["images"]
    text = "\n".join([head, *map(json.dumps, earlier), '"the end"']) + "\n"
    (out / ".journal.jsonl").write_text(text)
    assert clean(src, out).skipped == 0
    assert contents(out) == before and "nothing to do" in str(clean(src, out))


def test_no_hash_in_the_journal_confirms_a_guess_at_a_file(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    put(src, "notes.txt", b"Jane Doe")
    clean(src, out)
    guess = hashlib.sha256(b"Jane Doe")
    assert guess.hexdigest().encode() not in (out / ".journal.jsonl").read_bytes()
    assert guess.hexdigest()[:32].encode() not in (out / ".journal.jsonl").read_bytes()


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
