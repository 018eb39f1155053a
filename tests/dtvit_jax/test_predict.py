"""The command predict: studies in, tables and reports out; bad files, full disks and stops."""

import errno
import io
import json
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from data_builder.cleaning.clean_folder import clean_folder
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.shards.images import pixels
from data_builder.shards.sources import open_source
from dtvit_jax.decision import rule as decision_rule
from dtvit_jax.decision.predictions import read_csv
from dtvit_jax.decision.study import points_of
from dtvit_jax.prediction import intake, study_folder, study_output
from dtvit_jax.training import record as run_record
from dtvit_jax.training.setup import abstract_state, make_setup
from dtvit_jax.training.steps import probabilities
from tests.helpers.dicom_files import ct, encoded, enhanced, head_hu
from tests.helpers.model_folder import SIZE, save_model
from tests.helpers.run_folder import random_weights
from tests.helpers.studies import NAME, head, run, table, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder)
    return folder


@pytest.fixture(scope="module")
def answered(model, tmp_path_factory):
    """Two studies of two people in a folder with other files, answered; and the exit status."""
    folder = tmp_path_factory.mktemp("answered")
    source = folder / "Jane Doe"
    write(source / "one", [head(i) for i in range(5)])
    write(source / "two", [head(i, "another", "B9") for i in range(4)])
    (source / "two" / "readme.txt").write_text("Jane Doe")
    (source / "labels.csv").write_text("study,hemorrhage,location\n")
    (source / "one" / "Jane Doe 99.dcm").write_bytes(encoded(head(9))[:-50])
    out = folder / "out"
    status = run(source, "--workdir", model, "--out", out)
    return source, out, status


def test_every_study_has_an_answer_and_every_file_a_row(answered):
    source, out, status = answered
    assert status == 1  # a file was refused
    studies, slices, files = (table(out / f"{n}.csv") for n in ("results", "slices", "files"))
    assert len(studies) == 2 and len(slices) == len(read_csv(out / "slices.csv")) == 9
    assert len(files) == sum(path.is_file() for path in source.rglob("*")) == 12
    assert len({row["file"] for row in files}) == 12
    uses = {use: [row for row in files if row["use"] == use] for use in ("used", "refused")}
    assert len(uses["used"]) == 9 and sum(int(row["slices"]) for row in uses["used"]) == 9
    assert sorted(row["reason"] for row in uses["refused"]) == ["not DICOM", "truncated"]
    assert [row["use"] for row in files].count("own words") == 1
    results = json.loads((out / "results.json").read_text())["studies"]
    assert [study["key"] for study in results] == [row["study"] for row in studies]
    for study in results:
        assert len(study["model"]["weights_sha256"]) == 64 and study["trained_on_phantoms"]
        slices = study["study"]["slices"]
        positions = [one["position_mm"] for one in slices]
        assert positions == sorted(positions)
        page = (out / "studies" / study["key"] / "report.html").read_text()
        assert "http" not in page.replace("http-equiv", "") and "synthetic phantoms" in page
        worst = max(slices, key=lambda one: one["p_hemorrhage"])
        assert page.index(worst["key"]) == min(page.index(one["key"]) for one in slices)
    assert not list(out.rglob(".draft*"))


def test_no_name_of_a_person_and_no_path_is_written(answered):
    source, out, _ = answered
    forbidden = [NAME, "Jane", "A17", str(source), generate_uid(entropy_srcs=["a study"])]
    for path in out.rglob("*"):
        assert "Jane" not in path.name
        if path.is_file():
            data = path.read_bytes()
            assert not [word for word in forbidden if word.encode() in data], path.name


def test_slices_and_probabilities_equal_those_of_clean_build_and_evaluate(
    answered, model, tmp_path
):
    """The chain of training, step by step, on the same files: equal keys, equal probabilities."""
    _, out, _ = answered
    rows = {row["key"]: row for row in table(out / "slices.csv")}
    write(tmp_path / "src", [head(i) for i in range(5)])
    (tmp_path / "src" / "labels.csv").write_text(
        f"study,hemorrhage,location\n{generate_uid(entropy_srcs=['a study'])},0,\n"
    )
    clean_folder(tmp_path / "src", tmp_path / "cleaned", key="public", jobs=1)
    records = open_source(tmp_path / "cleaned", Pseudonyms(PUBLIC_KEY)).records
    images = np.stack([pixels(record, SIZE)[..., 0] for record in records])
    config = run_record.read_config(model)
    setup = make_setup(config, steps=1)
    abstract = abstract_state(setup)
    params, stats = random_weights(abstract)

    @jax.jit
    def evaluate(params, stats, images):
        return probabilities(
            setup.network.model(params, stats)(setup.network.transform(images, None))
        )

    raw, where = map(np.asarray, evaluate(params, stats, jnp.asarray(images)))
    rule = decision_rule.read(model)
    fitted = rule.calibrations["slice"]
    p = fitted["hemorrhage"].apply(decision_rule.both(raw), rule.method)[:, 1]
    where = fitted["location"].apply(where, rule.method)
    point = points_of(rule, "sensitivity_0.95").slice
    assert {record.key for record in records} <= rows.keys() and len(records) == 5
    for i, record in enumerate(records):
        row = rows[record.key]
        assert abs(float(row["p_hemorrhage"]) - p[i]) < 2e-5
        for j, name in enumerate(("deep", "lobar", "subtentorial")):
            assert abs(float(row[f"p_{name}"]) - where[i, j]) < 2e-5
        if float(row["outlier"]) <= 1:
            assert row["decision"] == point.decide(float(raw[i]))


def test_a_second_call_does_nothing_and_a_new_file_makes_a_new_answer(model, tmp_path, capsys):
    source, out = write(tmp_path / "study", [head(i) for i in range(4)]), tmp_path / "out"
    assert run(source, "--workdir", model, "--out", out) == 0
    (report,) = out.glob("studies/*/report.html")
    before, bytes_before = report.stat().st_mtime_ns, {p: p.read_bytes() for p in all_in(out)}
    assert run(source, "--workdir", model, "--out", out) == 0
    assert report.stat().st_mtime_ns == before and "1 done before" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in all_in(out)} == bytes_before
    write(tmp_path / "more", [head(8)])
    assert run(source, tmp_path / "more", "--workdir", model, "--out", out) == 0
    (row,) = table(out / "results.csv")
    assert row["slices"] == "5"
    again = tmp_path / "again"
    assert run(source, tmp_path / "more", "--workdir", model, "--out", again) == 0
    assert same(out, again)  # the same files give the same bytes, in one run or two


@pytest.fixture(scope="module")
def two_answered(model, tmp_path_factory):
    """Two studies in folders of their own, answered into one OUT."""
    folder = tmp_path_factory.mktemp("two")
    one = write(folder / "one", [head(i) for i in range(3)])
    two = write(folder / "two", [head(i, "another", "B9") for i in range(3)])
    assert run(one, two, "--workdir", model, "--out", folder / "out") == 0
    return one, two, folder / "out"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", "{"),
        ("results.json", "[]"),
        ("results.json", None),
        ("files.csv", "file,study\na,b\n"),
        (".state.json", ""),
        (".state.json", '{"of": {}}'),
    ],
)
def test_a_damaged_study_is_answered_again(two_answered, model, tmp_path, capsys, name, content):
    one, _, answered = two_answered
    out = tmp_path / "out"
    shutil.copytree(answered, out)
    results = [json.loads(path.read_text()) for path in out.glob("studies/*/results.json")]
    key = next(r["key"] for r in results if r["study"]["subject"] == subject_of("A17"))
    damaged = out / "studies" / key / name
    damaged.unlink() if content is None else damaged.write_text(content)
    assert run(one, "--workdir", model, "--out", out) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    line = f"studies/{key}/{name} in --out is damaged: the study is answered again"
    assert lines == ([] if content is None else [line])  # a missing file needs no word
    assert same(out, answered)


def test_a_damaged_study_stops_no_other(two_answered, model, tmp_path, capsys):
    _, two, answered = two_answered
    out = tmp_path / "out"
    shutil.copytree(answered, out)
    rows = table(out / "results.csv")
    key = next(row["study"] for row in rows if row["subject"] == subject_of("A17"))
    (out / "studies" / key / "results.json").write_text("{")
    assert run(two, "--workdir", model, "--out", out) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "damaged" in line]
    assert len(lines) == 1 and "left out of the tables until PATH has the study again" in lines[0]
    assert table(out / "results.csv") == [row for row in rows if row["study"] != key]
    assert "1 done before" in captured.out


def subject_of(patient):
    return Pseudonyms(PUBLIC_KEY).subject(patient)


def all_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def same(one, other):
    names = [{str(path.relative_to(root)) for path in all_in(root)} for root in (one, other)]
    return names[0] == names[1] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names[0]
    )


def test_cleaned_images_are_answered_as_their_dicom(answered, model, tmp_path, capsys):
    source, out, _ = answered
    clean_folder(source / "one", tmp_path / "cleaned", key="public", jobs=1)
    images = next((tmp_path / "cleaned" / "images").iterdir())
    assert run(images, "--workdir", model, "--out", tmp_path / "out") == 0
    (row,) = table(tmp_path / "out" / "results.csv")
    (whole,) = [each for each in table(out / "results.csv") if each["study"] == images.name]
    for name in ("p_hemorrhage", "decision", "location", "slices"):
        assert row[name] == whole[name]
    settings = tmp_path / "cleaned" / "cleaning.json"
    values = json.loads(settings.read_text())
    settings.write_text(json.dumps(values | {"version": 0}))
    assert run(images, "--workdir", model, "--out", tmp_path / "other") == 2
    assert "version 0; the model is for mode robust" in capsys.readouterr().err


def test_one_image_is_a_study_of_one_slice_that_is_uncertain(model, tmp_path):
    one = write(tmp_path / "one", [head(0)]) / "Jane Doe 00.dcm"
    assert run(one, "--workdir", model, "--out", tmp_path / "out") == 0
    (row,) = table(tmp_path / "out" / "results.csv")
    assert row["decision"] == "uncertain" and "1 slice only" in row["reasons"]


def png(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def bomb():
    """A PNG of 200 bytes whose header states 60,000 x 60,000 pixels."""
    data = bytearray(png(Image.new("L", (6, 6))))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def coloured():
    red = np.zeros((9, 9, 3), np.uint8)
    red[..., 0] = 200
    return png(Image.fromarray(red))


BAD = {
    "not DICOM": ("notes.dcm", lambda: b"these are notes" * 20),
    "truncated": ("cut.dcm", lambda: encoded(head(0))[:-1000]),
    "impossible header": ("bomb.png", bomb),
    "colour": ("colour.png", coloured),
    "unreadable": ("empty.jpg", lambda: b""),
    "localizer": (
        "scout.dcm",
        lambda: encoded(head(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    ),
}


def test_bad_files_are_refused_each_with_its_reason_and_affect_no_other(model, tmp_path, capsys):
    source = write(tmp_path / "study", [head(i) for i in range(4)])
    for name, make in BAD.values():
        (source / name).write_bytes(make())
    cut = np.asarray(Image.effect_noise((64, 64), 50))
    (source / "cut.jpg").write_bytes(png(Image.fromarray(cut), "JPEG")[:-400])
    (source / "again.dcm").write_bytes(encoded(head(1)))
    assert run(source, "--workdir", model, "--out", tmp_path / "out") == 1
    files = table(tmp_path / "out" / "files.csv")
    reasons = sorted(row["reason"] for row in files if row["use"] == "refused")
    assert reasons == sorted([*BAD, "duplicate", "truncated"])
    assert [row["use"] for row in files].count("used") == 4
    decisions = [row["decision"] for row in table(tmp_path / "out" / "results.csv")]
    assert sorted(map(bool, decisions)) == [False, True]  # the images are a study of their own
    assert "Traceback" not in capsys.readouterr().err


def test_a_compressed_bomb_in_dicom_affects_its_own_file_alone(model, tmp_path):
    """32 MB of zeros that deflate to 32 kB, where the header says 64 x 64 pixels."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    ds = head(7)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.PixelData = bytes(32 << 20)
    source = write(tmp_path / "study", [head(i) for i in range(3)])
    (source / "bomb.dcm").write_bytes(encoded(ds))
    assert (source / "bomb.dcm").stat().st_size < 1 << 17
    assert run(source, "--workdir", model, "--out", tmp_path / "out") == 1
    files = table(tmp_path / "out" / "files.csv")
    assert [row["reason"] for row in files if row["use"] == "refused"] == ["pixel data length"]


def test_no_head_mixed_patients_and_no_study_give_a_reason(model, tmp_path, capsys):
    air = np.full((64, 64), -1000)
    source = tmp_path / "src"
    write(
        source / "air",
        [ct(air, StudyInstanceUID="1.2.3", SOPInstanceUID=f"1.2.{i}") for i in (4, 5)],
    )
    write(source / "mixed", [head(0, patient="A17"), head(1, patient="B9")])
    write(source / "good", [head(i, "good") for i in range(3)])
    out = tmp_path / "out"
    assert run(source, "--workdir", model, "--out", out) == 1
    printed = capsys.readouterr()
    assert "no slice of it shows a head" in printed.out
    assert "its files name 2 patients" in printed.out
    assert "3 studies of 2 patients" in printed.err
    rows = table(out / "results.csv")
    assert sorted(bool(row["decision"]) for row in rows) == [False, False, True]
    reasons = [row["reason"] for row in table(out / "files.csv")]
    assert sorted(reasons) == ["", "", "", "mixed patients", "mixed patients", "no head", "no head"]
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "notes.txt").write_text("a text")
    assert run(tmp_path / "nothing", "--workdir", model, "--out", tmp_path / "none") == 2
    assert "PATH holds no study" in capsys.readouterr().err
    assert [row["reason"] for row in table(tmp_path / "none" / "files.csv")] == ["not DICOM"]


def test_three_thousand_slices_are_answered(model, tmp_path):
    hu = head_hu(24, 24)
    stack = np.stack([hu + i % 7 for i in range(3000)])
    ds = enhanced(stack, z=[0.2 * i for i in range(3000)], PatientID="C3")
    (tmp_path / "many.dcm").write_bytes(encoded(ds))
    out = tmp_path / "out"
    assert run(tmp_path / "many.dcm", "--workdir", model, "--out", out, "--batch", 500) == 0
    (row,) = table(out / "results.csv")
    assert row["slices"] == "3000" and len(table(out / "slices.csv")) == 3000
    (results,) = json.loads((out / "results.json").read_text())["studies"]
    assert [each["frame"] for each in results["study"]["slices"]] == list(range(3000))


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(model, tmp_path, monkeypatch, capsys):
    source = tmp_path / "src"
    for name in ("a", "b"):
        write(source / name, [head(i, name) for i in range(3)])
    put = study_folder.put

    def full(path, text):
        if path.parent.name.startswith(".draft-") and len(list(out.glob("studies/stu-*"))) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(path, text)

    out = tmp_path / "out"
    monkeypatch.setattr(study_output, "put", full)
    assert run(source, "--workdir", model, "--out", out) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error and "Traceback" not in error
    assert len(list(out.glob("studies/*/results.json"))) == 1  # the first study is whole
    assert len(table(out / "results.csv")) == 1
    monkeypatch.undo()
    assert run(source, "--workdir", model, "--out", out) == 0
    assert "1 done before" in capsys.readouterr().out and len(table(out / "results.csv")) == 2


def test_a_worker_that_cannot_write_reports_a_failure(tmp_path):
    path = write(tmp_path / "s", [head(0)]) / "Jane Doe 00.dcm"
    source = intake.identify(intake.IdentifyTask(str(path), "fil-a", PUBLIC_KEY))
    (tmp_path / "file").write_text("")
    task = intake.PrepareTask(source, str(tmp_path / "file"), "robust", "png", SIZE, PUBLIC_KEY)
    assert intake.prepare(task).result.failure


def test_ctrl_c_keeps_finished_studies(model, tmp_path, monkeypatch, capsys):
    source = tmp_path / "src"
    for name in ("a", "b"):
        write(source / name, [head(i, name) for i in range(3)])
    out = tmp_path / "out"
    page = study_output.study_page

    def stopped(*arguments):
        if list(out.glob("studies/stu-*")):
            raise KeyboardInterrupt
        return page(*arguments)

    monkeypatch.setattr(study_output, "study_page", stopped)
    assert run(source, "--workdir", model, "--out", out) == 130
    assert "same command continues" in capsys.readouterr().err
    assert len(table(out / "results.csv")) == 1
    monkeypatch.undo()
    assert run(source, "--workdir", model, "--out", out) == 0
    assert not list(out.rglob(".draft*")) and len(table(out / "results.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give PATH"),
        (["missing"], "PATH 1 does not exist"),
        (["empty"], "PATH is empty"),
        (["s", "--out", "s/out"], "inside PATH 1"),
        (["s", "--point", "sensitivity_2"], "it has balanced_accuracy"),
        (["s", "--watch", "s"], "give PATH"),
        (["s", "--batch", "0"], "1 or more"),
        (["s", "--explain", "grad_cam", "--dicom_out", "no"], "this model has gradient, rollout"),
    ],
)
def test_a_wrong_command_line_is_one_line(model, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(Path("s"), [head(0)])
    Path("empty").mkdir()
    assert run("--workdir", model, "--out", "out", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_locked_out_folder_is_an_error(model, tmp_path, capsys):
    import fcntl

    source, out = write(tmp_path / "s", [head(0)]), tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(source, "--workdir", model, "--out", out) == 2
    assert "another run is writing" in capsys.readouterr().err


def test_lookup_finds_the_file_of_a_pseudonym(model, tmp_path, capsys):
    from data_builder.__main__ import main

    source, out, key = (
        write(tmp_path / "s", [head(i) for i in range(3)]),
        tmp_path / "o",
        tmp_path / "key",
    )
    assert run(source, "--workdir", model, "--out", out, key=str(key)) == 0
    (row,) = table(out / "results.csv")
    capsys.readouterr()
    assert main(["lookup", row["worst_slice"], "--key", str(key)]) == 0
    assert "Jane Doe" in capsys.readouterr().out


def test_a_start_imports_nothing_that_only_fits_or_draws():
    words = (
        "import sys, dtvit_jax.predict, dtvit_jax.prediction.session; print(set(sys.modules) & "
        "{'scipy', 'sklearn', 'pandas', 'matplotlib', 'highdicom', 'orbax'})"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_dicom_objects_and_heat_maps_are_written(model, tmp_path):
    source = write(tmp_path / "s", [head(i) for i in range(5)])
    out = tmp_path / "out"
    words = ["--workdir", model, "--out", out, "--dicom_out", "yes", "--explain", "rollout"]
    assert run(source, *words) == 0
    (row,) = table(out / "results.csv")
    objects = out / "dicom" / row["study"]
    assert {path.name for path in objects.iterdir()} == {"sr.dcm", "capture.dcm"}
    assert (out / "dicom").stat().st_mode & 0o777 == 0o700
    report = pydicom.dcmread(objects / "sr.dcm")
    assert report.PatientID == "A17" and row["study"] not in str(report.StudyInstanceUID)
    capture = pydicom.dcmread(objects / "capture.dcm")
    assert int(capture.NumberOfFrames) == 4
    page = (out / "studies" / row["study"] / "report.html").read_text()
    assert page.count("<img") == 8 and "heat map of slice" in page and NAME not in page
    before = {path: path.read_bytes() for path in objects.iterdir()}
    assert run(source, *words) == 0  # done: nothing is written again
    assert {path: path.read_bytes() for path in objects.iterdir()} == before


def test_an_older_runs_config_gets_the_newer_fields(model, tmp_path):
    values = json.loads((model / "config.json").read_text())
    del values["clip_norm"], values["loss"]["location"]
    values["model"] = {"name": "resnet18"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = run_record.read_config(tmp_path)
    assert config.clip_norm == 0.0 and config.loss.location == 0.5  # configs/vit_l.py
    assert config.model.to_dict() == {"name": "resnet18"} and config.batch_size == 8  # its own
