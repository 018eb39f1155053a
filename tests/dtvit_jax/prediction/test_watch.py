"""A watched folder: quiet studies are answered once, across restarts and kills."""

import os
import shutil

import numpy as np
import pytest

from data_builder.cleaning.clean_folder import clean_folder
from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from dtvit_jax import predict
from dtvit_jax.prediction.session import Session, Settings
from dtvit_jax.prediction.watch import Watch, watch
from tests.helpers.dicom_files import encoded
from tests.helpers.model_folder import save_model
from tests.helpers.source_folder import contents
from tests.helpers.studies import head, table, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder)
    return folder


@pytest.fixture
def lines(capsys):
    """Returns the lines on standard output since the last call."""
    return lambda: capsys.readouterr().out.splitlines()


def session(model, out):
    return Session(
        Settings(model, out, "sensitivity_0.95", 4, 1, PUBLIC_KEY, "public", dicom=False)
    )


def poll(session, watched, times):
    """Runs `watch` for so many polls."""
    left = iter(range(times))
    watch(session, watched, poll_seconds=0.0, stop=lambda: next(left, None) is None)


def test_a_study_is_quiet_when_nothing_of_it_came_for_a_while(tmp_path):
    incoming = tmp_path / "in"
    write(incoming / "a", [head(i, "a") for i in range(2)])
    watched = Watch(incoming, PUBLIC_KEY, 1, quiet_seconds=10.0)
    assert watched.poll(0.0) == ([], [])  # new files may still be written
    assert watched.poll(1.0) == ([], [])
    write(incoming / "b", [head(0, "b")])
    (incoming / ".hidden").write_text("half")
    (incoming / "notes.txt").write_text("a text")
    studies, strays = watched.poll(10.0)
    assert [len(study.files) for study in studies] == [2] and not strays
    watched.poll(11.0)
    studies, strays = watched.poll(20.0)
    assert len(studies) == 2 and len(strays) == 1
    (incoming / "a" / "more.dcm").write_bytes((incoming / "b" / "Jane Doe 00.dcm").read_bytes())
    assert [len(study.files) for study in watched.poll(21.0)[0]] == [2, 1]
    watched.poll(22.0)
    studies, _ = watched.poll(23.0)  # the new file belongs to b, which is not quiet any more
    assert [len(study.files) for study in studies] == [2]
    assert sorted(len(study.files) for study in watched.poll(31.0)[0]) == [2, 2]


def test_a_study_that_changes_or_loses_files_is_not_quiet_and_never_offered_in_part(tmp_path):
    incoming = tmp_path / "in"
    write(incoming, [head(i, "a") for i in range(3)])
    watched = Watch(incoming, PUBLIC_KEY, 1, quiet_seconds=10.0)
    offered = {}
    changes = {
        20.0: lambda: (incoming / "Jane Doe 01.dcm").write_bytes(encoded(head(5, "a"))),
        40.0: (incoming / "Jane Doe 00.dcm").unlink,
        45.0: (incoming / "Jane Doe 01.dcm").unlink,
    }
    for second in range(60):
        changes.get(float(second), lambda: None)()
        studies, _ = watched.poll(float(second))
        offered[second] = [len(study.files) for study in studies]
    quiet = {second: files for second, files in offered.items() if files}
    assert quiet == {s: [3] for s in [*range(10, 20), *range(30, 40)]} | {
        s: [1] for s in range(55, 60)
    }


def overwrite(path, data):
    """Writes other bytes of the same number into a file, which keeps its times."""
    before = path.stat()
    assert len(data) == before.st_size and data != path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_rewrite_of_equal_size_and_files_that_go_are_answered_and_new_times_are_not(
    model, tmp_path, lines
):
    incoming, out = tmp_path / "in", tmp_path / "out"
    write(incoming, [head(i, "a") for i in range(3)])
    of_another_study = encoded(head(0, "b"))
    (incoming / "notes.txt").write_bytes(b"a" * len(of_another_study))
    with session(model, out) as watching:
        watched = Watch(incoming, PUBLIC_KEY, 1, 0.0)

        def answered_as_new(name):
            poll(watching, watched, 3)
            with session(model, tmp_path / name) as other:
                poll(other, Watch(incoming, PUBLIC_KEY, 1, 0.0), 3)
            assert contents(out) == contents(tmp_path / name)

        poll(watching, watched, 3)
        ds = head(1, "a")
        ds.PixelData = np.roll(ds.pixel_array, 3).tobytes()
        overwrite(incoming / "Jane Doe 01.dcm", encoded(ds))
        answered_as_new("rewritten")
        (incoming / "Jane Doe 00.dcm").unlink()
        answered_as_new("gone")
        assert len(lines()) == 5 and table(out / "results.csv")[0]["slices"] == "2"
        overwrite(incoming / "notes.txt", of_another_study)
        answered_as_new("another study")
        assert {row["use"] for row in table(out / "files.csv")} == {"used"}
        lines()
        before = contents(out)
        for path in incoming.iterdir():
            os.utime(path)
        poll(watching, watched, 3)
        assert lines() == [] and contents(out) == before


def test_cleaned_phantoms_are_answered_when_the_tables_that_mark_them_come(model, tmp_path, lines):
    write(tmp_path / "src", [head(i) for i in range(4)])
    clean_folder(tmp_path / "src", tmp_path / "cleaned", key="public", jobs=1)
    incoming, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(tmp_path / "cleaned" / "images", incoming / "images")
    polls = iter(range(12))

    def stop():
        number = next(polls, None)
        name = {3: "manifest.csv", 6: "cleaning.json"}.get(number)
        if name:
            shutil.copy(tmp_path / "cleaned" / name, incoming)
        return number is None

    with session(model, out) as watching:
        watch(watching, Watch(incoming, PUBLIC_KEY, 1, 0.0), poll_seconds=0.0, stop=stop)
    first, second = lines()
    assert "no answer for 4 of 4" in first and "no answer" not in second


def test_files_that_stay_as_they_are_are_not_read_at_every_poll(model, tmp_path, monkeypatch):
    incoming, out = tmp_path / "in", tmp_path / "out"
    write(incoming, [head(i, "a") for i in range(3)])
    (incoming / "notes.txt").write_text("a text")
    polls = iter(range(6))

    def never(*arguments):
        raise AssertionError("a settled file was read")

    def stop():
        number = next(polls, None)
        if number == 3:
            monkeypatch.setattr("dtvit_jax.prediction.watch.identify_all", never)
            monkeypatch.setattr("dtvit_jax.prediction.predictor.prepare_all", never)
            monkeypatch.setattr(Pseudonyms, "content", never)
        return number is None

    with session(model, out) as watching:
        watched = Watch(incoming, PUBLIC_KEY, 1, 0.0)
        watch(watching, watched, poll_seconds=0.0, stop=stop)
    assert len(table(out / "results.csv")) == 1


def test_what_changed_while_nobody_watched_is_answered_again(model, tmp_path, lines):
    incoming, out = tmp_path / "in", tmp_path / "out"
    write(incoming, [head(i, "a") for i in range(3)])
    with session(model, out) as first:
        poll(first, Watch(incoming, PUBLIC_KEY, 1, 0.0), 3)
    ds = head(1, "a")
    ds.PixelData = np.roll(ds.pixel_array, 3).tobytes()
    overwrite(incoming / "Jane Doe 01.dcm", encoded(ds))
    with session(model, out) as second:
        poll(second, Watch(incoming, PUBLIC_KEY, 1, 0.0), 3)
    one, other = lines()
    assert one.split(":")[0] == other.split(":")[0]


def test_each_study_is_answered_once_also_when_sent_again_and_after_a_restart(
    model, tmp_path, lines
):
    incoming, out = tmp_path / "in", tmp_path / "out"
    write(incoming / "a", [head(i, "a") for i in range(3)])
    (incoming / "notes.txt").write_text("a text")
    with session(model, out) as first:
        watched = Watch(incoming, PUBLIC_KEY, 1, 0.0)
        poll(first, watched, 3)
        (row,) = table(out / "results.csv")
        (line,) = lines()
        assert line.startswith(f"{row['study']}: ")
        used = [file for file in table(out / "files.csv") if file["use"] == "used"]
        assert [file["study"] for file in used] == 3 * [row["study"]]
        write(incoming / "again", [head(i, "a") for i in range(3)])  # the same study, sent again
        write(incoming / "b", [head(i, "b") for i in range(3)])
        poll(first, watched, 3)
    (line,) = lines()
    assert row["study"] not in line and len(table(out / "results.csv")) == 2
    reports = {path: path.stat().st_mtime_ns for path in out.glob("studies/*/report.html")}
    with session(model, out) as second:
        poll(second, Watch(incoming, PUBLIC_KEY, 1, 0.0), 3)
        assert lines() == []
        write(incoming / "late", [head(7, "b")])
        poll(second, Watch(incoming, PUBLIC_KEY, 1, 0.0), 3)
    (line_of_late,) = lines()
    assert line_of_late.split(":")[0] == line.split(":")[0]
    slices = {each["study"]: each["slices"] for each in table(out / "results.csv")}
    assert slices == {row["study"]: "3", line.split(":")[0]: "4"}
    after = {path: path.stat().st_mtime_ns for path in out.glob("studies/*/report.html")}
    assert sum(after[path] != reports[path] for path in reports) == 1
    assert [file["reason"] for file in table(out / "files.csv")].count("not DICOM") == 1


def test_after_a_kill_nothing_is_answered_twice_and_the_tables_are_whole(
    model, tmp_path, monkeypatch
):
    incoming, out = tmp_path / "in", tmp_path / "out"
    write(incoming, [head(i, "a") for i in range(3)])

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    # The study is on disk, its line and the tables are not.
    monkeypatch.setattr("dtvit_jax.prediction.session.print", killed, raising=False)
    monkeypatch.setattr("dtvit_jax.prediction.session.write_tables", killed)
    with session(model, out) as first, pytest.raises(KeyboardInterrupt):
        poll(first, Watch(incoming, PUBLIC_KEY, 1, 0.0), 3)
    monkeypatch.undo()
    (report,) = out.glob("studies/*/report.html")
    written = report.stat().st_mtime_ns
    # Another process was killed while it wrote: neither draft counts.
    (out / "studies" / ".draft-stu-x").mkdir()
    (out / ".draft-1-1-results.csv").write_text("half")
    report.parent.rename(out / "studies" / f".old-{report.parent.name}")
    with session(model, out) as second:
        poll(second, Watch(incoming, PUBLIC_KEY, 1, 0.0), 3)
    assert report.stat().st_mtime_ns == written
    assert [path.name for path in (out / "studies").iterdir()] == [report.parent.name]
    assert not list(out.glob(".draft*"))
    (row,) = table(out / "results.csv")
    assert row["study"] == report.parent.name and row["slices"] == "3"


def test_the_command_watches_until_ctrl_c(model, tmp_path, monkeypatch, capsys):
    incoming, out = tmp_path / "in", tmp_path / "out"
    write(incoming, [head(i, "a") for i in range(3)])
    polls = iter(range(4))

    def sleep(seconds):
        if next(polls, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("dtvit_jax.prediction.watch.time.sleep", sleep)
    words = ["--watch", incoming, "--workdir", model, "--out", out, "--quiet", "0.001"]
    assert predict.main([*map(str, words), "--key", "public", "--jobs", "1"]) == 130
    assert len(table(out / "results.csv")) == 1
    with pytest.raises(InputError, match="does not exist"):
        Watch(tmp_path / "none", PUBLIC_KEY, 1, 0.0)
