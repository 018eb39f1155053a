"""A model that was trained on phantoms answers phantoms alone, in every output."""

import json
import shutil

import highdicom
import numpy as np
import pytest
from PIL import Image

from data_builder.cleaning.clean_folder import clean_folder
from data_builder.dicom.header import PHANTOM_MARKS
from data_builder.pseudonyms import key_path, load_key
from dtvit_jax.dicom import codes
from dtvit_jax.prediction.records import StudyResults
from dtvit_jax.prediction.session import Session, Settings
from dtvit_jax.prediction.watch import Watch, watch
from tests.helpers import ROOT, studies
from tests.helpers.model_folder import save_model
from tests.helpers.studies import head, table, write

GE_HEAD = ROOT / "../shared/data/ge_head_dicom"
SCANNER = {
    "QualityControlSubject": "NO",
    "Manufacturer": "GE MEDICAL SYSTEMS",
    "SoftwareVersions": "07MW18.4",
}
REASON = "the model was trained on synthetic phantoms: it has no answer for"


def run(*arguments):
    """`studies.run` under the user's own key: the public one is for phantoms alone."""
    return studies.run(*arguments, key=key_path(None))


def always_ich(workdir):
    """Makes every score reach the operating points, and every head of `studies` a usual slice."""
    path = workdir / "training_slices.json"
    slices = json.loads(path.read_text())
    path.write_text(json.dumps(slices | {"distance": 4 * slices["distance"]}))
    path = workdir / "decision_rule.json"
    rule = json.loads(path.read_text())
    for point in rule["operating_points"]:
        point |= {"threshold": 0.0, "low": 0.0, "high": 0.0}
    path.write_text(json.dumps(rule))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was trained on phantoms and calls all it sees hemorrhage."""
    folder = tmp_path_factory.mktemp("models") / "run"
    save_model(folder)
    always_ich(folder)
    return folder


@pytest.fixture(scope="module")
def trained_on_scans(model, tmp_path_factory):
    folder = shutil.copytree(model, tmp_path_factory.mktemp("models") / "run")
    record = json.loads((folder / "run.json").read_text())
    record["dataset"]["phantom"] = record["dataset"]["cleaning"]["phantom"] = False
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def scan(**changes):
    return [head(i, **SCANNER | changes) for i in range(4)]


def test_it_has_no_answer_for_a_scan_in_any_output(model, tmp_path, capsys):
    source, out = write(tmp_path / "s", scan()), tmp_path / "out"
    assert run(source, "--workdir", model, "--out", out, "--dicom_out", "yes") == 0
    (row,) = table(out / "results.csv")
    assert (row["decision"], row["location"], row["p_hemorrhage"]) == ("uncertain", "", "")
    assert row["reasons"] == f"{REASON} 4 of 4 slices, which are not marked as phantoms"
    slices = table(out / "slices.csv")
    assert {(one["decision"], one["called_location"]) for one in slices} == {("uncertain", "")}
    (study,) = json.loads((out / "results.json").read_text())["studies"]
    answer = study["study"]
    assert (answer["decision"], answer["location"]) == ("uncertain", "")
    assert answer["p_hemorrhage"] is answer["p_location"] is None
    line, *_ = capsys.readouterr().out.splitlines()
    assert line == f"{row['study']}: uncertain ({row['reasons']})"
    page = (out / "studies" / row["study"] / "report.html").read_text()
    assert "<h1" in page and "Uncertain</h1>" in page
    assert row["reasons"][1:] in page and "It has no answer for a real head" in page
    assert "Probability of an intracerebral" not in page
    assert "<strong>p " not in page and 'id="along"' not in page
    for one in slices:
        assert f">{float(one['p_hemorrhage']):.3f}<" not in page
    (path,) = (out / "dicom").rglob("sr.dcm")
    (group,) = highdicom.sr.srread(path).content.get_image_measurement_groups()
    (presence,) = group.get_qualitative_evaluations(name=codes.PRESENCE)
    assert presence.value == codes.DECISIONS["uncertain"]
    assert group.finding_category is None and not group.finding_sites
    assert not group.get_measurements(name=codes.PROBABILITY)
    assert not group.get_measurements(name=codes.PROBABILITY_OF_LOCATION)
    assert row["reasons"].encode() in path.read_bytes()
    assert (path.parent / "capture.dcm").is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {"QualityControlSubject": "YES"},  # a phantom that was scanned
        {"Manufacturer": "DTViT-JAX"},
        {"QualityControlSubject": "YES", "Manufacturer": "DTViT-JAX"},
        PHANTOM_MARKS,
    ],
)
def test_all_marks_together_make_a_phantom(model, tmp_path, changes):
    source, out = write(tmp_path / "s", scan(**changes)), tmp_path / "out"
    assert run(source, "--workdir", model, "--out", out) == 0
    (row,) = table(out / "results.csv")
    assert row["decision"] == ("ich" if changes == PHANTOM_MARKS else "uncertain")
    assert bool(row["location"]) == bool(row["p_hemorrhage"]) == (changes == PHANTOM_MARKS)


def test_one_scanned_slice_among_phantoms_is_enough(model, tmp_path):
    source = write(tmp_path / "s", [head(i) for i in range(3)] + scan()[3:])
    assert run(source, "--workdir", model, "--out", tmp_path / "out") == 0
    (row,) = table(tmp_path / "out" / "results.csv")
    assert row["decision"] == "uncertain" and row["p_hemorrhage"] == ""
    assert row["reasons"] == f"{REASON} 1 of 4 slices, which is not marked as a phantom"


def test_a_model_trained_on_scans_answers_both(trained_on_scans, tmp_path):
    write(tmp_path / "s" / "scan", scan())
    write(tmp_path / "s" / "phantom", [head(i, "other") for i in range(4)])
    assert run(tmp_path / "s", "--workdir", trained_on_scans, "--out", tmp_path / "out") == 0
    rows = table(tmp_path / "out" / "results.csv")
    assert [row["decision"] for row in rows] == ["ich", "ich"]


def test_the_real_head_has_no_answer(model, tmp_path, capsys):
    if not GE_HEAD.is_dir():
        pytest.skip("the GE head is not here")
    assert run(GE_HEAD, "--workdir", model, "--out", tmp_path / "out") == 0
    (row,) = table(tmp_path / "out" / "results.csv")
    assert (row["decision"], row["location"]) == ("uncertain", "")
    assert REASON in row["reasons"] and REASON in capsys.readouterr().out


def test_a_watched_folder_is_answered_alike(model, tmp_path, capsys):
    write(tmp_path / "in", scan())
    settings = Settings(
        model, tmp_path / "out", "sensitivity_0.95", 4, 1, load_key(None), None, dicom=False
    )
    left = iter(range(3))
    with Session(settings) as session:
        watched = Watch(tmp_path / "in", load_key(None), 1, 0.0)
        watch(session, watched, poll_seconds=0.0, stop=lambda: next(left, None) is None)
    assert f": uncertain ({REASON}" in capsys.readouterr().out
    (row,) = table(tmp_path / "out" / "results.csv")
    assert row["decision"] == "uncertain"


def decisions(model, tmp_path, *images):
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    assert run(*images, "--workdir", model, "--out", out) == 0
    return [row["decision"] for row in table(out / "results.csv")]


def cleaned(tmp_path, name, slices, image_format="png"):
    """A cleaned folder of the slices, and the folder of its images."""
    write(tmp_path / f"src-{name}", slices)
    folder = tmp_path / name
    clean_folder(tmp_path / f"src-{name}", folder, key=None, jobs=1, image_format=image_format)
    return folder, next((folder / "images").iterdir())


def test_cleaned_images_are_phantoms_where_their_folder_was_made_of_phantoms(model, tmp_path):
    _, images = cleaned(tmp_path, "phantoms", [head(i) for i in range(4)])
    assert decisions(model, tmp_path, images) == ["ich"]
    _, scanned = cleaned(tmp_path, "scans", scan())
    assert decisions(model, tmp_path, scanned) == ["uncertain"]
    _, both = cleaned(tmp_path, "both", [*[head(i) for i in range(3)], *scan()[3:]])
    assert decisions(model, tmp_path, both) == ["uncertain"]
    # What the manifest does not list, or lists with other pixels, is no phantom of it.
    first, *_ = sorted(images.iterdir())
    added = shutil.copy(first, images / "added.png")
    assert decisions(model, tmp_path, images) == ["uncertain"]
    added.unlink()
    with Image.open(first) as image:
        pixels = np.array(image)
    Image.fromarray(np.where(pixels > 0, 255 - pixels // 2, 0).astype(np.uint8)).save(first)
    assert decisions(model, tmp_path, images) == ["uncertain"]
    alone = shutil.copytree(images, tmp_path / "alone")
    assert decisions(model, tmp_path, alone) == ["uncertain"]


def test_a_folder_of_an_earlier_version_counts_as_its_source_is_marked(model, tmp_path):
    for name, mark in (("phantoms", True), ("scans", False)):
        folder, images = cleaned(tmp_path, name, [head(i) for i in range(4)])
        path = folder / "cleaning.json"
        settings = json.loads(path.read_text())
        del settings["phantom_slices"]
        path.write_text(json.dumps(settings | {"phantom": mark}))
        assert decisions(model, tmp_path, images) == ["ich" if mark else "uncertain"]


def test_a_study_is_answered_by_its_usual_slices_and_the_rest_is_named(
    trained_on_scans, tmp_path, capsys
):
    """Three slices of noise in a study of four heads."""
    noise = np.random.default_rng(0).integers(-1000, 3000, (64, 64))
    odd = [head(16 + i) for i in range(3)]
    for ds in odd:
        disc = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 25
        ds.PixelData = (np.where(disc, noise % 90, -1000) + 1024).astype("<u2").tobytes()
    write(tmp_path / "alone", [head(i) for i in range(4)])
    write(tmp_path / "mixed", [head(i) for i in range(4)] + odd)
    rows, pages = {}, {}
    for name in ("alone", "mixed"):
        out = tmp_path / f"out-{name}"
        assert run(tmp_path / name, "--workdir", trained_on_scans, "--out", out) == 0
        (rows[name],) = table(out / "results.csv")
        (pages[name],) = (page.read_text() for page in out.rglob("report.html"))
    alone, mixed = rows["alone"], rows["mixed"]
    assert (alone["outliers"], mixed["outliers"]) == ("0", "3")
    for column in ("decision", "location", "p_hemorrhage", "p_deep", "p_lobar", "threshold"):
        assert alone[column] == mixed[column] != ""
    assert mixed["remarks"].startswith("3 of 7 slices, unlike the training slices, are left out")
    assert alone["remarks"] == ""
    assert mixed["remarks"][1:].split(":")[0] in pages["mixed"]
    assert mixed["remarks"] in capsys.readouterr().out
    odd_ones = [one for one in table(tmp_path / "out-mixed" / "slices.csv") if one["outlier"] > "1"]
    assert [one["decision"] for one in odd_ones] == 3 * ["uncertain"]


def test_the_page_names_the_calibration_and_rounds_nothing_to_certainty(trained_on_scans, tmp_path):
    source, out = write(tmp_path / "s", [head(i) for i in range(4)]), tmp_path / "out"
    assert run(source, "--workdir", trained_on_scans, "--out", out) == 0
    (page,) = (page.read_text() for page in out.rglob("report.html"))
    assert "Calibration of location: temperature" in page and "shrunk towards 1" in page
    assert "The threshold for ICH is &lt; 0.000001" in page
    assert "0.000 " not in page and "1.000" not in page


def test_results_of_an_earlier_version_are_read(trained_on_scans, tmp_path):
    source, out = write(tmp_path / "s", scan()), tmp_path / "out"
    assert run(source, "--workdir", trained_on_scans, "--out", out) == 0
    (path,) = out.glob("studies/*/results.json")
    stored = json.loads(path.read_text())
    now = StudyResults.from_json(stored)
    del stored["calibration"], stored["study"]["remarks"]
    before = StudyResults.from_json(stored)
    assert before.calibration == {} and before.study == now.study
    path.write_text(json.dumps(stored))  # and the tables list it beside a new study
    other = write(tmp_path / "o", [head(i, "other", **SCANNER) for i in range(4)])
    assert run(other, "--workdir", trained_on_scans, "--out", out) == 0
    assert [row["decision"] for row in table(out / "results.csv")] == ["ich", "ich"]
