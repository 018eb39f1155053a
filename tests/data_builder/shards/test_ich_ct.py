"""The records that the shards hold, and how many shards there are."""

import subprocess
import sys

import numpy as np
import tensorflow_datasets as tfds

from data_builder.records import LOCATIONS
from data_builder.shards import ich_ct
from data_builder.shards.build import build
from data_builder.shards.images import pixels
from data_builder.shards.splits import SplitPlan, divide


def test_the_shards_hold_every_slice_with_its_labels(source, shards):
    sides = divide(source.records, SplitPlan()).side_of
    for side in ("train", "validation", "test"):
        rows = tfds.builder_from_directory(shards.folder).as_data_source(side)
        stored = {row["key"].decode(): row for row in rows}
        expected = {r.key: r for r in source.records if sides[r.key] == side}
        assert stored.keys() == expected.keys()
        for key, record in expected.items():
            location = LOCATIONS.index(record.location) if record.hemorrhage else -1
            assert np.array_equal(stored[key]["image"], pixels(record, 36))
            assert stored[key]["hemorrhage"] == record.hemorrhage
            assert stored[key]["location"] == location
            assert stored[key]["subject"].decode() == record.subject
            assert stored[key]["digest"].decode() == record.digest


def test_plain_tfds_reads_the_shards_without_tensorflow(shards):
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"builder = tfds.builder_from_directory({str(shards.folder)!r})\n"
        "row = builder.as_data_source('train')[0]\n"
        "print(row['image'].shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "(36, 36, 1) False"


def test_many_shards_hold_each_slice_once(source, tmp_path, monkeypatch):
    monkeypatch.setattr(ich_ct, "SHARD_BYTES", 9000)
    folder = build(source, tmp_path, SplitPlan(), 36)
    assert len(list(folder.glob("ich_ct-train.array_record*"))) > 2
    from dtvit_jax.data.shards import Shards

    shards = Shards(folder)
    keys = [
        shards.source(side).describe(i)["key"]
        for side in ("train", "validation", "test")
        for i in range(len(shards.source(side)))
    ]
    assert sorted(keys) == sorted(r.key for r in source.records)
