"""The structured report gives its numbers back and states the model, the slices and the notice."""

import highdicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dtvit_jax.dicom import codes as dicom_codes
from dtvit_jax.dicom.structured_report import structured_report
from tests.helpers.answers import MODEL, answer_for
from tests.helpers.dicom_objects import MADE, ODD, frames, series, written


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("odd", "keyword", "value"),
    [
        ("private", "StudyDate", "20010203"),
        ("private", "StudyTime", "101112"),
        ("other alphabet", "PatientName", "Yamada^Tarou=山田^太郎"),
        ("too long", "PatientID", None),  # truncated, it could be somebody else's
        ("two values", "PatientID", None),
        ("no such date", "StudyDate", None),
        ("control", "PatientName", None),
    ],
)
def test_an_odd_value_is_corrected_without_guessing_or_left_empty(odd, keyword, value):
    sources = ODD[odd]()
    assert (structured_report(answer_for(sources), sources, MODEL)[keyword].value or None) == value


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
        locations = group.get_measurements(name=dicom_codes.PROBABILITY_OF_LOCATION)
        assert tuple(location.value for location in locations) == truth.p_location
        assert [modifier_of(location.finding_sites[0]) for location in locations] == list(
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
    # 'Intracranial hemorrhage' is wider than the model's finding: never under a negative answer.
    assert study.finding_category is None


def test_remarks_follow_the_notice():
    sources, remark = series(1), "Trained on synthetic phantoms"
    report = structured_report(answer_for(sources), sources, MODEL, MADE, [remark])
    assert list(texts_of(report, dicom_codes.COMMENT))[1:] == [remark]
    own = answer_for(sources, remarks=("1 of 9 slices is left out",))
    report = structured_report(own, sources, MODEL, MADE, [remark])
    assert list(texts_of(report, dicom_codes.COMMENT))[1:] == [remark, *own.remarks]


def test_sources_are_not_changed():
    sources = series(2)
    before = [Dataset(source) for source in sources]
    structured_report(answer_for(sources), sources, MODEL)
    assert sources == before


@pytest.mark.parametrize("sources", [series(7), frames(7)], ids=["classic", "multi-frame"])
def test_a_study_without_a_probability_has_one_group_and_no_measurement_of_it(sources, tmp_path):
    answer = answer_for(
        sources, decision="uncertain", location="", p_hemorrhage=None, p_location=None,
        reasons=("7 of 7 slices are unlike the training slices",),
    )  # fmt: skip
    path, _ = written(tmp_path, sources, answer)
    (study,) = groups_of(path)
    assert not study.get_measurements(name=dicom_codes.PROBABILITY)
    assert not study.get_measurements(name=dicom_codes.PROBABILITY_OF_LOCATION)
    (presence,) = study.get_qualitative_evaluations(name=dicom_codes.PRESENCE)
    assert presence.value == codes.DCM.PresenceUndetermined
    evidence = {uid for *_, uid, _ in highdicom.sr.srread(path).get_evidence()}
    assert evidence == {source.SOPInstanceUID for source in sources}
    with_numbers, _ = written(tmp_path / "other", sources)
    uids = {highdicom.sr.srread(each).SOPInstanceUID for each in (path, with_numbers)}
    assert len(uids) == 2
