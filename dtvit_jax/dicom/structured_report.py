"""Makes a Comprehensive 3D SR of a study's answer by TID 1500 (Measurement Report)."""

import datetime
from collections.abc import Iterator, Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from data_builder.records import LOCATIONS
from dtvit_jax.decision.answer import ModelIdentity, SliceAnswer, StudyAnswer
from dtvit_jax.dicom import codes as dicom_codes
from dtvit_jax.dicom.source_study import (
    SourceStudy,
    derived_uid,
    instance_uid,
    read_source_study,
    series_uid,
)
from dtvit_jax.runtime import quiet_libraries

MANUFACTURER = "DTViT-JAX"
SLICES_REPORTED = 5
"""How many slices have a measurement group: the most probable ones; slices.csv has them all."""

_SERIES_NUMBER = 9001


def structured_report(
    answer: StudyAnswer,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    made: datetime.datetime | None = None,
    remarks: Sequence[str] = (),
) -> Comprehensive3DSR:
    """Makes the report: a measurement group for the study and for each of the likeliest slices.

    A study that has no probability has no group of a slice either.

    Args:
      answer: the study's answer.
      sources: the DICOM objects that the slices' `file` counts through; their pixels are not read.
      model: the model that answered.
      made: the report's date and time; None: now.
      remarks: texts after the notice.

    Raises InputError as `read_source_study` does.
    """
    quiet_libraries()
    study = read_source_study(sources)
    made = made or datetime.datetime.now()
    groups = [_study_group(answer, study, model, remarks)]
    if answer.p_hemorrhage is not None:
        groups += [_slice_group(answer, index, study, model) for index in likeliest(answer)]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(model)),
        procedure_reported=dicom_codes.PROCEDURE,
        imaging_measurements=groups,
    )
    report = Comprehensive3DSR(
        evidence=_evidence(answer, study),
        content=content,
        series_instance_uid=series_uid(study, model, "sr"),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=instance_uid(study, model, "sr", answer),
        instance_number=1,
        is_complete=True,
        series_description=dicom_codes.NOTICE,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.weights_sha256,
        content_qualification="RESEARCH",
        content_date=made.date(),
        content_time=made.time(),
        coding_schemes=[dicom_codes.scheme_item()],
    )
    study.stamp(report, made)
    return report


def likeliest(answer: StudyAnswer) -> list[int]:
    """Indices in `answer.slices` of the slices reported, the most probable hemorrhage first."""
    indices = range(len(answer.slices))
    return sorted(indices, key=lambda i: -answer.slices[i].p_hemorrhage)[:SLICES_REPORTED]


def _observer(model: ModelIdentity) -> ObserverContext:
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", model.weights_sha256),
            name=f"{MANUFACTURER} {model.version}",
            manufacturer_name=MANUFACTURER,
            model_name=model.name,
            serial_number=model.weights_sha256,
        ),
    )


def _study_group(
    answer: StudyAnswer, study: SourceStudy, model: ModelIdentity, remarks: Sequence[str]
) -> MeasurementsAndQualitativeEvaluations:
    sites = None
    if answer.decision == "ich" and answer.location:
        sites = [_site(answer.location)]
    threshold = Measurement(dicom_codes.THRESHOLD, answer.threshold, dicom_codes.NO_UNITS)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            derived_uid("study", study.study_uid, model.weights_sha256), "study"
        ),
        finding_category=_category(answer.decision),
        finding_type=dicom_codes.FINDING,
        finding_sites=sites,
        algorithm_id=AlgorithmIdentification(
            name=model.name,
            version=model.version,
            parameters=[f"weights SHA-256 {model.weights_sha256}"],
            manufacturer=MANUFACTURER,
        ),
        measurements=[*_probabilities(answer), threshold],
        qualitative_evaluations=[_presence(answer.decision)],
    )
    (container,) = group  # TID 1501 is one container, extensible, with texts at its end
    container.ContentSequence.extend(_texts(answer, remarks))
    return group


def _slice_group(
    answer: StudyAnswer, index: int, study: SourceStudy, model: ModelIdentity
) -> MeasurementsAndQualitativeEvaluations:
    slice_answer = answer.slices[index]
    outlier = Measurement(dicom_codes.OUTLIER, slice_answer.outlier, dicom_codes.NO_UNITS)
    reference = study.references.get(slice_answer.file)
    images = None
    if reference is not None:
        frames = None if reference.frames is None else [(slice_answer.frame or 0) + 1]
        images = [
            SourceImageForMeasurementGroup(reference.sop_class, reference.sop_instance, frames)
        ]
    return MeasurementsAndQualitativeEvaluations(
        # No pseudonym: in an object with the patient's name it would reveal all the others.
        tracking_identifier=TrackingIdentifier(
            derived_uid("slice", study.study_uid, model.weights_sha256, str(index)),
            f"slice {index + 1} of {len(answer.slices)}",
        ),
        finding_category=_category(slice_answer.decision),
        finding_type=dicom_codes.FINDING,
        measurements=[*_probabilities(slice_answer), outlier],
        qualitative_evaluations=[_presence(slice_answer.decision)],
        source_images=images,
    )


def _probabilities(answer: StudyAnswer | SliceAnswer) -> Iterator[Measurement]:
    """None of a study in which no slice counts."""
    if answer.p_hemorrhage is None or answer.p_location is None:
        return
    yield Measurement(dicom_codes.PROBABILITY, answer.p_hemorrhage, dicom_codes.NO_UNITS)
    for location, probability in zip(LOCATIONS, answer.p_location, strict=True):
        yield Measurement(
            dicom_codes.PROBABILITY_OF_LOCATION,
            probability,
            dicom_codes.NO_UNITS,
            finding_sites=[_site(location)],
        )


def _site(location: str) -> FindingSite:
    modifier = dicom_codes.SITE_MODIFIERS[location]
    return FindingSite(dicom_codes.SITE, topographical_modifier=modifier)


def _category(decision: str) -> Code | None:
    """The wider finding that the standard has a code for: present wherever this one is."""
    return dicom_codes.FINDING_CATEGORY if decision == "ich" else None


def _presence(decision: str) -> QualitativeEvaluation:
    return QualitativeEvaluation(dicom_codes.PRESENCE, dicom_codes.DECISIONS[decision])


def _texts(answer: StudyAnswer, remarks: Sequence[str]) -> list[TextContentItem]:
    """The notice, the operating point and the reasons, for which there are no codes."""

    def item(name: Code, text: str) -> TextContentItem:
        return TextContentItem(name, text, RelationshipTypeValues.CONTAINS)

    return [
        item(dicom_codes.COMMENT, f"{dicom_codes.NOTICE}."),
        *(item(dicom_codes.COMMENT, remark) for remark in (*remarks, *answer.remarks)),
        item(dicom_codes.OPERATING_POINT, answer.point),
        *(item(dicom_codes.REASON, reason) for reason in answer.reasons),
    ]


def _evidence(answer: StudyAnswer, study: SourceStudy) -> list[Dataset]:
    """The slices' images as objects of UIDs alone, so that the library copies nothing else."""
    evidence = []
    for index in sorted({one.file for one in answer.slices} & set(study.references)):
        reference, ds = study.references[index], Dataset()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study.study_uid, reference.series
        ds.SOPClassUID, ds.SOPInstanceUID = reference.sop_class, reference.sop_instance
        ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
        ds.AccessionNumber = ds.StudyID = ds.StudyDate = ds.StudyTime = ""
        ds.ReferringPhysicianName = ""
        evidence.append(ds)
    return evidence
