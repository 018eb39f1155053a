import pytest

from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY
from dtvit_jax import predict
from dtvit_jax.prediction.session import Session, Settings
from dtvit_jax.prediction.watch import Watch, watch
from tests.helpers.model_folder import save_model
from tests.helpers.studies import head, table, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder)
    return folder


def session(model, out):
    return Session(
        Settings(model, out, "sensitivity_0.95", 4, 1, PUBLIC_KEY, "public", dicom=False)
    )


def rounds(session, watched, n, on_finished):
    """As `watch` for `n` polls."""
    left = iter(range(n))
    watch(session, watched, on_finished, poll_seconds=0.0, stop=lambda: next(left, None) is None)


def test_a_study_is_quiet_when_nothing_of_it_came_for_a_while(tmp_path):
    place = tmp_path / "in"
    write(place / "a", [head(i, "a") for i in range(2)])
    watched = Watch(place, PUBLIC_KEY, 1, quiet_seconds=10.0)
    assert watched.poll(0.0) == ([], [])  # just found: it may still be written
    assert watched.poll(1.0) == ([], [])
    write(place / "b", [head(0, "b")])
    (place / ".hidden").write_text("half")
    (place / "notes.txt").write_text("a text")
    studies, strays = watched.poll(10.0)
    assert [len(study.files) for study in studies] == [2] and not strays
    watched.poll(11.0)
    studies, strays = watched.poll(20.0)
    assert len(studies) == 2 and len(strays) == 1
    (place / "a" / "more.dcm").write_bytes((place / "b" / "Jane Doe 00.dcm").read_bytes())
    assert [len(s.files) for s in watched.poll(21.0)[0]] == [2, 1]
    watched.poll(22.0)
    studies, _ = watched.poll(23.0)  # it is of b, which is restless again
    assert [len(study.files) for study in studies] == [2]
    assert sorted(len(study.files) for study in watched.poll(31.0)[0]) == [2, 2]


def test_each_study_is_answered_once_also_when_it_comes_again_and_after_a_restart(model, tmp_path):
    place, out = tmp_path / "in", tmp_path / "out"
    write(place / "a", [head(i, "a") for i in range(3)])
    (place / "notes.txt").write_text("a text")
    told = []
    with session(model, out) as one:
        watched = Watch(place, PUBLIC_KEY, 1, 0.0)
        rounds(one, watched, 3, told.append)
        assert [each.key for each in told] == [told[0].key]
        assert [path.name for path in told[0].sources] == [
            f"Jane Doe {i:02d}.dcm" for i in range(3)
        ]
        write(place / "again", [head(i, "a") for i in range(3)])  # the same study, sent again
        write(place / "b", [head(i, "b") for i in range(3)])
        rounds(one, watched, 3, told.append)
    assert len(told) == 2 and len(table(out / "results.csv")) == 2
    reports = {path: path.stat().st_mtime_ns for path in out.glob("studies/*/report.html")}
    with session(model, out) as one:
        rounds(one, Watch(place, PUBLIC_KEY, 1, 0.0), 3, told.append)
        assert len(told) == 2
        write(place / "late", [head(7, "b")])
        rounds(one, Watch(place, PUBLIC_KEY, 1, 0.0), 3, told.append)
    assert len(told) == 3 and len(told[2].answer.slices) == 4 and told[2].key == told[1].key
    after = {path: path.stat().st_mtime_ns for path in out.glob("studies/*/report.html")}
    assert sum(after[path] != reports[path] for path in reports) == 1
    assert [row["reason"] for row in table(out / "files.csv")].count("not DICOM") == 1


def test_who_waits_is_told_after_a_kill_too_and_nothing_is_answered_twice(model, tmp_path):
    place, out = tmp_path / "in", tmp_path / "out"
    write(place, [head(i, "a") for i in range(3)])

    def killed(finished):
        raise KeyboardInterrupt

    with session(model, out) as one, pytest.raises(KeyboardInterrupt):
        rounds(one, Watch(place, PUBLIC_KEY, 1, 0.0), 3, killed)
    (report,) = out.glob("studies/*/report.html")
    written = report.stat().st_mtime_ns
    # And one that was killed while it wrote: neither draft counts.
    (out / "studies" / ".draft-stu-x").mkdir()
    report.parent.rename(out / "studies" / f".old-{report.parent.name}")
    told = []
    with session(model, out) as one:
        rounds(one, Watch(place, PUBLIC_KEY, 1, 0.0), 3, told.append)
    assert len(told) == 1 and told[0].before and len(told[0].sources) == 3
    assert report.stat().st_mtime_ns == written
    assert [path.name for path in (out / "studies").iterdir()] == [report.parent.name]


def test_the_command_watches_until_ctrl_c(model, tmp_path, monkeypatch, capsys):
    place, out = tmp_path / "in", tmp_path / "out"
    write(place, [head(i, "a") for i in range(3)])
    polls = iter(range(4))

    def sleep(seconds):
        if next(polls, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("dtvit_jax.prediction.watch.time.sleep", sleep)
    words = ["--watch", place, "--workdir", model, "--out", out, "--quiet", "0.001"]
    assert predict.main([*map(str, words), "--key", "public", "--jobs", "1"]) == 130
    assert len(table(out / "results.csv")) == 1
    with pytest.raises(InputError, match="does not exist"):
        Watch(tmp_path / "none", PUBLIC_KEY, 1, 0.0)
