"""A study's answer as a Comprehensive 3D SR after TID 1500 (Measurement Report)."""

import datetime
import logging
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
from dtvit_jax.dicom.source_study import Origin, derived_uid, instance_uid, read_origin, series_uid

MANUFACTURER = "DTViT-JAX"
SLICES_REPORTED = 5
"""Measurement groups for slices: the likeliest ones; results.csv has them all."""

_SERIES_NUMBER = 9001

# It tells each source's UID as it goes along.
logging.getLogger("highdicom").setLevel(logging.WARNING)


def structured_report(
    answer: StudyAnswer,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    made: datetime.datetime | None = None,
    remarks: Sequence[str] = (),
) -> Comprehensive3DSR:
    """The report of `answer`: a measurement group for the study, one for each likeliest slice.

    `sources` are the DICOM objects that the slices' `file` counts through; their pixels are not
    read. `made` is the time that it says it was made at (None: now); `remarks` are said beside the
    notice. Raises InputError as `read_origin` does.
    """
    origin = read_origin(sources)
    made = made or datetime.datetime.now()
    groups = [_study_group(answer, origin, model)]
    groups += [_slice_group(answer, rank, origin, model) for rank in likeliest(answer)]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(model)),
        procedure_reported=dicom_codes.PROCEDURE,
        imaging_measurements=groups,
    )
    content[0].ContentSequence[-1].ContentSequence[0].ContentSequence.extend(
        _words(answer, remarks)
    )
    report = Comprehensive3DSR(
        evidence=_evidence(answer, origin),
        content=content,
        series_instance_uid=series_uid(origin, model, "sr"),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=instance_uid(origin, model, "sr", answer),
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
    origin.stamp(report, made)
    return report


def likeliest(answer: StudyAnswer) -> list[int]:
    """Places in `answer.slices` of the slices reported, the likeliest to show a bleed first."""
    places = range(len(answer.slices))
    return sorted(places, key=lambda i: -answer.slices[i].p_hemorrhage)[:SLICES_REPORTED]


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
    answer: StudyAnswer, origin: Origin, model: ModelIdentity
) -> MeasurementsAndQualitativeEvaluations:
    sites = None
    if answer.decision == "ich" and answer.location:
        sites = [_site(answer.location)]
    threshold = Measurement(dicom_codes.THRESHOLD, answer.threshold, dicom_codes.NO_UNITS)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            derived_uid("study", origin.study_uid, model.weights_sha256), "study"
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


def _slice_group(
    answer: StudyAnswer, place: int, origin: Origin, model: ModelIdentity
) -> MeasurementsAndQualitativeEvaluations:
    one = answer.slices[place]
    outlier = Measurement(dicom_codes.OUTLIER, one.outlier, dicom_codes.NO_UNITS)
    reference = origin.references.get(one.file)
    images = None
    if reference is not None:
        frames = None if reference.frames is None else [(one.frame or 0) + 1]
        images = [
            SourceImageForMeasurementGroup(reference.sop_class, reference.sop_instance, frames)
        ]
    return MeasurementsAndQualitativeEvaluations(
        # No pseudonym here: beside the patient's name it would undo all others.
        tracking_identifier=TrackingIdentifier(
            derived_uid("slice", origin.study_uid, model.weights_sha256, str(place)),
            f"slice {place + 1} of {len(answer.slices)}",
        ),
        finding_category=_category(one.decision),
        finding_type=dicom_codes.FINDING,
        measurements=[*_probabilities(one), outlier],
        qualitative_evaluations=[_presence(one.decision)],
        source_images=images,
    )


def _probabilities(answer: StudyAnswer | SliceAnswer) -> Iterator[Measurement]:
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
    """The wider finding that the standard has a code for: it is there if this one is."""
    return dicom_codes.FINDING_CATEGORY if decision == "ich" else None


def _presence(decision: str) -> QualitativeEvaluation:
    return QualitativeEvaluation(dicom_codes.PRESENCE, dicom_codes.DECISIONS[decision])


def _words(answer: StudyAnswer, remarks: Sequence[str]) -> list[TextContentItem]:
    """What codes do not say: TID 1501 is extensible, and takes texts at its end."""

    def item(name: Code, text: str) -> TextContentItem:
        return TextContentItem(name, text, RelationshipTypeValues.CONTAINS)

    return [
        item(dicom_codes.COMMENT, f"{dicom_codes.NOTICE}."),
        *(item(dicom_codes.COMMENT, remark) for remark in remarks),
        item(dicom_codes.OPERATING_POINT, answer.point),
        *(item(dicom_codes.REASON, reason) for reason in answer.reasons),
    ]


def _evidence(answer: StudyAnswer, origin: Origin) -> list[Dataset]:
    """Stand-ins for the slices' images: UIDs alone, so that the library copies no more."""
    evidence = []
    for place in sorted({one.file for one in answer.slices} & set(origin.references)):
        reference, ds = origin.references[place], Dataset()
        ds.StudyInstanceUID, ds.SeriesInstanceUID = origin.study_uid, reference.series
        ds.SOPClassUID, ds.SOPInstanceUID = reference.sop_class, reference.sop_instance
        ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = ""
        ds.AccessionNumber = ds.StudyID = ds.StudyDate = ds.StudyTime = ""
        ds.ReferringPhysicianName = ""
        evidence.append(ds)
    return evidence
