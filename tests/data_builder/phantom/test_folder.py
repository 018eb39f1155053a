"""A folder of phantoms is the same bytes however it was made, and holds nothing else."""

import csv
import shutil
import signal
import subprocess
import sys

import pytest

from data_builder.errors import InputError
from data_builder.phantom import plan, write_studies
from tests.helpers.phantoms import SEED, SUBJECTS
from tests.helpers.source_folder import contents
from tests.helpers.waiting import wait_until


def test_plan_has_every_class_in_ten_subjects_and_second_studies():
    for seed in range(5):
        visits = plan(40, seed)
        first = [v for v in visits if v.visit == 0]
        for start in range(0, 40, 10):
            block = [v.location for v in first[start : start + 10]]
            assert block.count(None) == 4
            assert all(block.count(x) == 2 for x in ("deep", "lobar", "subtentorial"))
        second = [v for v in visits if v.visit == 1]
        assert len(second) == 6 and all(v.location for v in second)  # 24 with a bleed, one in four
        assert plan(25, seed) == [v for v in visits if v.subject <= 25]


def test_the_bytes_do_not_depend_on_jobs_and_a_rerun_makes_nothing(folder, tmp_path):
    write_studies(tmp_path, SUBJECTS, SEED, jobs=1)
    assert contents(tmp_path) == contents(folder)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    counts = write_studies(tmp_path, SUBJECTS, SEED, jobs=1)
    assert counts.made == 0 and counts.studies == len(plan(SUBJECTS, SEED))
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")} == before


def test_a_rerun_makes_what_is_missing(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    lost = tmp_path / "out" / plan(SUBJECTS, SEED)[1].folder
    next(lost.glob("*.dcm")).unlink()
    assert write_studies(tmp_path / "out", SUBJECTS, SEED, jobs=1).made == 1
    assert contents(tmp_path / "out") == contents(folder)


def test_a_kill_leaves_no_labels_and_the_next_run_goes_on(folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from data_builder.phantom import write_studies\n"
        f"if __name__ == '__main__': write_studies(Path(sys.argv[1]), {SUBJECTS}, {SEED}, 1)"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    out = tmp_path / "out"
    command = [sys.executable, script, out]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    first = plan(SUBJECTS, SEED)[0].folder
    record = out / "phantom.json"
    # The kill comes while the second study is being made.
    wait_until(lambda: record.exists() and first in record.read_text(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "labels.csv").exists()
    whole = [d for d in out.iterdir() if d.is_dir() and not d.name.startswith(".")]
    assert 1 <= len(whole) < len(plan(SUBJECTS, SEED))
    for study in whole:
        assert {f.name for f in study.iterdir()} == {
            f.name for f in (folder / study.name).iterdir()
        }
    assert 1 <= write_studies(out, SUBJECTS, SEED, jobs=1).made < len(plan(SUBJECTS, SEED))
    assert contents(out) == contents(folder)


def test_a_folder_grows_but_is_never_taken_over(folder, tmp_path):
    out = tmp_path / "out"
    write_studies(out, 1, SEED, jobs=1)
    made = write_studies(out, 2, SEED, jobs=1).made
    assert made == len(plan(2, SEED)) - len(plan(1, SEED))
    rows = list(csv.DictReader((out / "labels.csv").open()))
    assert {row["study"] for row in rows} == {v.folder for v in plan(2, SEED)}
    kept = contents(out)
    for subjects, seed in ((1, SEED), (2, SEED + 1)):
        with pytest.raises(InputError, match="choose an empty folder"):
            write_studies(out, subjects, seed, jobs=1)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        write_studies(out, 2, SEED, jobs=1)
    assert contents(out) == kept | {"notes.txt": b"mine"}


@pytest.mark.parametrize(("subjects", "seed", "jobs"), [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_bad_numbers_are_refused(tmp_path, subjects, seed, jobs):
    with pytest.raises(InputError, match="phantom"):
        write_studies(tmp_path / "out", subjects, seed, jobs)
    assert not (tmp_path / "out").exists()


def test_a_file_for_a_folder_and_foreign_content_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path):
        with pytest.raises(InputError):
            write_studies(out, 1, 0, 1)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
