"""Builds: the same bytes again, growth, refusals, kills, privacy."""

import csv
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.shards.build import build, prepare
from data_builder.shards.files import damaged_shards, data_sets
from data_builder.shards.sources import open_source
from data_builder.shards.splits import SplitPlan
from tests.helpers.published import write_published
from tests.helpers.review_folder import write_folder


def test_the_second_build_writes_nothing(source, shards):
    files = {path: path.stat().st_mtime_ns for path in shards.folder.iterdir()}
    data_dir = shards.folder.parents[2]
    assert build(source, data_dir, SplitPlan(), 36) == shards.folder
    assert {path: path.stat().st_mtime_ns for path in shards.folder.iterdir()} == files


def test_another_option_gives_another_data_set(source, shards):
    data_dir = shards.folder.parents[2]
    other = build(source, data_dir, SplitPlan(seed=1), 36)
    assert other != shards.folder and other.is_dir() and shards.folder.is_dir()


def test_the_same_source_gives_the_same_bytes(source, shards, tmp_path):
    again = build(source, tmp_path, SplitPlan(), 36)
    for path in shards.folder.glob("*array_record*"):
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_an_unreadable_image_is_named_by_key_and_leaves_no_data_set(tmp_path):
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


@pytest.fixture
def cleaned(tmp_path):
    """A folder as `clean` writes it: three normal studies and three with a deep hemorrhage."""
    folder = write_folder(tmp_path / "cleaned", studies=6, slices=3)
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        bled = row["study"] > "stu-0002"
        row |= {"hemorrhage": str(int(bled)), "location": "deep" if bled else ""}
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_cleaned_folder_whose_images_are_not_those_of_its_manifest_is_not_built(
    cleaned, tmp_path
):
    arguments = (tmp_path / "data", SplitPlan("slice"), 36, "public")
    built = prepare(cleaned, *arguments)
    assert prepare(cleaned, *arguments) == built
    image = cleaned / "images/stu-0001/sli-0001-0002.png"
    data, before = image.read_bytes(), image.stat()
    Image.new("L", (48, 48), 7).save(image)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    says = "1 of 18 images of the source SRC, the first that of slice sli-0001-0002, have other"
    with pytest.raises(InputError, match=says):
        prepare(cleaned, *arguments)
    with pytest.raises(InputError, match=says):
        prepare(cleaned, tmp_path / "new", *arguments[1:])
    assert not list((tmp_path / "new").rglob("*.array_record*"))
    image.write_bytes(data)
    assert prepare(cleaned, *arguments) == built


def test_names_and_paths_are_neither_written_nor_printed(tmp_path):
    source = write_published(tmp_path / "Doe John scans")
    command = [sys.executable, "-m", "data_builder", "build", str(source), "--key", "public"]
    command += ["--data_dir", str(tmp_path / "data"), "--size", "36", "--split", "slice"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    written = b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())
    names = [str(p).encode() for p in (tmp_path / "data").rglob("*")]
    for word in (b"Doe", b"Roe", b"Jane", b"scans"):
        assert word not in written
        assert word not in printed
        assert not any(word in name for name in names)
    assert b"warning: split by slice" in printed and b"sibling" in printed


def test_bad_options(source, tmp_path):
    with pytest.raises(InputError, match="16 to 1024"):
        build(source, tmp_path, SplitPlan(), 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        build(source, tmp_path / "file", SplitPlan(), 36)
    few = dataclasses.replace(source, records=source.records[:2])
    with pytest.raises(InputError):
        build(few, tmp_path / "data", SplitPlan(), 36)
    assert not (tmp_path / "data").exists()


def rows_of(folder):
    with (folder / "splits.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_sites_with_other_keys_get_the_same_split(published, tmp_path):
    sides = []
    for site in ("a", "b"):
        source = open_source(published, Pseudonyms(site.encode() * 20))
        folder = build(source, tmp_path / site, SplitPlan(folds=3), 36)
        sides.append({row["digest"]: (row["split"], row["fold"]) for row in rows_of(folder)})
        keys = {row["subject"] for row in rows_of(folder)}
        assert keys == {r.subject for r in source.records}
    assert sides[0] == sides[1] and len(sides[0]) == len(source.records)


def test_a_source_that_has_grown_keeps_its_sides(tmp_path):
    small, large = (write_published(tmp_path / str(n), subjects=n) for n in (4, 6))
    copied = sorted((small / "no").iterdir())
    for path in large.rglob("*.png"):  # the same people's slices, byte for byte
        old = small / path.relative_to(large)
        if old.exists():
            shutil.copyfile(old, path)
    plan, data = SplitPlan(), tmp_path / "data"
    first = build(open_source(small, Pseudonyms(PUBLIC_KEY)), data, plan, 36)
    before = {row["digest"]: row["split"] for row in rows_of(first)}
    trained = next(p for p in copied if before[digest_of(p)] == "train")
    tested = next(p for p in copied if before[digest_of(p)] == "test")
    for i, path in enumerate((trained, tested)):
        shutil.copyfile(path, large / "no" / f"090{i}-1Bridge d.png")
    grown = open_source(large, Pseudonyms(b"another key, long enough"))
    second = build(grown, data, plan, 36)
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


def test_a_killed_build_leaves_no_data_set(tmp_path):
    folder = write_published(tmp_path / "source", subjects=10, slices=4)
    data = tmp_path / "data"
    command = [sys.executable, "-m", "data_builder", "build", str(folder)]
    command += ["--data_dir", str(data), "--size", "512", "--key", "public"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while running.poll() is None and not list(data.rglob("*.array_record*")):
            time.sleep(0.002)
        assert running.poll() is None, "the build ended before it was killed"
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


def test_a_full_disk_is_one_line_and_the_same_build_works_when_there_is_room(
    published, tmp_path, small_disk
):
    disk = small_disk(1024)
    (disk / "other").write_bytes(bytes(960 * 1024))
    source = open_source(published, Pseudonyms(PUBLIC_KEY))
    with pytest.raises(InputError, match=r"the shards to --data_dir \(no room") as error:
        build(source, disk, SplitPlan(), 36)
    assert "None" not in str(error.value) and str(disk) not in str(error.value)
    (disk / "other").unlink()
    assert not damaged_shards(build(source, disk, SplitPlan(), 36))


def test_log_metadata_and_report_warn_of_a_split_by_slice(published, tmp_path, capsys):
    from dtvit_jax.data.shards import Shards
    from dtvit_jax.reports.limitations import caveats

    plan = SplitPlan("slice")
    for _ in range(2):  # the second time the data set exists
        folder = prepare(published, tmp_path, plan, 36, "public")
        leak = Shards(folder).metadata["leak"]
        counted = f"{leak['with_sibling_in_training']} of {leak['test_slices']} test slices"
        assert leak["with_sibling_in_training"] > 0
        assert f"warning: split by slice: {counted} have a sibling" in capsys.readouterr().err
    metrics = {"n": {"slices_by_class": {"normal": 1, "deep": 1}}, "warnings": []}
    assert any(counted in text for text in caveats(metrics, Shards(folder).metadata))
