import shutil

import ml_collections
import pytest

from data_builder.errors import InputError
from dtvit_jax.data.shards import Shards, find_shards, stored_pixels


def test_decoded_slices_are_the_same_from_memory(shards):
    source = Shards(shards.folder).source("train")
    cold, warm = source[3], source[3]
    assert (cold["image"] == warm["image"]).all()
    assert cold["hemorrhage"] == warm["hemorrhage"] and cold["index"] == warm["index"] == 3


def test_labels_are_the_records(shards):
    source = shards.source("train")
    stored = shards._builder.as_data_source("train")
    for i, record in enumerate(stored):
        row = source[i]
        assert (row["hemorrhage"], row["location"]) == (record["hemorrhage"], record["location"])
        assert (row["image"] == record["image"][..., 0]).all()
        assert source.describe(i)["key"] == record["key"].decode()


def data_config(folder, **changes):
    values = {"source": "", "key": "", "size": 36, "split": "subject"}
    values |= {"dir": str(folder), "folds": 0, "fold": 0, "seed": 0}
    return ml_collections.ConfigDict(values | changes)


def test_shards_of_another_size_are_refused(shards):
    with pytest.raises(InputError, match=r"36 pixels a side, config\.data\.size is 64"):
        find_shards(data_config(shards.folder, size=64))


def test_shards_are_found_by_size_split_and_digest(shards):
    data_dir = shards.folder.parents[2]
    assert find_shards(data_config(shards.folder)).folder == shards.folder
    digest = shards.metadata["digest"]
    assert find_shards(data_config(data_dir), digest).folder == shards.folder
    with pytest.raises(InputError, match="no shards in"):
        find_shards(data_config(data_dir, size=64))
    with pytest.raises(InputError, match="no shards in"):
        find_shards(data_config(data_dir), "0" * 16)


def test_shards_built_again_are_preferred_to_those_of_an_older_version(shards, tmp_path):
    named = tmp_path / "ich_ct" / shards.folder.parent.name
    for version in ("1.1.0", "1.2.0"):
        folder = shutil.copytree(shards.folder, named / version)
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace('"1.2.0"', f'"{version}"'))
    assert find_shards(data_config(tmp_path)).folder == named / "1.2.0"
    shutil.rmtree(named / "1.2.0")
    with pytest.raises(InputError, match=r"version 1\.1\.0, .*build them again"):
        find_shards(data_config(tmp_path))


def test_shards_that_are_missing_or_of_another_version_are_refused(shards, tmp_path):
    text = (shards.folder / "dataset_info.json").read_text()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match="no readable data set"):
        Shards(other)
    for path in shards.folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "dataset_info.json").write_text(text.replace('"1.2.0"', '"0.9.0"'))
    with pytest.raises(InputError, match=r"version 0\.9\.0"):
        Shards(other)


def test_another_side_and_damaged_pixels_are_refused(shards):
    with pytest.raises(InputError, match="split 'training'"):
        shards.source("training")
    with pytest.raises(InputError, match="damaged"):
        stored_pixels(b"", 36)
    with pytest.raises(InputError, match="damaged"):
        stored_pixels(shards.source("train")._records[0], 37)
