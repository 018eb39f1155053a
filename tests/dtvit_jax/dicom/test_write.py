"""Objects on disk are valid, private, written once and replaced by another answer."""

import dataclasses
import io
import shutil
import stat
import subprocess

import pydicom
import pytest

from data_builder.errors import InputError
from dtvit_jax.dicom.structured_report import structured_report
from dtvit_jax.dicom.write import write_objects
from tests.helpers import ROOT
from tests.helpers.answers import MODEL, answer_for
from tests.helpers.dicom_objects import ODD, overlays_of, series, written

GE_HEAD = ROOT / "../shared/data/ge_head_dicom"


def errors_of(path):
    """The errors that dciodvfy (Debian's dicom3tools) reports."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    lines = (run.stdout + run.stderr).splitlines()
    assert any(line in ("Comprehensive3DSR", "MultiframeTrueColorSCImage") for line in lines)
    return [line for line in lines if line.startswith("Error")]


def assert_valid(paths):
    assert [path.name for path in paths] == ["sr.dcm", "capture.dcm"]
    for path in paths:
        assert errors_of(path) == []


def test_dciodvfy_reports_a_broken_object(tmp_path):
    path, _ = written(tmp_path, series(2))
    ds = pydicom.dcmread(path)
    del ds.StudyInstanceUID, ds.ContentDate
    ds.save_as(path)
    assert errors_of(path)


def test_objects_of_phantoms_are_valid(phantoms, tmp_path):
    study = sorted((phantoms[0] / "phantom-0001-1").glob("*.dcm"))
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in study]
    assert_valid(written(tmp_path, sources, size=512))


def test_objects_of_a_study_without_a_probability_are_valid(tmp_path):
    sources = series(3)
    changes = {"p_hemorrhage": None, "p_location": None, "decision": "uncertain", "location": ""}
    assert_valid(written(tmp_path, sources, answer_for(sources, reasons=("a reason",), **changes)))


def test_objects_of_a_real_head_are_valid(tmp_path):
    if not GE_HEAD.is_dir():
        pytest.skip("the GE head is not here")
    paths = sorted(GE_HEAD.glob("*.dcm"))
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    assert_valid(written(tmp_path, sources, size=512))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_objects_of_odd_sources_are_valid(make, tmp_path):
    sources = make()
    paths = written(tmp_path, sources)
    assert_valid(paths)
    for path in paths:
        ds = pydicom.dcmread(path)
        assert ds.StudyInstanceUID == sources[0].StudyInstanceUID
        assert ds.SeriesInstanceUID not in {source.SeriesInstanceUID for source in sources}


def test_identity_is_that_of_the_sources_and_nothing_else_is_copied(tmp_path):
    identity = {
        "PatientName": "Müller^Zoë",
        "PatientID": "A17",
        "IssuerOfPatientID": "HOSPITAL",
        "PatientBirthDate": "19500102",
        "PatientSex": "F",
        "StudyDate": "20010203",
        "StudyTime": "101112",
        "ReferringPhysicianName": "Who^Dr",
        "StudyID": "S1",
        "AccessionNumber": "ACC9",
    }
    more = {
        "PatientAddress": "1 Hidden Street",
        "OtherPatientNames": "Hidden^Other",
        "PatientAge": "077Y",
        "InstitutionName": "Hidden Hospital",
        "OperatorsName": "Hidden^Operator",
        "StudyDescription": "Hidden words",
        "PatientComments": "Hidden comment",
        "ImageComments": "Hidden image comment",
        "DeviceSerialNumber": "Hidden serial",
    }
    sources = series(3, SpecificCharacterSet="ISO_IR 192", **identity, **more)
    answer = answer_for(sources)
    for path in written(tmp_path, sources, answer):
        ds, data = pydicom.dcmread(path), path.read_bytes()
        assert {keyword: str(ds[keyword].value) for keyword in identity} == identity
        assert b"Hidden" not in data and b"077Y" not in data
        for pseudonym in (answer.key, answer.subject, answer.slices[0].key):
            assert pseudonym.encode() not in data
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent == tmp_path / answer.key
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_the_same_answer_changes_nothing_and_another_one_replaces_it(tmp_path):
    sources = series(3)
    answer = answer_for(sources)
    first = [path.read_bytes() for path in written(tmp_path, sources, answer)]
    elsewhere = [path.read_bytes() for path in written(tmp_path / "other", sources, answer)]
    assert first == elsewhere
    again = write_objects(tmp_path, answer, sources, MODEL, overlays_of(answer))  # at another time
    assert [path.read_bytes() for path in again] == first
    before = [pydicom.dcmread(path) for path in again]
    changed = dataclasses.replace(answer, p_hemorrhage=0.9)
    after = [pydicom.dcmread(path) for path in written(tmp_path, sources, changed)]
    for old, new in zip(before, after, strict=True):
        assert old.SeriesInstanceUID == new.SeriesInstanceUID
        assert old.SOPInstanceUID != new.SOPInstanceUID
    other = dataclasses.replace(MODEL, weights_sha256="f" * 64)
    assert (
        structured_report(answer, sources, other).SeriesInstanceUID != before[0].SeriesInstanceUID
    )
    assert all(uid.SOPInstanceUID.startswith("2.25.") for uid in before)
    assert {path.name for path in (tmp_path / answer.key).iterdir()} == {"sr.dcm", "capture.dcm"}


@pytest.mark.parametrize("issuer", ["HOSPITAL", None])
def test_a_corrected_name_or_issuer_is_in_the_objects_of_the_same_answer(tmp_path, issuer):
    sources = series(3, PatientName="Doe^Jane", IssuerOfPatientID="CLINIC")
    answer = answer_for(sources)
    before = [pydicom.dcmread(path) for path in written(tmp_path, sources, answer)]
    for source in sources:
        source.PatientName = "Roe^Jane"
        if issuer:
            source.IssuerOfPatientID = issuer
        else:
            del source.IssuerOfPatientID
    after = [pydicom.dcmread(path) for path in written(tmp_path, sources, answer)]
    for old, new in zip(before, after, strict=True):
        assert new.PatientName == "Roe^Jane" and new.get("IssuerOfPatientID") == issuer
        assert new.SOPInstanceUID == old.SOPInstanceUID  # an archive corrects its own


def test_other_pictures_under_the_same_numbers_are_another_capture(tmp_path):
    sources = series(3)
    answer = answer_for(sources)
    report, capture = (path.read_bytes() for path in written(tmp_path, sources, answer))
    overlays = [dataclasses.replace(o, image=255 - o.image) for o in overlays_of(answer)]
    again, other = write_objects(tmp_path, answer, sources, MODEL, overlays)
    assert again.read_bytes() == report
    before, after = pydicom.dcmread(io.BytesIO(capture)), pydicom.dcmread(other)
    assert before.SOPInstanceUID != after.SOPInstanceUID
    assert before.PixelData != after.PixelData


def test_without_overlays_there_is_no_capture(tmp_path):
    sources = series(2)
    written(tmp_path, sources)
    (only,) = write_objects(tmp_path, answer_for(sources), sources, MODEL)
    assert list(only.parent.iterdir()) == [only]


def _mixed():
    one, other = series(2)
    other.PatientID = "B18"
    return [one, other]


@pytest.mark.parametrize(
    "make",
    [_mixed, lambda: series(1, StudyInstanceUID=None), lambda: series(1, SOPInstanceUID="x")],
    ids=["two patients", "no study", "no image"],
)
@pytest.mark.filterwarnings("ignore")
def test_sources_of_no_single_study_are_an_error_that_names_nobody(make, tmp_path):
    sources = make()
    with pytest.raises(InputError, match="DICOM out") as caught:
        write_objects(tmp_path / "dicom", answer_for(sources), sources, MODEL)
    assert "A17" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "dicom").exists()


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    sources = series(1)
    with pytest.raises(InputError, match="can't be written"):
        write_objects(tmp_path / "file", answer_for(sources), sources, MODEL)
