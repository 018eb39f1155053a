"""Writes folders of small DICOM files, cleans them and reads the tables."""

import csv
from pathlib import Path

import numpy as np
from pydicom.uid import generate_uid

from data_builder.cleaning.clean_folder import CleanSummary, clean_folder
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from tests.helpers.dicom_files import ct, encoded, enhanced, head_hu

PSEUDONYMS = Pseudonyms(PUBLIC_KEY)
LABELS_HEADER = "study,subject,slice,keep,hemorrhage,location\n"


def put(folder, name, ds_or_bytes):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ds_or_bytes if isinstance(ds_or_bytes, bytes) else encoded(ds_or_bytes))
    return path


def put_study(folder, name="visit", slices=4, patient="A17", **changes):
    """Slices 5 mm apart in files whose names run against their positions; the study's UID."""
    uid = generate_uid(entropy_srcs=[name, patient])
    for k in range(slices):
        ds = ct(
            head_hu() + k,
            StudyInstanceUID=uid,
            SeriesInstanceUID=uid + ".1",
            SOPInstanceUID=f"{uid}.1.{k}",
            PatientID=patient,
            InstanceNumber=k + 1,
            ImagePositionPatient=[-30, -30, 5 * k],
            **changes,
        )
        put(folder, f"{name}/{slices - k:03d}", ds)
    return uid


def put_mixed(src):
    """A study and, one each, files that are refused or used for another reason."""
    put_study(src, "a/good", patient="DOE^JOHN")
    put(src, "b/many frames.dcm", enhanced(np.stack([head_hu()] * 3), (0.0, 5.0, 10.0)))
    put(src, "b/chest.dcm", ct(BodyPartExamined="CHEST"))
    put(src, "b/scout.dcm", ct(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    put(src, "b/cut.dcm", encoded(ct())[:-500])
    put(src, "b/air.dcm", ct(np.full((64, 64), -1000)))
    put(src, "c/DOE JOHN.txt", b"words about DOE^JOHN")
    put(src, "c/empty", b"")
    twin = ct(SOPInstanceUID="1.2.3.4")
    put(src, "d/first.dcm", twin)
    put(src, "d/second.dcm", twin)
    twin.PixelData = (head_hu() + 1030).astype("<u2").tobytes()
    put(src, "d/third.dcm", twin)
    (src / "d" / "gone").symlink_to(src / "nowhere")
    return src


def clean(src, out, **options) -> CleanSummary:
    return clean_folder(src, out, **({"jobs": 2, "key": "public"} | options))


def read_table(out, name="manifest.csv"):
    with (out / name).open(newline="") as file:
        return list(csv.DictReader(file))


def all_listed(src, out) -> bool:
    """Whether every file of the source is in exactly one of the two tables."""
    files = sorted(PSEUDONYMS.file(str(p.relative_to(src))) for p in src.rglob("*") if p.is_file())
    used = {row["file"] for row in read_table(out)}
    refused = [row["file"] for row in read_table(out, "refused.csv")]
    return sorted([*used, *refused]) == files


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, by its path inside the folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
