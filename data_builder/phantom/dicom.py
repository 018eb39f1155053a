"""Encodes a synthetic study as CT Image Storage objects (DICOM PS3.3 A.3), one for each slice.

Names, numbers and dates are synthetic and look it; Quality Control Subject (0010,0200) is YES, the
standard's mark of a phantom, and with `dicom.header.PHANTOM_MARKS` a reader knows it for synthetic.
"""

import datetime

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_builder.phantom.scan import INTERCEPT, PADDING_STORED, SIZE, THICKNESS_MM, PhantomStudy

# Texts inside the objects stay as they are: they belong to the bytes of VERSION 1.
NOTICE = "Made-up phantom: results on it say nothing about patients."
_IMPLEMENTATION = generate_uid(entropy_srcs=["dtvit-jax phantom"])
_SCANNERS = ("PHANTOM A", "PHANTOM B")


def patient_id(subject: int) -> str:
    """Patient ID (0010,0020) of a synthetic subject."""
    return f"PHANTOM-{subject:04d}"


def slice_uid(seed: int, subject: int, visit: int, index: int) -> str:
    """SOP Instance UID (0008,0018) of slice `index`, counted from the skull base."""
    return _uid("slice", seed, subject, visit, index)


def _uid(*words: object) -> str:
    # Joined with "/": pydicom concatenates its sources, and subject 4, visit 01 would equal 40, 1.
    return generate_uid(entropy_srcs=["/".join(["dtvit-jax", *map(str, words)])])


def _ds(values: object) -> list[str]:
    """Decimal Strings (at most 16 characters) of numbers in mm or of direction cosines."""
    return [f"{v:.9f}".rstrip("0").rstrip(".")[:16] for v in np.ravel(np.asarray(values)) + 0.0]


def to_dicom(study: PhantomStudy, seed: int, subject: int, visit: int) -> list[Dataset]:
    """The study's slices as DICOM objects, from the skull base up.

    Instance Number rises with the position in half of the studies and falls in the others, as on
    scanners. The same arguments give the same bytes.
    """
    rng = np.random.default_rng((seed, subject, 4))
    scanned = datetime.datetime(2001, 1, 1, 8, 0) + datetime.timedelta(
        days=int(rng.integers(0, 3000)), minutes=int(rng.integers(0, 600))
    )
    scanned += visit * datetime.timedelta(hours=int(rng.integers(20, 60)))  # within 72 hours
    upward = bool(rng.integers(2))
    common = _study_level(study, seed, subject, visit, scanned)
    common.ManufacturerModelName = _SCANNERS[int(rng.integers(2))]
    slices = len(study.hu)
    stored = (study.hu.astype(np.int32) - INTERCEPT).astype("<i2")
    objects = []
    for index in range(slices):
        uid = UID(slice_uid(seed, subject, visit, index))
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = _IMPLEMENTATION
        meta.ImplementationVersionName = "DTVIT_PHANTOM"
        image = Dataset()
        image.update(common)
        image.file_meta = meta
        image.SOPInstanceUID = uid
        image.InstanceNumber = index + 1 if upward else slices - index
        image.ImagePositionPatient = _ds(study.geometry.origins[index])
        image.SliceLocation = _ds(study.geometry.positions[index])[0]
        image.PixelData = stored[index].tobytes()
        objects.append(image)
    return objects


def _study_level(
    study: PhantomStudy, seed: int, subject: int, visit: int, scanned: datetime.datetime
) -> Dataset:
    """The elements that all slices of a study share."""
    ds, geometry = Dataset(), study.geometry
    date, time = scanned.strftime("%Y%m%d"), scanned.strftime("%H%M%S")
    # Patient, General Study
    ds.PatientName = f"PHANTOM^{subject:04d}"
    ds.PatientID = patient_id(subject)
    ds.IssuerOfPatientID = "DTVIT-JAX"
    ds.PatientBirthDate = ""
    ds.PatientSex = study.head.sex
    ds.PatientAge = f"{study.head.age:03d}Y"
    ds.QualityControlSubject = "YES"
    ds.PatientComments = NOTICE
    ds.StudyInstanceUID = _uid("study", seed, subject, visit)
    ds.StudyID = str(visit + 1)
    ds.StudyDescription = "HEAD, MADE-UP PHANTOM"
    ds.ReferringPhysicianName = ""
    ds.AccessionNumber = ""
    for name in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{name}Date", date)
        setattr(ds, f"{name}Time", time)
    # General Series, Frame of Reference, General Equipment
    ds.Modality = "CT"
    ds.SeriesInstanceUID = _uid("series", seed, subject, visit)
    ds.SeriesNumber = 2
    ds.SeriesDescription = "AXIAL 5 MM"
    ds.BodyPartExamined = "HEAD"
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = _uid("frame", seed, subject, visit)
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = "DTViT-JAX"
    ds.SoftwareVersions = "phantom"
    # General Image, Image Plane
    ds.SOPClassUID = CTImageStorage
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionNumber = 1
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.PixelSpacing = _ds([geometry.pixel_mm] * 2)
    ds.ImageOrientationPatient = _ds((1, 0, 0, *geometry.column))
    ds.SliceThickness = _ds(THICKNESS_MM)[0]
    # CT Image
    ds.KVP = "120"
    ds.XRayTubeCurrent = 200
    ds.ExposureTime = 1000
    ds.ConvolutionKernel = "STANDARD"
    ds.GantryDetectorTilt = _ds(geometry.gantry_degrees)[0]
    ds.ReconstructionDiameter = _ds(geometry.pixel_mm * SIZE)[0]
    ds.RescaleIntercept = str(INTERCEPT)
    ds.RescaleSlope = "1"
    ds.RescaleType = "HU"
    # Image Pixel, VOI LUT
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = SIZE, SIZE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = 1
    ds.PixelPaddingValue = PADDING_STORED
    ds.WindowCenter, ds.WindowWidth = ["40", "600"], ["80", "2800"]
    ds.WindowCenterWidthExplanation = ["BRAIN", "BONE"]
    return ds
