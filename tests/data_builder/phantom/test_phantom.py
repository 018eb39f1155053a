"""Phantom studies: voxels against their classes, DICOM against a reader, a folder against kills."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

from data_builder.errors import InputError
from data_builder.phantom import DIFFICULTY, HEAD_CLASSES, Tissue, make_study, plan, write_studies
from data_builder.phantom.anatomy import cavity
from data_builder.phantom.bleeds import blob, room, sample_bleed
from data_builder.phantom.head import Points, sample_head

SEED = 3
SUBJECTS = 3  # of the folder: two normal ones and a subtentorial bleed


@pytest.fixture(scope="module")
def studies():
    """One study a class, keyed by location; subject numbers have no meaning here."""
    return {
        location: make_study(SEED, subject, location)
        for subject, location in enumerate((None, "deep", "lobar", "subtentorial"), start=1)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a few subjects, made in two processes."""
    out = tmp_path_factory.mktemp("phantom") / "out"
    write_studies(out, SUBJECTS, SEED, jobs=2)
    return out


def read(folder: Path) -> list[pydicom.Dataset]:
    """A study's objects in the order of their position along the normal of the planes."""
    objects = [pydicom.dcmread(f) for f in folder.glob("*.dcm")]
    row, column = np.split(np.array(objects[0].ImageOrientationPatient, float), 2)
    normal = np.cross(row, column)
    return sorted(objects, key=lambda o: float(np.array(o.ImagePositionPatient, float) @ normal))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_shapes_and_coverage(studies):
    for study in studies.values():
        slices = len(study.hu)
        assert 24 <= slices <= 32
        assert study.hu.shape == study.classes.shape == (slices, 512, 512)
        assert study.hu.dtype == np.int16 and study.classes.dtype == np.uint8
        # From the skull base (petrous air cells) to the crown (skull with no brain inside).
        first, last = study.classes[:4], study.classes[-4:]
        assert (first == Tissue.AIR_CELL).any() and (first == Tissue.SKULL).any()
        assert (last == Tissue.SKULL).any() and not (last[-1] == Tissue.WHITE).any()
        np.testing.assert_allclose(np.diff(study.positions), 5.0, atol=1e-6)


# Textbook HU, with room for noise, partial volume and beam hardening in the median of a class.
@pytest.mark.parametrize(
    ("tissue", "low", "high"),
    [
        (Tissue.AIR, -1024, -990),
        (Tissue.FAT, -110, -20),
        (Tissue.CSF, 0, 20),
        (Tissue.GREY, 30, 42),
        (Tissue.WHITE, 23, 34),
        (Tissue.SKULL, 300, 1600),
        (Tissue.BLEED, 50, 80),
        (Tissue.AIR_CELL, -1024, -500),
        (Tissue.SCALP, 0, 70),
    ],
)
def test_every_tissue_has_its_hounsfield_units(studies, tissue, low, high):
    values = np.concatenate([s.hu[s.classes == tissue] for s in studies.values()])
    assert values.size > 200
    assert low <= np.median(values) <= high


def test_blood_is_the_brightest_soft_tissue_and_noise_is_as_stated(studies):
    study = studies["lobar"]
    blood = study.classes == Tissue.BLEED
    inner = blood & np.roll(blood, 3, 1) & np.roll(blood, -3, 1)
    inner &= np.roll(blood, 3, 2) & np.roll(blood, -3, 2)
    inner[1:] &= blood[:-1]
    inner[:-1] &= blood[1:]
    assert inner.sum() > 50
    assert 58 <= study.hu[inner].mean() <= 82  # 60 to 80, and up to 4 of cupping
    sd = study.hu[-1, 20:90, 200:312].std()  # before the forehead: air above the crown too
    assert DIFFICULTY.noise_hu[0] * 0.95 <= sd <= DIFFICULTY.noise_hu[1] * 1.05


def test_padding_is_exactly_outside_the_circle(studies):
    for study in studies.values():
        padded = study.classes == Tissue.PADDING
        assert (study.hu[padded] == -2000 - 1024).all()
        assert (study.hu[~padded] >= -1024).all()
        if padded.any():
            i, j = np.mgrid[:512, :512] - 255.5
            assert (padded == (i**2 + j**2 > 256**2)).all()


def test_only_slices_that_cross_a_bleed_are_hemorrhage(studies):
    assert not studies[None].hemorrhage.any()
    assert not (studies[None].classes == Tissue.BLEED).any()
    for location, study in studies.items():
        pixels = (study.classes == Tissue.BLEED).sum((1, 2))
        np.testing.assert_array_equal(study.hemorrhage, pixels > 0)
        assert pixels[study.hemorrhage].min(initial=999) >= DIFFICULTY.bleed_pixels
        assert location is None or study.hemorrhage.any()
        runs = np.flatnonzero(np.diff(study.hemorrhage.astype(int)))
        assert len(runs) <= 2  # one bleed: its slices follow each other


def test_no_voxel_of_brain_or_blood_lies_outside_the_head(studies):
    """Going left or right from blood, one meets skull before air."""
    for study in studies.values():
        for classes in study.classes[study.hemorrhage]:
            for row in classes[(classes == Tissue.BLEED).any(1)][::9]:
                blood = np.flatnonzero(row == Tissue.BLEED)
                skull = np.flatnonzero(row == Tissue.SKULL)
                assert skull.min() < blood.min() and skull.max() > blood.max()


def blood_points(subject: int, location: str) -> tuple[Points, np.ndarray, float]:
    """All 1.5 mm lattice points (head coordinates) in a subject's bleed, their depth under the
    skull, and their volume as a share of the volume drawn."""
    head = sample_head(np.random.default_rng((SEED, subject, 0)))
    bleed = sample_bleed(np.random.default_rng((SEED, subject, 1)), head, location, 0)
    axes = [np.arange(c - 48, c + 48, 1.5, dtype=np.float32) for c in bleed.centre]
    at = Points(*np.meshgrid(*axes, indexing="ij"))
    bowl = cavity(at)
    inside = (blob(at, bleed) < 0) & (room(at, bowl, head, location) < 0)
    drawn = 4 / 3 * np.pi * np.prod(bleed.radii)
    assert DIFFICULTY.bleed_ml[0] * 0.99 <= drawn / 1000 <= DIFFICULTY.bleed_ml[1] * 1.01
    return Points(*(a[inside] for a in at)), -bowl[inside], inside.sum() * 1.5**3 / drawn


def test_deep_bleeds_sit_in_the_middle_of_the_hemispheres():
    for subject in range(12):
        p, depth, share = blood_points(subject, "deep")
        assert share > 0.45
        assert depth.min() > 8  # millimetres under the skull: off the cortex
        assert np.abs(p.y).max() < 50 and p.z.min() > -18 and p.z.max() < 40
        assert not ((p.z < -15) & (p.y > 35)).any()  # the cerebellum's place


def test_lobar_bleeds_reach_the_cortex_above_the_tentorium():
    for subject in range(12):
        p, depth, share = blood_points(subject, "lobar")
        assert share > 0.6
        assert depth.min() < 14
        assert np.abs(p.x).mean() > 12
        assert not ((p.z < -20) & (p.y > 35)).any()


def test_subtentorial_bleeds_sit_under_the_tentorium_behind_the_petrous_bone():
    for subject in range(12):
        p, _, share = blood_points(subject, "subtentorial")
        assert share > 0.6
        # The tent's ridge is 5 mm up and falls by 0.42 a millimetre to the sides.
        assert (p.z < 5 - 0.42 * np.abs(p.x)).all()
        assert (p.y > -4 + 0.5 * np.abs(p.x)).all()


def test_subtentorial_blood_is_in_the_lower_half_of_the_slices_with_brain(studies):
    """By voxels alone: no slice with subtentorial blood shows the top half of the brain."""
    study = studies["subtentorial"]
    brain = np.flatnonzero((study.classes == Tissue.WHITE).any((1, 2)))
    assert np.flatnonzero(study.hemorrhage).max() < brain.mean()


def test_the_holder_is_in_every_slice_and_never_of_the_head(studies):
    assert set(HEAD_CLASSES).isdisjoint({Tissue.HOLDER, Tissue.AIR, Tissue.PADDING})
    for study in studies.values():
        assert (study.classes == Tissue.HOLDER).any((1, 2)).all()


def test_some_holders_touch_the_head_and_some_the_edge():
    touched = edged = 0
    for subject in range(5):
        study = make_study(SEED, subject, None)
        holder = study.classes == Tissue.HOLDER
        head = np.isin(study.classes, HEAD_CLASSES)
        beside = np.zeros_like(head)
        for axis in (1, 2):
            beside |= np.roll(head, 1, axis) | np.roll(head, -1, axis)
        touched += bool((holder & beside).any())
        i, j = np.mgrid[:512, :512] - 255.5
        edged += bool(holder[:, i**2 + j**2 > 253**2].any())
    assert touched >= 2
    assert edged >= 1


def test_ventricles_grow_with_age():
    heads = [sample_head(np.random.default_rng((SEED, s, 0))) for s in range(200)]
    age, size = np.array([(h.age, h.ventricle) for h in heads]).T
    assert np.corrcoef(age, size)[0, 1] > 0.7


def test_a_second_visit_is_the_same_head_with_a_similar_bleed_in_another_pose(studies):
    one, two = studies["lobar"], make_study(SEED, 3, "lobar", visit=1)
    assert one.head == two.head
    assert one.hu.shape != two.hu.shape or not np.array_equal(one.hu, two.hu)
    volumes = [(s.classes == Tissue.BLEED).sum() * np.prod(s.spacing) / 1000 for s in (one, two)]
    assert 0.6 < volumes[1] / volumes[0] < 1.7


def test_a_study_is_the_same_each_time_and_differs_by_seed(studies):
    again = make_study(SEED, 2, "deep")
    np.testing.assert_array_equal(again.hu, studies["deep"].hu)
    other = make_study(SEED + 1, 2, "deep")
    assert other.hu.shape != again.hu.shape or (other.hu != again.hu).mean() > 0.5


def test_plan_has_every_class_in_ten_subjects_and_second_studies():
    for seed in range(5):
        visits = plan(40, seed)
        first = [v for v in visits if v.visit == 0]
        for start in range(0, 40, 10):
            block = [v.location for v in first[start : start + 10]]
            assert block.count(None) == 4
            assert all(block.count(x) == 2 for x in ("deep", "lobar", "subtentorial"))
        second = [v for v in visits if v.visit == 1]
        assert len(second) == 6 and all(v.location for v in second)  # 24 with a bleed, one in four
        assert plan(25, seed) == [v for v in visits if v.subject <= 25]


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


def test_the_bytes_do_not_depend_on_jobs_and_a_rerun_makes_nothing(folder, tmp_path):
    write_studies(tmp_path, SUBJECTS, SEED, jobs=1)
    assert files_of(tmp_path) == files_of(folder)
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")}
    counts = write_studies(tmp_path, SUBJECTS, SEED, jobs=1)
    assert counts.made == 0 and counts.studies == len(plan(SUBJECTS, SEED))
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*")} == before


def test_a_rerun_makes_what_is_missing(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    lost = tmp_path / "out" / plan(SUBJECTS, SEED)[1].folder
    next(lost.glob("*.dcm")).unlink()
    assert write_studies(tmp_path / "out", SUBJECTS, SEED, jobs=1).made == 1
    assert files_of(tmp_path / "out") == files_of(folder)


def test_a_kill_leaves_no_labels_and_the_next_run_goes_on(folder, tmp_path):
    code = (
        "import sys; from pathlib import Path; from data_builder.phantom import write_studies\n"
        f"if __name__ == '__main__': write_studies(Path(sys.argv[1]), {SUBJECTS}, {SEED}, 1)"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    out = tmp_path / "out"
    command = [sys.executable, script, out]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    first = plan(SUBJECTS, SEED)[0].folder
    deadline = time.monotonic() + 40
    while not (out / first).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "labels.csv").exists()
    whole = [d for d in out.iterdir() if d.is_dir() and not d.name.startswith(".")]
    assert 1 <= len(whole) < len(plan(SUBJECTS, SEED))
    for study in whole:
        assert {f.name for f in study.iterdir()} == {
            f.name for f in (folder / study.name).iterdir()
        }
    assert 1 <= write_studies(out, SUBJECTS, SEED, jobs=1).made < len(plan(SUBJECTS, SEED))
    assert files_of(out) == files_of(folder)


def test_a_folder_grows_but_is_never_taken_over(folder, tmp_path):
    out = tmp_path / "out"
    write_studies(out, 1, SEED, jobs=1)
    made = write_studies(out, 2, SEED, jobs=1).made
    assert made == len(plan(2, SEED)) - len(plan(1, SEED))
    rows = list(csv.DictReader((out / "labels.csv").open()))
    assert {row["study"] for row in rows} == {v.folder for v in plan(2, SEED)}
    kept = files_of(out)
    for subjects, seed in ((1, SEED), (2, SEED + 1)):
        with pytest.raises(InputError, match="choose an empty folder"):
            write_studies(out, subjects, seed, jobs=1)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        write_studies(out, 2, SEED, jobs=1)
    assert files_of(out) == kept | {"notes.txt": b"mine"}


@pytest.mark.parametrize(("subjects", "seed", "jobs"), [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_bad_numbers_are_refused(tmp_path, subjects, seed, jobs):
    with pytest.raises(InputError, match="phantom"):
        write_studies(tmp_path / "out", subjects, seed, jobs)
    assert not (tmp_path / "out").exists()


def test_a_file_for_a_folder_and_foreign_content_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path):
        with pytest.raises(InputError):
            write_studies(out, 1, 0, 1)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_no_two_slices_of_many_subjects_share_a_uid():
    from data_builder.phantom.dicom import slice_uid

    uids = [slice_uid(0, s, visit, i) for s in range(130) for visit in (0, 1) for i in range(32)]
    assert len(set(uids)) == len(uids)
