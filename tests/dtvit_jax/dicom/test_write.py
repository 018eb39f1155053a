"""An answer becomes valid DICOM objects that give its numbers back and name no more than needed."""

import dataclasses
import datetime
import shutil
import stat
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from data_builder.errors import InputError
from dtvit_jax.dicom import codes as dicom_codes
from dtvit_jax.dicom.write import (
    Overlay,
    likeliest,
    secondary_capture,
    structured_report,
    write_objects,
)
from tests.helpers import ROOT
from tests.helpers.answers import MODEL, answer_for, overlay_image
from tests.helpers.dicom_files import ct, enhanced, head_hu

MADE = datetime.datetime(2020, 2, 3, 4, 5, 6)
GE_HEAD = ROOT / "../shared/data/ge_head_dicom"


def series(count=7, **changes):
    return [
        ct(**{"InstanceNumber": i + 1, "SOPInstanceUID": generate_uid()} | changes)
        for i in range(count)
    ]


def frames(count=4):
    return [enhanced(np.stack([head_hu()] * count), [5.0 * i for i in range(count)])]


def written(folder, sources, answer=None, size=64):
    answer = answer or answer_for(sources)
    overlays = [Overlay(i, overlay_image(size, size), "made-up map") for i in likeliest(answer)[:2]]
    return write_objects(folder, answer, sources, MODEL, overlays, MADE)


def errors_of(path):
    """What dciodvfy (Debian's dicom3tools) calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    said = (run.stdout + run.stderr).splitlines()
    assert any(line in ("Comprehensive3DSR", "MultiframeTrueColorSCImage") for line in said)
    return [line for line in said if line.startswith("Error")]


def assert_valid(paths):
    assert [path.name for path in paths] == ["sr.dcm", "capture.dcm"]
    for path in paths:
        assert errors_of(path) == []


def test_dciodvfy_does_call_a_broken_object_broken(tmp_path):
    path, _ = written(tmp_path, series(2))
    ds = pydicom.dcmread(path)
    del ds.StudyInstanceUID, ds.ContentDate
    ds.save_as(path)
    assert errors_of(path)


def test_objects_of_phantoms_are_valid(phantoms, tmp_path):
    study = sorted((phantoms[0] / "phantom-0001-1").glob("*.dcm"))
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in study]
    assert_valid(written(tmp_path, sources, size=512))


def test_objects_of_a_real_head_are_valid(tmp_path):
    if not GE_HEAD.is_dir():
        pytest.skip("the GE head is not here")
    paths = sorted(GE_HEAD.glob("*.dcm"))
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    assert_valid(written(tmp_path, sources, size=512))


def _private_and_retired():
    private = ct()
    block = private.private_block(0x0019, "SOMEBODY", create=True)
    block.add_new(1, "LO", "Secret^Name")
    private.add_new((0x0008, 0x0001), "UL", 1)  # Length to End, retired
    private.StudyDate, private.StudyTime = "2001.02.03", "10:11:12"  # ACR-NEMA's
    return [private]


def _other_alphabet():
    ds = ct(SpecificCharacterSet=["ISO 2022 IR 6", "ISO 2022 IR 87"])
    ds.PatientName = "Yamada^Tarou=山田^太郎"
    return [ds]


def _wrong_alphabet():
    ds = ct(SpecificCharacterSet="NO SUCH SET")
    ds.add_new("PatientName", "PN", b"M\xfcller^\xff")
    return [ds]


def _no_file_uid():
    one, other = series(2)
    del one.SOPInstanceUID, one.file_meta
    return [one, other]


def _lossy():
    return series(
        2,
        LossyImageCompression="01",
        LossyImageCompressionRatio=[10],
        LossyImageCompressionMethod="ISO_10918_1",
    )


ODD = {
    "bare": lambda: series(2, PatientID=None),
    "one": lambda: series(1),
    "empty": lambda: series(2, StudyID="", AccessionNumber="", PatientBirthDate="", PatientSex=""),
    "too long": lambda: series(2, PatientID="1" * 80, StudyID="x" * 30, AccessionNumber="y" * 17),
    "no such date": lambda: series(1, StudyDate="20019999", PatientBirthDate="about 1950"),
    "no such sex": lambda: series(1, PatientSex="female"),
    "two values": lambda: series(1, PatientID="1\\2", StudyID="a\\b"),
    "control": lambda: series(1, PatientName="A\x07B^C\r\n", ReferringPhysicianName="x" * 70),
    "many parts": lambda: series(1, PatientName="A^B^C^D^E^F=G=H=I"),
    "no class": lambda: series(2, SOPClassUID=None),
    "private": _private_and_retired,
    "other alphabet": _other_alphabet,
    "wrong alphabet": _wrong_alphabet,
    "a slice without UID": _no_file_uid,
    "lossy": _lossy,
    "multi-frame": frames,
    "multi-frame of one": lambda: frames(1),
}


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("odd", "keyword", "value"),
    [
        ("private", "StudyDate", "20010203"),
        ("private", "StudyTime", "101112"),
        ("other alphabet", "PatientName", "Yamada^Tarou=山田^太郎"),
        ("too long", "PatientID", None),  # cut, it could be somebody else's
        ("two values", "PatientID", None),
        ("no such date", "StudyDate", None),
        ("control", "PatientName", None),
    ],
)
def test_an_odd_value_is_mended_without_guessing_or_left_empty(odd, keyword, value):
    sources = ODD[odd]()
    assert (structured_report(answer_for(sources), sources, MODEL)[keyword].value or None) == value


def test_known_identity_is_the_sources_and_nothing_else_is_taken(tmp_path):
    known = {
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
    sources = series(3, SpecificCharacterSet="ISO_IR 192", **known, **more)
    answer = answer_for(sources)
    for path in written(tmp_path, sources, answer):
        ds, data = pydicom.dcmread(path), path.read_bytes()
        assert {keyword: str(ds[keyword].value) for keyword in known} == known
        assert b"Hidden" not in data and b"077Y" not in data
        for pseudonym in (answer.key, answer.subject, answer.slices[0].key):
            assert pseudonym.encode() not in data
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent == tmp_path / answer.key
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def groups_of(path):
    return highdicom.sr.srread(path).content.get_image_measurement_groups()


def modifier_of(site):
    (modifier,) = (item for item in site.ContentSequence if item.name.value == "106233006")
    return modifier.value


@pytest.mark.parametrize("sources", [series(7), frames(7)], ids=["classic", "multi-frame"])
def test_a_round_trip_gives_back_the_numbers(sources, tmp_path):
    answer = answer_for(sources)
    path, _ = written(tmp_path, sources, answer)
    study, *slices = groups_of(path)
    assert len(slices) == 5  # the likeliest of seven
    likely = sorted(answer.slices, key=lambda one: one.p_hemorrhage)[:1:-1]
    for group, truth in zip([study, *slices], [answer, *likely], strict=True):
        (probability,) = group.get_measurements(name=dicom_codes.PROBABILITY)
        assert probability.value == truth.p_hemorrhage
        assert probability.unit == codes.UCUM.NoUnits
        places = group.get_measurements(name=dicom_codes.PROBABILITY_OF_LOCATION)
        assert tuple(place.value for place in places) == truth.p_location
        assert [modifier_of(place.finding_sites[0]) for place in places] == list(
            dicom_codes.SITE_MODIFIERS.values()
        )
        assert group.finding_type == dicom_codes.FINDING
        (presence,) = group.get_qualitative_evaluations(name=dicom_codes.PRESENCE)
        assert presence.value == dicom_codes.DECISIONS[truth.decision]
    (threshold,) = study.get_measurements(name=dicom_codes.THRESHOLD)
    assert threshold.value == answer.threshold
    assert modifier_of(study.finding_sites[0]) == codes.SCT.Deep
    for group, truth in zip(slices, likely, strict=True):
        (image,) = group.source_images
        assert image.referenced_sop_instance_uid == sources[truth.file].SOPInstanceUID
        numbers = None if truth.frame is None else [truth.frame + 1]
        assert image.referenced_frame_numbers == numbers
        (outlier,) = group.get_measurements(name=dicom_codes.OUTLIER)
        assert outlier.value == truth.outlier


def texts_of(item, name):
    for child in item.ContentSequence:
        if child.ValueType == "TEXT" and child.ConceptNameCodeSequence[0].CodeValue == name.value:
            yield child.TextValue
        if "ContentSequence" in child:
            yield from texts_of(child, name)


def test_the_report_says_which_model_which_slices_and_that_it_is_research(tmp_path):
    sources = series(7)
    reasons = ("unlike the training slices", "between the two thresholds")
    answer = answer_for(sources, decision="uncertain", location="", reasons=reasons)
    path, _ = written(tmp_path, sources, answer)
    report = highdicom.sr.srread(path)
    (device,) = report.content.get_observer_contexts()
    device = device.observer_identifying_attributes
    assert device.model_name == MODEL.name
    assert device.serial_number == MODEL.weights_sha256
    assert MODEL.version in device.name
    assert report.SoftwareVersions == MODEL.version
    assert report.ContentQualification == "RESEARCH"
    assert report.SeriesDescription == "Research use, not for clinical use"
    assert list(texts_of(report, dicom_codes.COMMENT)) == ["Research use, not for clinical use."]
    assert list(texts_of(report, dicom_codes.REASON)) == list(reasons)
    assert list(texts_of(report, dicom_codes.OPERATING_POINT)) == [answer.point]
    evidence = {uid for *_, uid, _ in report.get_evidence()}
    assert evidence == {source.SOPInstanceUID for source in sources}
    study = groups_of(path)[0]
    (presence,) = study.get_qualitative_evaluations(name=dicom_codes.PRESENCE)
    assert presence.value == codes.DCM.PresenceUndetermined
    assert study.finding_sites == []
    # 'Intracranial hemorrhage' is wider than what was looked for: never under a negative answer.
    assert study.finding_category is None


def test_a_remark_stands_in_both_objects():
    sources, remark = series(1), "Trained on made-up phantoms"
    answer, overlays = answer_for(sources), [Overlay(0, overlay_image(512, 512), "map")]
    report = structured_report(answer, sources, MODEL, MADE, [remark])
    assert list(texts_of(report, dicom_codes.COMMENT))[1:] == [remark]
    plain = secondary_capture(answer, sources, MODEL, overlays, MADE).pixel_array
    remarked = secondary_capture(answer, sources, MODEL, overlays, MADE, [remark]).pixel_array
    rows = plain.shape[0]
    np.testing.assert_array_equal(remarked[:rows], plain)
    assert remarked[rows:].any()  # a line more


def test_a_capture_shows_the_overlays_at_their_own_resolution_with_the_notice():
    sources = series(3)
    answer, image = answer_for(sources), overlay_image(512, 512)
    overlays = [Overlay(2, image, "map one"), Overlay(0, image[:, ::-1].copy(), "map two")]
    ds = secondary_capture(answer, sources, MODEL, overlays, MADE)
    shown = ds.pixel_array
    assert shown.shape[0] == 2 and shown.shape[2:] == (512, 3)
    top = next(row for row in range(60) if (shown[0, row : row + 512] == image).all())
    np.testing.assert_array_equal(shown[1, top : top + 512], image[:, ::-1])
    yellow = (shown[:, :top] == (255, 255, 0)).all(-1).sum((1, 2))
    assert (yellow > 300).all()  # the notice, on every frame
    assert ds.ImageComments == ds.SeriesDescription == "Research use, not for clinical use"
    assert ds.BurnedInAnnotation == "NO" and ds.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] == [
        sources[2].SOPInstanceUID,
        sources[0].SOPInstanceUID,
    ]


def test_asking_again_changes_nothing_and_another_answer_replaces(tmp_path):
    sources = series(3)
    answer = answer_for(sources)
    first = [path.read_bytes() for path in written(tmp_path, sources, answer)]
    elsewhere = [path.read_bytes() for path in written(tmp_path / "other", sources, answer)]
    assert first == elsewhere
    overlays = [Overlay(i, overlay_image(), "made-up map") for i in likeliest(answer)[:2]]
    again = write_objects(tmp_path, answer, sources, MODEL, overlays)  # now, not then
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
def test_what_can_not_be_tied_to_a_study_is_an_error_that_names_nobody(make, tmp_path):
    sources = make()
    with pytest.raises(InputError, match="DICOM out") as caught:
        write_objects(tmp_path / "dicom", answer_for(sources), sources, MODEL)
    assert "A17" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "dicom").exists()


def test_a_folder_that_can_not_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    sources = series(1)
    with pytest.raises(InputError, match="can't be written"):
        write_objects(tmp_path / "file", answer_for(sources), sources, MODEL)


def test_a_source_is_left_as_it_was():
    sources = series(2)
    before = [Dataset(source) for source in sources]
    structured_report(answer_for(sources), sources, MODEL)
    assert sources == before
