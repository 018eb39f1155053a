"""Files read by pydicom have the voxels, the geometry and the labels of their studies."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from data_builder.dicom.header import PHANTOM_MARKS, frame_header
from data_builder.dicom.read import read_slices
from data_builder.phantom import Tissue, make_study, plan
from data_builder.phantom.dicom import slice_uid
from tests.helpers.phantoms import SEED, SUBJECTS


def read(folder: Path) -> list[pydicom.Dataset]:
    """A study's objects in the order of their position along the normal of the planes."""
    objects = [pydicom.dcmread(f) for f in folder.glob("*.dcm")]
    row, column = np.split(np.array(objects[0].ImageOrientationPatient, float), 2)
    normal = np.cross(row, column)
    return sorted(objects, key=lambda o: float(np.array(o.ImagePositionPatient, float) @ normal))


def test_dicom_round_trip_gives_the_voxels_and_the_geometry(folder):
    record = json.loads((folder / "phantom.json").read_text())
    for visit in plan(SUBJECTS, SEED)[1:]:
        study = make_study(SEED, visit.subject, visit.location, visit.visit)
        objects = read(folder / visit.folder)
        for index, (o, hu) in enumerate(zip(objects, study.hu, strict=True)):
            stored = o.pixel_array.astype(int)
            np.testing.assert_array_equal(
                stored * int(o.RescaleSlope) + int(o.RescaleIntercept), hu
            )
            padding = study.classes[index] == Tissue.PADDING
            assert (stored[padding] == o.PixelPaddingValue).all()
            np.testing.assert_allclose(
                np.array(o.ImagePositionPatient, float), study.geometry.origins[index], atol=1e-6
            )
            tilt = np.deg2rad(float(o.GantryDetectorTilt))
            np.testing.assert_allclose(
                np.array(o.ImageOrientationPatient, float),
                [1, 0, 0, 0, np.cos(tilt), -np.sin(tilt)],
                atol=1e-6,
            )
        assert record["studies"][visit.folder] == "".join(str(int(h)) for h in study.hemorrhage)
        assert len({o.SOPInstanceUID for o in objects}) == len(objects)
        assert len({o.SeriesInstanceUID for o in objects}) == 1
        assert {o.InstanceNumber for o in objects} == set(range(1, len(objects) + 1))
        names = [f.name for f in sorted((folder / visit.folder).glob("*.dcm"))]
        by_name = [pydicom.dcmread(folder / visit.folder / n).SliceLocation for n in names]
        assert by_name != sorted(by_name) and by_name != sorted(by_name, reverse=True)
        assert str(objects[0].PatientName).startswith("PHANTOM^")


def test_a_reader_knows_every_slice_for_a_phantom(folder):
    for path in sorted(folder.rglob("*.dcm"))[::7]:
        (one,) = read_slices(path)
        assert one.header.phantom
        ds = pydicom.dcmread(path)
        for keyword in PHANTOM_MARKS:
            left = pydicom.Dataset(ds)
            delattr(left, keyword)
            assert not frame_header(left, 0).phantom


def test_labels_name_every_slice_once_with_its_truth(folder):
    rows = list(csv.DictReader((folder / "labels.csv").open()))
    by_uid = {row["slice"]: row for row in rows}
    assert len(by_uid) == len(rows) == len(list(folder.rglob("*.dcm")))
    for visit in plan(SUBJECTS, SEED)[2:]:
        study = make_study(SEED, visit.subject, visit.location, visit.visit)
        for o, bled in zip(read(folder / visit.folder), study.hemorrhage, strict=True):
            row = by_uid[o.SOPInstanceUID]
            assert row["study"] == visit.folder and row["subject"] == o.PatientID
            assert row["keep"] == "1" and row["hemorrhage"] == str(int(bled))
            assert row["location"] == (visit.location if bled else "")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is absent")
def test_dciodvfy_finds_no_error(folder):
    for path in sorted(folder.rglob("0001.dcm")):
        done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True)
        assert done.returncode == 0
        assert "Error" not in done.stderr and "CTImage" in done.stderr


def test_no_two_slices_of_many_subjects_share_a_uid():
    uids = [slice_uid(0, s, visit, i) for s in range(130) for visit in (0, 1) for i in range(32)]
    assert len(set(uids)) == len(uids)
