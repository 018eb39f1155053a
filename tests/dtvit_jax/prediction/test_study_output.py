"""A study is done before only if all that its answer depends on is as it was."""

import json
import os
import shutil
import time

import jax
import numpy as np
import pytest

from data_builder.cleaning.clean_folder import clean_folder
from dtvit_jax.runs import evaluated_weights
from tests.helpers.dicom_files import encoded
from tests.helpers.model_folder import MODEL, save_model
from tests.helpers.source_folder import contents
from tests.helpers.studies import head, run, table, write


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's folder and its weights."""
    folder = tmp_path_factory.mktemp("models") / "run"
    return folder, save_model(folder)


@pytest.fixture(scope="module")
def model(saved):
    return saved[0]


@pytest.fixture
def answer(model, tmp_path, capsys):
    """Answers PATH into an OUT and returns the last line."""

    def answer(path, out="out", *words, workdir=model):
        assert run(path, "--workdir", workdir, "--out", tmp_path / out, *words) == 0
        return capsys.readouterr().out.splitlines()[-1]

    return answer


def overwrite(path, data):
    """Writes other bytes of the same number into a file, which keeps its times."""
    before = path.stat()
    assert len(data) == before.st_size and data != path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_pixels(source):
    ds = head(1)
    ds.PixelData = np.roll(ds.pixel_array, 3).tobytes()
    overwrite(source / "Jane Doe 01.dcm", encoded(ds))


def fewer_files(source):
    for i in (0, 2):
        (source / f"Jane Doe {i:02d}.dcm").unlink()


def another_patient(source):
    for i in range(4):
        (source / f"Jane Doe {i:02d}.dcm").write_bytes(encoded(head(i, patient="B17")))


def another_first_duplicate(source):
    """Swaps the names of two files of one UID with other pixels: the first by path is answered."""
    (source / "Jane Doe 01.dcm").rename(source / "moved")
    (source / "again.dcm").rename(source / "Jane Doe 01.dcm")
    (source / "moved").rename(source / "again.dcm")


@pytest.mark.parametrize(
    "change", [other_pixels, fewer_files, another_patient, another_first_duplicate]
)
def test_other_files_give_the_answer_that_a_new_out_gets(answer, model, tmp_path, change):
    source, out = write(tmp_path / "study", [head(i) for i in range(4)]), tmp_path / "out"
    status = 0
    if change is another_first_duplicate:
        ds = head(1)
        ds.PixelData = np.roll(ds.pixel_array, 3).tobytes()
        (source / "again.dcm").write_bytes(encoded(ds))
        status = 1  # the duplicate is refused
    assert run(source, "--workdir", model, "--out", out) == status
    before = contents(out)
    change(source)
    assert run(source, "--workdir", model, "--out", out) == status
    assert run(source, "--workdir", model, "--out", tmp_path / "new") == status
    assert contents(out) == contents(tmp_path / "new") and contents(out) != before


def test_other_times_and_copies_of_its_files_alone_are_done_before(answer, tmp_path):
    source = write(tmp_path / "study", [head(i) for i in range(4)])
    answer(source)
    before = contents(tmp_path / "out")
    for path in source.iterdir():
        os.utime(path, (time.time() + 5, time.time() + 5))
        shutil.copy(path, source / f"again {path.name}")
    assert "1 done before" in answer(source)
    assert contents(tmp_path / "out") == before


def test_another_cleaned_image_is_answered_again(answer, tmp_path):
    write(tmp_path / "src", [head(i) for i in range(4)])
    clean_folder(tmp_path / "src", tmp_path / "cleaned", key="public", jobs=1)
    images = next((tmp_path / "cleaned" / "images").iterdir())
    answer(images)
    assert "1 done before" in answer(images)
    one, other, *_ = sorted(images.iterdir())
    before = one.stat()
    one.write_bytes(other.read_bytes())
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "done before" not in answer(images)
    answer(images, "new")
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_a_cleaned_image_that_gets_or_loses_the_mark_of_a_phantom_is_answered_again(
    answer, tmp_path
):
    write(tmp_path / "src", [head(i) for i in range(4)])
    clean_folder(tmp_path / "src", tmp_path / "cleaned", key="public", jobs=1)
    images = next((tmp_path / "cleaned" / "images").iterdir())
    marked = table_after(answer, images, tmp_path)
    assert "1 done before" in answer(images)
    manifest, aside = tmp_path / "cleaned" / "manifest.csv", tmp_path / "aside"
    manifest.rename(aside)
    assert "no answer for" in table_after(answer, images, tmp_path)["reasons"]
    aside.rename(manifest)
    assert table_after(answer, images, tmp_path) == marked
    cleaning = tmp_path / "cleaned" / "cleaning.json"
    text = cleaning.read_text()
    cleaning.write_text(text.replace('"phantom_slices": 4', '"phantom_slices": 3'))
    assert "no answer for" in table_after(answer, images, tmp_path)["reasons"]


def table_after(answer, images, tmp_path):
    """The one row of results.csv after an answer."""
    assert "done before" not in answer(images)
    (row,) = table(tmp_path / "out" / "results.csv")
    return row


def other_weights(workdir, weights):
    """The same step and data set, as of a run that was trained again."""
    other = jax.tree.map(lambda x: x * 1.5, weights)
    evaluated_weights.write(workdir, MODEL, other, 3, "0123")


def other_training_slices(workdir, weights):
    path = workdir / "training_slices.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"distance": values["distance"] / 2}))


def other_transform(workdir, weights):
    path = workdir / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"mean": [value + 0.1 for value in values["mean"]]}))


@pytest.mark.parametrize("change", [other_weights, other_training_slices, other_transform])
def test_another_model_answers_again(answer, saved, tmp_path, change):
    model, weights = saved
    source = write(tmp_path / "study", [head(i) for i in range(3)])
    shutil.copytree(model, tmp_path / "run")
    answer(source, workdir=tmp_path / "run")
    change(tmp_path / "run", weights)
    assert "done before" not in answer(source, workdir=tmp_path / "run")
    answer(source, "new", workdir=tmp_path / "run")
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_dicom_objects_are_made_when_they_are_asked_for_and_leave_with_their_answer(
    answer, tmp_path
):
    source, objects = write(tmp_path / "study", [head(i) for i in range(3)]), tmp_path / "out/dicom"
    answer(source)
    assert not objects.exists()
    words = ["--dicom_out", "yes", "--explain", "none"]
    assert "done before" not in answer(source, "out", *words)
    assert "1 done before" in answer(source, "out", *words)
    assert len(list(objects.rglob("*.dcm"))) == 1
    assert "1 done before" in answer(source)  # an answer with objects does
    assert len(list(objects.rglob("*.dcm"))) == 1
    (source / "Jane Doe 00.dcm").unlink()
    answer(source)
    assert not list(objects.rglob("*.dcm"))  # they were of another answer


@pytest.mark.parametrize("name", ["report.html", "files.csv", "results.json", "sr.dcm"])
def test_a_file_that_was_removed_from_the_answer_is_written_again(answer, tmp_path, name):
    source, out = write(tmp_path / "study", [head(i) for i in range(3)]), tmp_path / "out"
    words = ["--dicom_out", "yes", "--explain", "none"]
    answer(source, "out", *words)
    (path,) = out.rglob(f"stu-*/{name}")
    path.unlink()
    assert "done before" not in answer(source, "out", *words)
    assert path.exists() and "1 done before" in answer(source, "out", *words)


@pytest.mark.parametrize("instances", [[[]], [1], {"a": 1}, None])
def test_a_damaged_list_of_images_is_answered_again(answer, tmp_path, instances):
    source = write(tmp_path / "study", [head(i) for i in range(3)])
    answer(source)
    (path,) = (tmp_path / "out").glob("studies/*/.state.json")
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"instances": instances}))
    assert "done before" not in answer(source)
    assert path.read_text() == before


def test_the_state_of_an_earlier_version_is_answered_again_once(answer, tmp_path, capsys):
    source = write(tmp_path / "study", [head(i) for i in range(3)])
    answer(source)
    (path,) = (tmp_path / "out").glob("studies/*/.state.json")
    before = path.read_text()
    state = json.loads(before)
    del state["of"]["model"], state["of"]["dicom"]
    state["instances"] = [[name, 9000] for name, *_ in state["instances"]]
    path.write_text(json.dumps(state))
    assert "done before" not in answer(source)
    assert "damaged" not in capsys.readouterr().err
    assert path.read_text() == before and "1 done before" in answer(source)
    assert len(table(tmp_path / "out" / "results.csv")) == 1
