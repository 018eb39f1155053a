"""The data sets in a data folder: listing, checksums, opening, earlier divisions."""

import shutil

import pytest

from data_builder.__main__ import main
from data_builder.errors import InputError
from data_builder.shards.files import earlier_division
from data_builder.shards.splits import SplitPlan, divide


def test_a_data_set_of_version_1_1_0_fixes_the_sides(source, shards, tmp_path):
    old = tmp_path / "ich_ct" / shards.folder.parent.name / "1.1.0"
    shutil.copytree(shards.folder, old)
    earlier = earlier_division(tmp_path, SplitPlan(), source.records)
    sides = divide(source.records, SplitPlan()).side_of
    assert earlier.side_of == {r.digest: sides[r.key] for r in source.records}


def test_a_copy_of_the_shards_works_elsewhere(shards, tmp_path):
    from dtvit_jax.data.shards import Shards

    moved = shutil.copytree(shards.folder, tmp_path / "elsewhere")
    assert len(Shards(moved).source("test")) == len(shards.source("test"))


@pytest.mark.parametrize("how", ["cut", "flipped", "longer", "gone"])
def test_a_damaged_shard_is_named(shards, tmp_path, how, capsys):
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


def test_shards_without_checksums_are_refused(shards, tmp_path):
    from dtvit_jax.data.shards import Shards

    folder = shutil.copytree(shards.folder, tmp_path / "copy")
    (folder / "checksums.json").write_text("{")
    with pytest.raises(InputError, match=r"checksums\.json is missing or damaged"):
        Shards(folder)
