"""Synthetic head-CT studies as DICOM files, and calls of predict over them."""

import csv

import numpy as np
from pydicom.uid import generate_uid

from data_builder.dicom.header import PHANTOM_MARKS
from dtvit_jax import predict
from tests.helpers.dicom_files import ct, encoded, head_hu

NAME = "Doe^Jane"


def head(i, study="a study", patient="A17", **changes):
    """Slice `i` of a study: a disc whose ramp is rotated by i quarter turns.

    It is marked as a synthetic phantom, as the model of `model_folder` is trained on some.
    """
    hu = np.rot90(head_hu(), i % 4) + (i // 4)
    return ct(
        hu.copy(),
        SOPInstanceUID=generate_uid(entropy_srcs=[study, str(i)]),
        StudyInstanceUID=generate_uid(entropy_srcs=[study]),
        PatientID=patient,
        PatientName=NAME,
        ImagePositionPatient=[-30, -30, 5.0 * i],
        InstanceNumber=i + 1,
        **PHANTOM_MARKS | changes,
    )


def write(folder, datasets):
    """Writes DICOM files whose names hold a person's; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, ds in enumerate(datasets):
        (folder / f"Jane Doe {i:02d}.dcm").write_bytes(encoded(ds))
    return folder


def run(*arguments, key="public"):
    """Runs predict with one worker, without DICOM objects and maps unless asked for; the status."""
    argv = [*arguments, "--key", key, "--jobs", "1"]
    if "--dicom_out" not in arguments:
        argv += ["--dicom_out", "no", "--explain", "none"]
    return predict.main(list(map(str, argv)))


def table(path):
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
