"""The labelled slices of published and cleaned folders."""

import csv
import json
import shutil

import pytest
from PIL import Image

from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.records import MANIFEST_COLUMNS
from data_builder.shards.sources import kind_of, open_source, published_identity
from tests.helpers.published import write_published

PSEUDONYMS = Pseudonyms(PUBLIC_KEY)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0001-2020_filtered-1doe-123456", "0412-2021_filtered-2doe-123456"),
        ("0001-2020_filtered-1doe jane-123456", "0002-2020_filtered-doe jane-123456 "),
        ("0001-2020_filtered-1doe\uff0c123456", "0002-2020_filtered-1doe-123456"),
        ("0001-2020_filtered-1d\u00f6e-4321", "0002-2019_filtered-1other-4321"),
    ],
)
def test_an_ich_subject_is_its_admission_number(one, other):
    assert published_identity(one, True) == published_identity(other, True)


def test_a_normal_subject_is_the_text_after_the_first_dash():
    assert published_identity("0001-1roe d", False) == published_identity("0907-1Roe D", False)
    assert published_identity("0001-1roe-d", False) != published_identity("0001-1roe-e", False)


def test_ich_names_without_a_number_are_different_subjects():
    names = ["0001-2020_filtered-1doe", "0001-2020_filtered-1roe"]
    assert len({published_identity(name, True) for name in names}) == 2


def test_published_layout_is_read_with_its_labels(published):
    source = open_source(published, PSEUDONYMS)
    assert source.kind == "published"
    assert len(source.records) == (4 + 4 + 4 + 8) * 3
    normal = [r for r in source.records if r.stratum == "normal"]
    assert len(normal) == 24 and len({r.subject for r in normal}) == 8
    assert len({r.subject for r in source.records if r.stratum == "deep"}) == 4
    assert all(dict(r.facts) == {"year": "2020"} for r in source.records if r.hemorrhage)


def test_the_repr_of_records_has_no_names(published):
    text = repr(open_source(published, PSEUDONYMS))
    assert not any(word in text for word in ("Doe", "Roe", "Jane", "John", str(published)))


def test_the_fingerprint_depends_on_content_not_on_time(published, tmp_path):
    copy = shutil.copytree(published, tmp_path / "copy", copy_function=shutil.copyfile)
    before = open_source(published, PSEUDONYMS).fingerprint
    assert open_source(copy, PSEUDONYMS).fingerprint == before
    image = next((copy / "no").iterdir())
    Image.new("L", (96, 96), 7).save(image)
    assert open_source(copy, PSEUDONYMS).fingerprint != before


def test_an_image_outside_the_classes_is_refused_without_its_name(tmp_path):
    folder = write_published(tmp_path / "source")
    (folder / "yes" / "Elsewhere").mkdir()
    Image.new("L", (8, 8)).save(folder / "yes" / "Elsewhere" / "0001-secret.png")
    with pytest.raises(InputError, match="outside no/") as error:
        open_source(folder, PSEUDONYMS)
    assert "secret" not in str(error.value)


def test_missing_and_empty_sources(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        kind_of(tmp_path / "nowhere")
    with pytest.raises(InputError, match="empty"):
        kind_of(tmp_path)
    (tmp_path / "scan.dcm").write_bytes(b"")
    assert kind_of(tmp_path) == "dicom"
    (tmp_path / "no").mkdir()
    with pytest.raises(InputError, match="no labelled slice"):
        open_source(tmp_path, PSEUDONYMS)


def cleaned(folder, **changes):
    row = dict.fromkeys(MANIFEST_COLUMNS, "")
    row |= {"key": "sli-a", "subject": "sub-a", "study": "stu-a", "image": "a.png", "keep": "1"}
    row |= {"hemorrhage": "1", "location": "deep", "digest": "0", "position_mm": "12.5"}
    row |= {"scanner": "x"} | changes
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    (folder / "cleaning.json").write_text(json.dumps({"phantom": True, "mode": "robust"}))
    Image.new("L", (8, 8)).save(folder / "a.png")
    return folder


def test_a_cleaned_folder_is_read(tmp_path):
    source = open_source(cleaned(tmp_path), PSEUDONYMS)
    (record,) = source.records
    assert source.kind == "cleaned" and source.phantom and source.cleaning["mode"] == "robust"
    assert (record.key, record.stratum, record.position_mm) == ("sli-a", "deep", 12.5)
    assert record.facts == (("scanner", "x"),)


@pytest.mark.parametrize("change", [{"keep": "0"}, {"hemorrhage": ""}])
def test_slices_dropped_or_without_a_label_are_left_out(tmp_path, change):
    with pytest.raises(InputError, match="no labelled slice"):
        open_source(cleaned(tmp_path, **change), PSEUDONYMS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hemorrhage": "2"}, "hemorrhage must be 0 or 1"),
        ({"location": "elsewhere"}, "location of an ICH slice"),
        ({"image": "b.png"}, "image is not in the folder"),
        ({"image": "../a.png"}, "image is not in the folder"),
        ({"image": "a" * 5000}, "image is not in the folder"),
        ({"position_mm": "high"}, "position_mm must be a number"),
    ],
)
def test_a_bad_manifest_row_is_named_by_its_line(tmp_path, change, message):
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        open_source(cleaned(tmp_path, **change), PSEUDONYMS)


@pytest.mark.parametrize("damage", [b"sli-b\n", b"sli-b" + b"," * 30 + b"\n", b"\xff\xfe\n"])
def test_a_damaged_manifest_is_one_line(tmp_path, damage):
    folder = cleaned(tmp_path)
    with (folder / "manifest.csv").open("ab") as file:
        file.write(damage)
    with pytest.raises(InputError, match=r"manifest\.csv (line 3|can't be read as CSV)"):
        open_source(folder, PSEUDONYMS)
