"""A folder of DICOM: every file is listed, and no name gets out."""

import csv
import json

import cv2
import pytest

from data_builder.dicom.header import PHANTOM_MARKS
from data_builder.errors import InputError
from data_builder.pseudonyms import Lookup, lookup_path
from data_builder.records import MANIFEST_COLUMNS, REFUSED_COLUMNS, pixel_digest
from tests.helpers.dicom_files import ct, encoded
from tests.helpers.source_folder import (
    LABELS_HEADER,
    PSEUDONYMS,
    all_listed,
    clean,
    contents,
    put,
    put_mixed,
    put_study,
    read_table,
)


def test_the_slices_of_a_study_are_in_order_of_position_with_their_images(tmp_path):
    uid = put_study(
        tmp_path / "src", PatientSex="F", StudyDate="20190304", ManufacturerModelName="X1"
    )
    summary = clean(tmp_path / "src", tmp_path / "out")
    assert (summary.slices, summary.used, summary.refused, summary.studies) == (4, 4, 0, 1)
    rows = read_table(tmp_path / "out")
    assert tuple(rows[0]) == MANIFEST_COLUMNS
    assert [row["position_mm"] for row in rows] == ["0.000", "5.000", "10.000", "15.000"]
    assert {row["study"] for row in rows} == {PSEUDONYMS.study(uid)}
    assert {row["subject"] for row in rows} == {PSEUDONYMS.subject("A17")}
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


def test_every_file_of_a_mixed_folder_is_in_one_table(tmp_path):
    src = put_mixed(tmp_path / "src")
    summary = clean(src, tmp_path / "out")
    (
        src / "d" / "gone"
    ).unlink()  # the check below counts files only, but the dead link has its row
    dead = PSEUDONYMS.file("d/gone")
    refused = read_table(tmp_path / "out", "refused.csv")
    assert dead in {row["file"] for row in refused}
    files = {PSEUDONYMS.file(str(p.relative_to(src))) for p in src.rglob("*") if p.is_file()} | {
        dead
    }
    used = {row["file"] for row in read_table(tmp_path / "out")}
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
    frames = [row for row in read_table(tmp_path / "out") if row["frame"]]
    assert sorted(row["frame"] for row in frames) == ["1", "2", "3"]
    air = next(r for r in read_table(tmp_path / "out") if r["file"] == PSEUDONYMS.file("b/air.dcm"))
    assert air["keep"] == "0" and summary.no_head == 1


def test_of_duplicates_the_first_by_path_is_used_even_if_others_differ(tmp_path):
    src = put_mixed(tmp_path / "src")
    clean(src, tmp_path / "out")
    row = next(r for r in read_table(tmp_path / "out") if r["key"] == PSEUDONYMS.slice("1.2.3.4"))
    assert row["file"] == PSEUDONYMS.file("d/first.dcm")
    image = cv2.imread(str(tmp_path / "out" / row["image"]), cv2.IMREAD_UNCHANGED)
    assert pixel_digest(image) == row["digest"]
    details = {r["file"]: r["detail"] for r in read_table(tmp_path / "out", "refused.csv")}
    assert "same pixels" in details[PSEUDONYMS.file("d/second.dcm")]
    assert "other pixels" in details[PSEUDONYMS.file("d/third.dcm")]


def test_bad_places_and_options_are_one_line(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    with pytest.raises(InputError, match="not a folder"):
        clean(src, out)
    src.mkdir()
    with pytest.raises(InputError, match="empty"):
        clean(src, out)
    put(src, "notes.txt", b"words")
    with pytest.raises(InputError, match="no CT slice"):
        clean(src, out)
    put_study(src)
    with pytest.raises(InputError, match="inside the source"):
        clean(src, src / "out")
    with pytest.raises(InputError, match="key"):
        clean(src, out, key=str(out / "key"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="--out"):
        clean(src, tmp_path / "file" / "out")
    clean(src, out)
    with pytest.raises(InputError, match="another mode"):
        clean(src, out, mode="paper")
    other = tmp_path / "other"
    put_study(other)
    with pytest.raises(InputError, match="another source"):
        clean(other, out)


def test_phantoms_and_jpeg(tmp_path):
    src, out = tmp_path / "src", tmp_path / "out"
    put_study(src)
    (src / "phantom.json").write_text("{}")
    summary = clean(src, out, image_format="jpg", mode="paper")
    assert summary.refused == 0 and all_listed(src, out)
    settings = json.loads((out / "cleaning.json").read_text())
    assert settings["phantom"] is True and (settings["mode"], settings["format"]) == (
        "paper",
        "jpg",
    )
    assert all(row["image"].endswith(".jpg") for row in read_table(out))


@pytest.mark.parametrize(("marked", "scanned"), [(4, 0), (3, 2), (0, 4)])
def test_phantoms_are_counted_by_the_marks_in_their_files(tmp_path, marked, scanned):
    """Also where phantom.json is not beside them, or scans are."""
    src, out = tmp_path / "src", tmp_path / "out"
    if marked:
        put_study(src, "marked", slices=marked, **PHANTOM_MARKS)
    if scanned:
        put_study(src, "scanned", slices=scanned, QualityControlSubject="YES")
    clean(src, out)
    settings = json.loads((out / "cleaning.json").read_text())
    assert (settings["phantom"], settings["phantom_slices"]) == (marked > 0, marked)
    before = contents(out)
    assert clean(src, out).skipped == marked + scanned and contents(out) == before


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
    put_study(src, f"{secret} 4711", patient=planted.pop("PatientID"), PatientSex="F", **planted)
    put(src, f"{secret}/broken.dcm", encoded(ct(**planted))[:-100])
    put(src, f"{secret}/chest.dcm", ct(**planted | {"BodyPartExamined": "CHEST"}))
    put(src, f"{secret}.txt", secret.encode())
    (src / "labels.csv").write_text(
        LABELS_HEADER + f"{secret} 4711,{secret} P,,,1,deep\n{secret} none,,,,0,\n"
    )
    key = str(tmp_path / "site" / "key")
    clean(src, out, key=key)
    printed = "".join(capfd.readouterr())
    for path, data in contents(out).items():
        assert secret.lower() not in path.lower() and secret.encode() not in data
        assert b"4711" not in data
    assert secret not in printed and "line 3" in printed
    lookup = Lookup(lookup_path(key))
    row = read_table(out)[0]
    assert f"{secret} P" in lookup.find(row["subject"])
    assert secret in lookup.find(row["file"])[0] and secret in lookup.find(row["key"])[0]
    for refused in read_table(out, "refused.csv"):
        assert lookup.find(refused["file"])[0].startswith(str(src))
    lookup.close()
    assert oct((tmp_path / "site" / "key.lookup.sqlite").stat().st_mode & 0o777) == "0o600"
