import csv
import dataclasses
import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_builder.__main__ import main
from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.records import LOCATIONS
from data_builder.shards import ich_ct
from data_builder.shards.build import prepare
from data_builder.shards.files import damaged_shards, data_sets, earlier_division
from data_builder.shards.images import pixels, resize
from data_builder.shards.sources import open_source
from data_builder.shards.splits import SplitPlan, divide
from tests.helpers.published import write_published


@pytest.fixture(scope="module")
def source(published):
    return open_source(published, Pseudonyms(PUBLIC_KEY))


def test_the_shards_hold_every_slice_with_its_labels(source, shards):
    sides = divide(source.records, SplitPlan()).side_of
    for side in ("train", "validation", "test"):
        rows = tfds.builder_from_directory(shards.folder).as_data_source(side)
        found = {row["key"].decode(): row for row in rows}
        expected = {r.key: r for r in source.records if sides[r.key] == side}
        assert found.keys() == expected.keys()
        for key, record in expected.items():
            location = LOCATIONS.index(record.location) if record.hemorrhage else -1
            assert np.array_equal(found[key]["image"], pixels(record, 36))
            assert found[key]["hemorrhage"] == record.hemorrhage
            assert found[key]["location"] == location
            assert found[key]["subject"].decode() == record.subject
            assert found[key]["digest"].decode() == record.digest


def test_a_data_set_of_the_version_before_still_binds_its_subjects(source, shards, tmp_path):
    old = tmp_path / "ich_ct" / shards.folder.parent.name / "1.1.0"
    shutil.copytree(shards.folder, old)
    earlier = earlier_division(tmp_path, SplitPlan(), source.records)
    sides = divide(source.records, SplitPlan()).side_of
    assert earlier.side_of == {r.digest: sides[r.key] for r in source.records}


def test_pixels_are_the_source_resized(source):
    record = source.records[0]
    stored = pixels(record, 48)[..., 0].astype(float)
    by_hand = np.asarray(Image.open(record.image), float).reshape(48, 2, 48, 2).mean((1, 3))
    inner = (slice(2, -2), slice(2, -2))
    # Bilinear with antialiasing weighs a window of 4 pixels, so it is near the mean of 2, no more.
    assert stored.shape == (48, 48)
    assert np.abs(stored[inner] - by_hand[inner]).mean() < 6


def test_a_slice_that_is_not_square_keeps_its_shape():
    tall = Image.fromarray(np.full((80, 40), 200, np.uint8))
    found = np.asarray(resize(tall, 40))
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
    assert lines[0] == "key,subject,split,sex,year,scanner,thickness_mm,fold,digest"
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
    from dtvit_jax.data.shards import Shards

    moved = shutil.copytree(shards.folder, tmp_path / "elsewhere")
    assert len(Shards(moved).source("test")) == len(shards.source("test"))


def rows_of(folder):
    with (folder / "splits.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_sites_with_other_keys_get_the_same_split(published, tmp_path):
    sides = []
    for site in ("a", "b"):
        source = open_source(published, Pseudonyms(site.encode() * 20))
        folder = ich_ct.build(source, tmp_path / site, SplitPlan(folds=3), 36)
        sides.append({row["digest"]: (row["split"], row["fold"]) for row in rows_of(folder)})
        keys = {row["subject"] for row in rows_of(folder)}
        assert keys == {r.subject for r in source.records}
    assert sides[0] == sides[1] and len(sides[0]) == len(source.records)


def test_a_source_that_grew_keeps_its_sides(tmp_path):
    small, large = (write_published(tmp_path / str(n), subjects=n) for n in (4, 6))
    copied = sorted((small / "no").iterdir())
    for path in large.rglob("*.png"):  # the same people's slices, byte for byte
        old = small / path.relative_to(large)
        if old.exists():
            shutil.copyfile(old, path)
    plan, data = SplitPlan(), tmp_path / "data"
    first = ich_ct.build(open_source(small, Pseudonyms(PUBLIC_KEY)), data, plan, 36)
    before = {row["digest"]: row["split"] for row in rows_of(first)}
    trained = next(p for p in copied if before[digest_of(p)] == "train")
    tested = next(p for p in copied if before[digest_of(p)] == "test")
    for i, path in enumerate((trained, tested)):
        shutil.copyfile(path, large / "no" / f"090{i}-1Bridge d.png")
    grown = open_source(large, Pseudonyms(b"another key, long enough"))
    second = ich_ct.build(grown, data, plan, 36)
    rows = rows_of(second)
    bridge = {row["subject"] for row in rows if row["split"] == "aside"}
    assert bridge == {Pseudonyms(b"another key, long enough").subject("1bridged")}
    kept = {row["digest"]: row["split"] for row in rows if row["subject"] not in bridge}
    assert {digest: kept[digest] for digest in before} == before
    new = {row["subject"] for row in rows if row["digest"] not in before}
    assert len(new) == 2 * 5  # two more of each ICH class, four more normal
    from dtvit_jax.data.shards import Shards

    shards = Shards(second)
    assert shards.metadata["set_aside"] == sorted(bridge)
    stored = sum(len(shards.source(side)) for side in ("train", "validation", "test"))
    assert stored == len(grown.records) - 2


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def test_many_shards_hold_each_slice_once(source, tmp_path, monkeypatch):
    monkeypatch.setattr(ich_ct, "SHARD_BYTES", 9000)
    folder = ich_ct.build(source, tmp_path, SplitPlan(), 36)
    assert len(list(folder.glob("ich_ct-train.array_record*"))) > 2
    from dtvit_jax.data.shards import Shards

    shards = Shards(folder)
    keys = [
        shards.source(side).describe(i)["key"]
        for side in ("train", "validation", "test")
        for i in range(len(shards.source(side)))
    ]
    assert sorted(keys) == sorted(r.key for r in source.records)


def test_a_kill_leaves_nothing_that_looks_whole(tmp_path):
    folder = write_published(tmp_path / "source", subjects=10, slices=4)
    data = tmp_path / "data"
    command = [sys.executable, "-m", "data_builder", "build", str(folder)]
    command += ["--data_dir", str(data), "--size", "512", "--key", "public"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while running.poll() is None and not list(data.rglob("*.array_record*")):
            time.sleep(0.002)
        assert running.poll() is None, "it was too fast to be killed"
    finally:
        running.kill()
        running.communicate()
    assert list(data.rglob("*.array_record*")) and not data_sets(data)
    assert not list(data.glob("ich_ct/*/*/splits.csv"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert data_sets(data) == [Path(done.stdout.strip())]
    assert not list(data.rglob("*incomplete*"))
    assert damaged_shards(data_sets(data)[0]) == []


@pytest.mark.parametrize("how", ["cut", "flipped", "longer", "gone"])
def test_a_damaged_shard_is_found_and_named(shards, tmp_path, how, capsys):
    from dtvit_jax.data.shards import Shards

    folder = shutil.copytree(shards.folder, tmp_path / "copy")
    victim = sorted(folder.glob("*train*array_record*"))[0]
    data = bytearray(victim.read_bytes())
    if how == "cut":
        data = data[:-1]
    elif how == "flipped":
        data[len(data) // 2] ^= 4
    elif how == "longer":
        data += b"\0"
    victim.unlink() if how == "gone" else victim.write_bytes(data)
    with pytest.raises(InputError, match=rf"damaged: .*{victim.name}"):
        Shards(folder)
    assert main(["audit", str(folder)]) == 1
    assert victim.name in capsys.readouterr().out


def test_without_checksums_nothing_is_trusted(shards, tmp_path):
    from dtvit_jax.data.shards import Shards

    folder = shutil.copytree(shards.folder, tmp_path / "copy")
    (folder / "checksums.json").write_text("{")
    with pytest.raises(InputError, match=r"checksums\.json is missing or damaged"):
        Shards(folder)


def test_a_split_by_slice_says_so_in_log_metadata_and_report(published, tmp_path, capsys):
    from dtvit_jax.data.shards import Shards
    from dtvit_jax.reports.limitations import caveats

    plan = SplitPlan("slice")
    for _ in range(2):  # when it is found again, too
        folder = prepare(published, tmp_path, plan, 36, "public")
        size = Shards(folder).metadata["leak"]
        told = f"{size['with_sibling_in_training']} of {size['test_slices']} test slices"
        assert size["with_sibling_in_training"] > 0
        assert f"warning: split by slice: {told} have a sibling" in capsys.readouterr().err
    metrics = {"n": {"slices_by_class": {"normal": 1, "deep": 1}}, "warnings": []}
    assert any(told in text for text in caveats(metrics, Shards(folder).metadata))
