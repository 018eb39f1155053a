import dataclasses
import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import write_published
from PIL import Image

from data_builder import ich_ct
from data_builder.errors import InputError
from data_builder.prepare import prepare
from data_builder.records import LOCATIONS
from data_builder.sources import open_source
from data_builder.splits import SplitPlan, divide
from data_builder.subjects import PUBLIC_KEY, Pseudonyms


@pytest.fixture(scope="module")
def source(published):
    return open_source(published, Pseudonyms(PUBLIC_KEY))


def test_the_shards_hold_every_slice_with_its_labels(source, shards):
    sides = divide(source.records, SplitPlan())
    for side in ("train", "validation", "test"):
        found = {row["key"].decode(): row for row in shards.source(side)._records}
        expected = {r.key: r for r in source.records if sides[r.key] == side}
        assert found.keys() == expected.keys()
        for key, record in expected.items():
            location = LOCATIONS.index(record.location) if record.hemorrhage else -1
            assert found[key]["hemorrhage"] == record.hemorrhage
            assert found[key]["location"] == location
            assert found[key]["subject"].decode() == record.subject
            assert found[key]["digest"].decode() == record.digest


def test_pixels_are_the_source_resized(source):
    record = source.records[0]
    stored = np.array(Image.open(io.BytesIO(ich_ct.encode(record, 48))))
    by_hand = np.asarray(Image.open(record.image), float).reshape(48, 2, 48, 2).mean((1, 3))
    inner = (slice(2, -2), slice(2, -2))
    # Bilinear with antialiasing weighs a window of 4 pixels, so it is near the mean of 2, no more.
    assert stored.shape == (48, 48)
    assert np.abs(stored[inner] - by_hand[inner]).mean() < 6


def test_a_slice_that_is_not_square_keeps_its_shape():
    tall = Image.fromarray(np.full((80, 40), 200, np.uint8))
    found = np.asarray(ich_ct.resize(tall, 40))
    assert found.shape == (40, 40)
    assert (found[:, 12:28] == 200).all()
    assert (found[:, :8] == 0).all() and (found[:, -8:] == 0).all()


def test_the_second_build_writes_nothing(source, shards):
    files = {path: path.stat().st_mtime_ns for path in shards.folder.iterdir()}
    data_dir = shards.folder.parents[2]
    assert ich_ct.build(source, data_dir, SplitPlan(), 36) == shards.folder
    assert {path: path.stat().st_mtime_ns for path in shards.folder.iterdir()} == files


def test_another_option_lies_beside(source, shards):
    data_dir = shards.folder.parents[2]
    other = ich_ct.build(source, data_dir, SplitPlan(seed=1), 36)
    assert other != shards.folder and other.is_dir() and shards.folder.is_dir()


def test_the_same_source_gives_the_same_bytes(source, shards, tmp_path):
    again = ich_ct.build(source, tmp_path, SplitPlan(), 36)
    for path in shards.folder.glob("*array_record*"):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_an_image_that_is_none_is_refused_by_key_and_leaves_nothing_whole(tmp_path):
    folder = write_published(tmp_path / "source")
    victim = sorted((folder / "no").iterdir())[0]
    victim.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"slice sli-\w+ is not a readable image") as error:
        prepare(folder, tmp_path / "data", SplitPlan(), 36, "public")
    assert "Roe" not in str(error.value)
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
    Image.new("L", (96, 96)).save(victim)
    folder = prepare(folder, tmp_path / "data", SplitPlan(), 36, "public")
    lines = (folder / "splits.csv").read_text().splitlines()
    assert lines[0] == "key,subject,split,sex,year,scanner,thickness_mm"
    assert {line.split(",")[4] for line in lines[1:]} == {"", "2020"}  # in ICH files' names alone
    assert not list((tmp_path / "data").rglob("*incomplete*"))


def test_plain_tfds_reads_it_without_tensorflow(shards):
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"builder = tfds.builder_from_directory({str(shards.folder)!r})\n"
        "row = builder.as_data_source('train')[0]\n"
        "print(row['image'].shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "(36, 36, 1) False"


def test_no_name_and_no_path_in_anything_written_or_said(tmp_path):
    source = write_published(tmp_path / "Doe John scans")
    command = [sys.executable, "-m", "data_builder", "build", str(source), "--key", "public"]
    command += ["--data_dir", str(tmp_path / "data"), "--size", "36", "--split", "slice"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    written = b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())
    names = [str(p).encode() for p in (tmp_path / "data").rglob("*")]
    for word in (b"Doe", b"Roe", b"Jane", b"scans"):
        assert word not in written
        assert word not in said
        assert not any(word in name for name in names)
    assert b"warning: split by slice" in said and b"sibling" in said


def test_metadata_tells_what_a_report_needs(source, shards):
    data = shards.metadata
    assert data["split"] == "subject" and data["phantom"] is False and data["size"] == 36
    assert data["leak"]["with_sibling_in_training"] == 0
    total = sum(sum(side["slices"].values()) for side in data["counts"].values())
    assert total == len(source.records)
    assert data["confounds"] == ["'year' is known for ICH slices only: a total confound"]


def test_bad_options(source, tmp_path):
    with pytest.raises(InputError, match="16 to 1024"):
        ich_ct.build(source, tmp_path, SplitPlan(), 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        ich_ct.build(source, tmp_path / "file", SplitPlan(), 36)
    few = dataclasses.replace(source, records=source.records[:2])
    with pytest.raises(InputError):
        ich_ct.build(few, tmp_path / "data", SplitPlan(), 36)
    assert not (tmp_path / "data").exists()


def test_a_copy_of_the_shards_works_elsewhere(shards, tmp_path):
    from dtvit_jax.input_pipeline import Shards

    moved = shutil.copytree(shards.folder, tmp_path / "elsewhere")
    assert len(Shards(moved).source("test")) == len(shards.source("test"))
