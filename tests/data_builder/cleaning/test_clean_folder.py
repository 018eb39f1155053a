"""A folder of DICOM: every file accounted for, resumable, labelled, and silent about names."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from pydicom.uid import generate_uid

from data_builder.cleaning.clean_folder import clean_folder
from data_builder.cleaning.series import gaps_and_doubles
from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Lookup, Pseudonyms, lookup_path
from data_builder.records import MANIFEST_COLUMNS, REFUSED_COLUMNS, pixel_digest
from tests.helpers import ROOT
from tests.helpers.dicom_files import ct, encoded, enhanced, head_hu

NAMES = Pseudonyms(PUBLIC_KEY)


def put(folder, name, ds_or_bytes):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ds_or_bytes if isinstance(ds_or_bytes, bytes) else encoded(ds_or_bytes))
    return path


def study(folder, name="visit", slices=4, patient="A17", **changes):
    """Slices 5 mm apart in files whose names run against their places; the study's UID."""
    uid = generate_uid(entropy_srcs=[name, patient])
    for k in range(slices):
        ds = ct(
            head_hu() + k,
            StudyInstanceUID=uid,
            SeriesInstanceUID=uid + ".1",
            SOPInstanceUID=f"{uid}.1.{k}",
            PatientID=patient,
            InstanceNumber=k + 1,
            ImagePositionPatient=[-30, -30, 5 * k],
            **changes,
        )
        put(folder, f"{name}/{slices - k:03d}", ds)
    return uid


def table(out, name="manifest.csv"):
    with (out / name).open(newline="") as file:
        return list(csv.DictReader(file))


def run(src, out, **options):
    return clean_folder(src, out, **({"jobs": 2, "key": "public"} | options))


def accounted(src, out):
    """Every file of the source is in exactly one of the two tables."""
    files = sorted(NAMES.file(str(p.relative_to(src))) for p in src.rglob("*") if p.is_file())
    used = {row["file"] for row in table(out)}
    refused = [row["file"] for row in table(out, "refused.csv")]
    return sorted([*used, *refused]) == files


def everything(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_a_study_in_order_of_place_with_its_images(tmp_path):
    uid = study(tmp_path / "src", PatientSex="F", StudyDate="20190304", ManufacturerModelName="X1")
    summary = run(tmp_path / "src", tmp_path / "out")
    assert (summary.slices, summary.used, summary.refused, summary.studies) == (4, 4, 0, 1)
    rows = table(tmp_path / "out")
    assert tuple(rows[0]) == MANIFEST_COLUMNS
    assert [row["position_mm"] for row in rows] == ["0.000", "5.000", "10.000", "15.000"]
    assert {row["study"] for row in rows} == {NAMES.study(uid)}
    assert {row["subject"] for row in rows} == {NAMES.subject("A17")}
    assert {(r["sex"], r["year"], r["mode"], r["keep"]) for r in rows} == {
        ("F", "2019", "robust", "1")
    }
    for row in rows:
        image = cv2.imread(str(tmp_path / "out" / row["image"]), cv2.IMREAD_UNCHANGED)
        assert image.shape == (64, 64) and image.max() == 255
        assert pixel_digest(image) == row["digest"]
    assert (
        tuple(csv.reader((tmp_path / "out" / "refused.csv").open()).__next__()) == REFUSED_COLUMNS
    )


def mixed(src):
    """A folder of all sorts."""
    study(src, "a/good", patient="DOE^JOHN")
    put(src, "b/many frames.dcm", enhanced(np.stack([head_hu()] * 3), (0.0, 5.0, 10.0)))
    put(src, "b/chest.dcm", ct(BodyPartExamined="CHEST"))
    put(src, "b/scout.dcm", ct(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    put(src, "b/cut.dcm", encoded(ct())[:-500])
    put(src, "b/air.dcm", ct(np.full((64, 64), -1000)))
    put(src, "c/DOE JOHN.txt", b"words about DOE^JOHN")
    put(src, "c/empty", b"")
    twin = ct(SOPInstanceUID="1.2.3.4")
    put(src, "d/first.dcm", twin)
    put(src, "d/second.dcm", twin)
    twin.PixelData = (head_hu() + 1030).astype("<u2").tobytes()
    put(src, "d/third.dcm", twin)
    (src / "d" / "gone").symlink_to(src / "nowhere")
    return src


def test_every_file_of_a_mixed_folder_is_accounted_for(tmp_path):
    src = mixed(tmp_path / "src")
    summary = run(src, tmp_path / "out")
    (src / "d" / "gone").unlink()  # a dead link is no file to the check; it has its row
    dead = NAMES.file("d/gone")
    refused = table(tmp_path / "out", "refused.csv")
    assert dead in {row["file"] for row in refused}
    files = {NAMES.file(str(p.relative_to(src))) for p in src.rglob("*") if p.is_file()} | {dead}
    used = {row["file"] for row in table(tmp_path / "out")}
    assert used | {row["file"] for row in refused} == files
    assert len(used) + len(refused) == len(files)
    assert summary.reasons == {
        "duplicate": 2,
        "localizer": 1,
        "not DICOM": 2,
        "not the head": 1,
        "truncated": 1,
        "unreadable": 1,
    }
    frames = [row for row in table(tmp_path / "out") if row["frame"]]
    assert sorted(row["frame"] for row in frames) == ["1", "2", "3"]
    air = next(r for r in table(tmp_path / "out") if r["file"] == NAMES.file("b/air.dcm"))
    assert air["keep"] == "0" and summary.no_head == 1


def test_of_duplicates_the_first_by_path_is_used_though_others_differ(tmp_path):
    src = mixed(tmp_path / "src")
    run(src, tmp_path / "out")
    row = next(r for r in table(tmp_path / "out") if r["key"] == NAMES.slice("1.2.3.4"))
    assert row["file"] == NAMES.file("d/first.dcm")
    image = cv2.imread(str(tmp_path / "out" / row["image"]), cv2.IMREAD_UNCHANGED)
    assert pixel_digest(image) == row["digest"]
    details = {r["file"]: r["detail"] for r in table(tmp_path / "out", "refused.csv")}
    assert "same pixels" in details[NAMES.file("d/second.dcm")]
    assert "other pixels" in details[NAMES.file("d/third.dcm")]


def test_jobs_do_not_change_a_byte_and_a_second_run_does_nothing(tmp_path):
    src = mixed(tmp_path / "src")
    (src / "d" / "gone").unlink()  # what can't be read is tried again every time
    run(src, tmp_path / "one", jobs=1)
    run(src, tmp_path / "two", jobs=3)
    before = everything(tmp_path / "one")
    assert before == everything(tmp_path / "two")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*.png")}
    again = run(src, tmp_path / "one")
    assert again.skipped == again.used + again.refused and "nothing to do" in str(again)
    assert everything(tmp_path / "one") == before
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "one").rglob("*.png")}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(tmp_path, how):
    src = tmp_path / "src"
    for k in range(30):
        study(src, f"v{k}", slices=8, patient=f"P{k}")
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
    deadline = time.monotonic() + 60
    while len(list(stopped.glob("images/*/*.png"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    process.wait(60)
    assert not (stopped / "manifest.csv").exists()
    run(src, stopped)
    run(src, tmp_path / "whole")
    assert everything(stopped) == everything(tmp_path / "whole")
    assert accounted(src, stopped)


def test_what_changes_in_the_source_is_done_anew(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    study(src)
    run(src, out)
    future = time.time() + 5
    replaced = put(src, "visit/001", ct(head_hu() + 9, SOPInstanceUID="1.2.77"))
    os.utime(replaced, (future, future))
    put(src, "late/1", ct(SOPInstanceUID="1.2.78"))
    summary = run(src, out)
    assert summary.skipped == 3 and summary.slices == 5
    assert len(list(out.glob("images/*/*"))) == 5
    assert NAMES.slice("1.2.77") in {row["key"] for row in table(out)}


LABELS = "study,subject,slice,keep,hemorrhage,location\n"


def test_labels_of_slice_study_and_subject_meet(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    first = study(src, "one")
    second = study(src, "two", patient="B2", IssuerOfPatientID="here")
    study(src, "three", patient="C3")
    rows = [
        f"{first},,,,1,deep",  # by Study Instance UID
        "one,,2,,0,",  # by folder and instance number
        f"one,,{first}.1.2,0,,",  # by SOP Instance UID: not kept, its label the study's
        "two,B2,,,0,",  # by folder; the subject as the header has it
        ",C3,,,1,lobar",  # a subject
        "nowhere,,,,1,deep",
    ]
    (src / "labels.csv").write_text(LABELS + "\n".join(rows) + "\n")
    summary = run(src, out)
    found = {(r["study"], r["position_mm"]): r for r in table(out)}
    told = [
        (r["keep"], r["hemorrhage"], r["location"], r["label_level"])
        for z in ("0.000", "5.000", "10.000")
        for r in [found[NAMES.study(first), z]]
    ]
    assert told == [
        ("1", "1", "deep", "study"),
        ("1", "0", "", "slice"),
        ("0", "1", "deep", "study"),
    ]
    two = found[NAMES.study(second), "0.000"]
    assert (two["hemorrhage"], two["subject"]) == ("0", NAMES.subject("B2^here"))
    three = [r for r in table(out) if r["label_level"] == "subject"]
    assert len(three) == 4 and {r["location"] for r in three} == {"lobar"}
    assert summary.unmatched_labels == ("labels.csv line 7",)
    assert summary.refused == 0 and accounted(src, out)


def test_labels_may_give_the_subject_and_a_changed_label_needs_no_cleaning(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    study(src, "one", patient="ANON")
    study(src, "two", patient="ANON")
    (src / "labels.csv").write_text(LABELS + "one,p1,,,0,\ntwo,p2,,,0,\n")
    run(src, out)
    assert {r["subject"] for r in table(out)} == {NAMES.subject("p1"), NAMES.subject("p2")}
    (src / "labels.csv").write_text(LABELS + "one,p1,,,1,deep\ntwo,p2,,,0,\n")
    assert run(src, out).skipped == 8
    assert sorted({r["location"] for r in table(out)}) == ["", "deep"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("study,hemorrhage\n", "line 1: the column location"),
        (LABELS + "one,,,,2,deep\n", "line 2, column hemorrhage"),
        (LABELS + "one,,,,0,\none,,,,1,frontal\n", "line 3, column location"),
        (LABELS + "one,,,yes,,\n", "line 2, column keep"),
        (LABELS + ",,3,,1,deep\n", "line 2, column study"),
        (LABELS + "one,,,,1,deep,more,more\n", "line 2: more cells"),
        (LABELS + "one,,,,1,deep\none,,,,0,\n", "line 3, column hemorrhage"),
        (LABELS.encode() + b"\xff\xfe\n", "UTF-8"),
    ],
)
def test_a_bad_label_is_one_line_with_its_place(tmp_path, text, says):
    study(tmp_path / "src", "one", slices=1)
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "src" / "labels.csv").write_bytes(data)
    with pytest.raises(InputError, match=says):
        run(tmp_path / "src", tmp_path / "out")


def test_gaps_and_doubles_by_hand():
    assert gaps_and_doubles([0.0, 5.0, 10.0, 20.0, 25.0, 25.0, 30.0]) == [
        (10, "1 missing after it"),
        (25, "doubled"),
    ]
    # Spacing changes once, as in a base of thin and a crown of thick slices: nothing is missing.
    assert gaps_and_doubles([0.0, 4.0, 8.0, 12.0, 13.1, 20.0, 27.0, 34.0]) == []
    assert gaps_and_doubles([0.0, 5.0, 20.0]) == [(5, "2 missing after it")]
    assert gaps_and_doubles([0.0, 30.0]) == [] == gaps_and_doubles([float("nan")])


def test_a_missing_slice_is_noted(tmp_path):
    study(tmp_path / "src", slices=6)
    (tmp_path / "src" / "visit" / "003").unlink()
    assert run(tmp_path / "src", tmp_path / "out").notes == 1
    (note,) = table(tmp_path / "out", "notes.csv")
    assert (note["position_mm"], note["note"]) == ("10.000", "1 missing after it")


def test_bad_places_and_options_are_one_line(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    with pytest.raises(InputError, match="not a folder"):
        run(src, out)
    src.mkdir()
    with pytest.raises(InputError, match="empty"):
        run(src, out)
    put(src, "notes.txt", b"words")
    with pytest.raises(InputError, match="no CT slice"):
        run(src, out)
    study(src)
    with pytest.raises(InputError, match="inside the source"):
        run(src, src / "out")
    with pytest.raises(InputError, match="key"):
        run(src, out, key=str(out / "key"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="--out"):
        run(src, tmp_path / "file" / "out")
    run(src, out)
    with pytest.raises(InputError, match="another mode"):
        run(src, out, mode="paper")
    other = tmp_path / "other"
    study(other)
    with pytest.raises(InputError, match="another source"):
        run(other, out)


def test_phantoms_and_jpeg(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    study(src)
    (src / "phantom.json").write_text("{}")
    summary = run(src, out, image_format="jpg", mode="paper")
    assert summary.refused == 0 and accounted(src, out)
    told = json.loads((out / "cleaning.json").read_text())
    assert told["phantom"] is True and (told["mode"], told["format"]) == ("paper", "jpg")
    assert all(row["image"].endswith(".jpg") for row in table(out))


def test_no_name_number_or_path_gets_out_and_the_lookup_leads_back(tmp_path, capfd):
    secret = "Zyxwv"
    src, out = tmp_path / f"{secret} ward", tmp_path / "out"
    texts = (
        "PatientName",
        "PatientID",
        "PatientBirthName",
        "AccessionNumber",
        "StudyID",
        "StudyDescription",
        "SeriesDescription",
        "ProtocolName",
        "InstitutionName",
        "ReferringPhysicianName",
        "OperatorsName",
        "PatientComments",
        "StationName",
        "Manufacturer",
        "ManufacturerModelName",
        "PatientAddress",
        "BodyPartExamined",
        "IssuerOfPatientID",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "ImageComments",
    )
    planted = {keyword: f"{secret} {keyword}"[:16] for keyword in texts}
    study(src, f"{secret} 4711", patient=planted.pop("PatientID"), PatientSex="F", **planted)
    put(src, f"{secret}/broken.dcm", encoded(ct(**planted))[:-100])
    put(src, f"{secret}/chest.dcm", ct(**planted | {"BodyPartExamined": "CHEST"}))
    put(src, f"{secret}.txt", secret.encode())
    (src / "labels.csv").write_text(
        LABELS + f"{secret} 4711,{secret} P,,,1,deep\n{secret} none,,,,0,\n"
    )
    key = str(tmp_path / "site" / "key")
    run(src, out, key=key)
    said = "".join(capfd.readouterr())
    for path, data in everything(out).items():
        assert secret.lower() not in path.lower() and secret.encode() not in data
        assert b"4711" not in data
    assert secret not in said and "line 3" in said
    lookup = Lookup(lookup_path(key))
    row = table(out)[0]
    assert f"{secret} P" in lookup.find(row["subject"])
    assert secret in lookup.find(row["file"])[0] and secret in lookup.find(row["key"])[0]
    for lost in table(out, "refused.csv"):
        assert lookup.find(lost["file"])[0].startswith(str(src))
    lookup.close()
    assert oct((tmp_path / "site" / "key.lookup.sqlite").stat().st_mode & 0o777) == "0o600"
