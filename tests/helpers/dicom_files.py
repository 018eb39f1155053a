"""Small synthetic CT objects, made with pydicom alone."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)


def head_hu(rows=64, columns=64):
    """A disc of brain in a skull in air, with a ramp that reveals a wrong pixel; int [r, c]."""
    y, x = np.mgrid[:rows, :columns]
    far = np.hypot((y - rows / 2 + 0.5) / rows, (x - columns / 2 + 0.5) / columns)
    hu = np.where(far < 0.40, 1000, -1000)
    return np.where(far < 0.34, 20 + (x + 3 * y) % 40, hu)


def ct(hu=None, **changes):
    """A CT Image Storage object: stored = HU + 1024, unsigned 12 of 16 bits.

    `changes` are attributes by keyword; None deletes one.
    """
    hu = head_hu() if hu is None else hu
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["a study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["a series"])
    ds.Modality = "CT"
    ds.PatientID = "A17"
    ds.QualityControlSubject = "YES"  # the mark of a phantom
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber = 1
    ds.ImagePositionPatient = [-30, -30, 5]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [3.5, 3.5]
    ds.SliceThickness = 5
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = np.shape(hu)[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.PixelData = (np.asarray(hu) + 1024).astype("<u2").tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def enhanced(stack, z, **changes):
    """An Enhanced CT object: HU [frames, rows, columns] at heights `z` mm."""
    ds = ct(np.asarray(stack), SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(z))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, keyword)
    del ds.RescaleSlope, ds.RescaleIntercept, ds.SliceThickness
    shared = Dataset()
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [3.5, 3.5]
    shared.PixelMeasuresSequence[0].SliceThickness = 2.5
    shared.PixelValueTransformationSequence = [Dataset()]
    shared.PixelValueTransformationSequence[0].RescaleSlope = 1
    shared.PixelValueTransformationSequence[0].RescaleIntercept = -1024
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    for height in z:
        frame = Dataset()
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [-30, -30, height]
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def encoded(ds):
    """The object as the bytes of a file, in the transfer syntax of its file meta group."""
    syntax = ds.file_meta.TransferSyntaxUID
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CTImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    if syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
