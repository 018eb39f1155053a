"""Synthetic sources of DICOM objects, odd ones too, and the objects written from them."""

import datetime

import numpy as np
from pydicom.uid import generate_uid

from dtvit_jax.dicom.secondary_capture import Overlay
from dtvit_jax.dicom.structured_report import likeliest
from dtvit_jax.dicom.write import write_objects
from tests.helpers.answers import MODEL, answer_for, overlay_image
from tests.helpers.dicom_files import ct, enhanced, head_hu

MADE = datetime.datetime(2020, 2, 3, 4, 5, 6)


def series(count=7, **changes):
    return [
        ct(**{"InstanceNumber": i + 1, "SOPInstanceUID": generate_uid()} | changes)
        for i in range(count)
    ]


def frames(count=4):
    return [enhanced(np.stack([head_hu()] * count), [5.0 * i for i in range(count)])]


def overlays_of(answer, size=64):
    """Pictures for the two likeliest slices."""
    picture = overlay_image(size, size)
    return [Overlay(i, picture, "synthetic map") for i in likeliest(answer)[:2]]


def written(folder, sources, answer=None, size=64):
    """Writes a report and a capture of two overlays; their paths."""
    answer = answer or answer_for(sources)
    return write_objects(folder, answer, sources, MODEL, overlays_of(answer, size), MADE)


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
