"""Apache Beam builds the same files as one process. Skips without the extra 'beam'."""

import importlib.util

import pytest
import tensorflow_datasets as tfds

from data_builder.__main__ import main
from data_builder.errors import InputError
from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.shards import ich_ct, images
from data_builder.shards.beam import download_options
from data_builder.shards.build import build
from data_builder.shards.files import damaged_shards, data_sets
from data_builder.shards.sources import open_source
from data_builder.shards.splits import SplitPlan

INSTALLED = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(
    not INSTALLED, reason="Apache Beam is not installed: docs/shards.md says how"
)


@needs_beam
def test_beam_builds_the_same_records(published, tmp_path, monkeypatch):
    monkeypatch.setattr(ich_ct, "SHARD_BYTES", 9000)  # several shards a side
    source = open_source(published, Pseudonyms(PUBLIC_KEY))
    here = build(source, tmp_path / "here", SplitPlan(), 36)
    there = build(source, tmp_path / "there", SplitPlan(), 36, [])

    def records(folder):
        builder = tfds.builder_from_directory(folder)
        encoded = {"image": tfds.decode.SkipDecoding()}
        return {
            (side, row["key"], row["image"], row["subject"], row["hemorrhage"], row["location"])
            for side in ("train", "validation", "test")
            for row in builder.as_data_source(side, decoders=encoded)
        }

    assert records(there) == records(here) and len(records(here)) == 60
    names = {path.name for path in here.iterdir()}
    assert {path.name for path in there.iterdir()} == names and len(names) > 8
    for name in names - {"dataset_info.json"}:
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    assert damaged_shards(there) == []


@needs_beam
def test_an_unreadable_slice_in_a_worker_leaves_no_data_set(published, tmp_path, monkeypatch):
    source = open_source(published, Pseudonyms(PUBLIC_KEY))

    def broken(*_args, **_kwargs):
        raise InputError("slice sli-x is not a readable image")

    monkeypatch.setattr(images, "pixels", broken)
    with pytest.raises(Exception, match="not a readable image"):
        build(source, tmp_path, SplitPlan(), 36, [])
    assert data_sets(tmp_path) == []


@pytest.mark.skipif(INSTALLED, reason="Apache Beam is installed")
def test_without_beam_an_error_names_the_extra(published, tmp_path, capsys):
    command = ["build", str(published), "--data_dir", str(tmp_path), "--key", "public"]
    assert main([*command, "--runner", "beam"]) == 2
    assert "install the extra 'beam'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_beam_options_need_the_runner_beam(published, tmp_path, capsys):
    command = ["build", str(published), "--data_dir", str(tmp_path), "--key", "public"]
    assert main([*command, "--beam_options=--runner=FlinkRunner"]) == 2
    assert "--runner beam" in capsys.readouterr().err


@needs_beam
def test_the_runner_is_taken_from_the_options():
    assert download_options([])["beam_runner"] == "DirectRunner"
    assert download_options(["--runner=FlinkRunner"])["beam_runner"] == "FlinkRunner"
