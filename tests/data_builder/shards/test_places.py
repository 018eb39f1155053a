"""Where a user's data sets are is remembered in the user's config folder."""

import shutil
import stat

from data_builder.shards.places import recall, remember


def test_a_data_set_is_found_until_it_is_gone(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert recall("size36") is None
    folder = shutil.copytree(shards.folder, tmp_path / "caf\udce9")  # a name that is not UTF-8
    remember("size36", folder)
    assert recall("size36") == folder and recall("size37") is None
    kept = [path for path in (tmp_path / "config").rglob("*") if path.is_file()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600]
    shutil.rmtree(folder)
    assert recall("size36") is None


def test_a_config_folder_that_can_not_be_written_is_no_error(shards, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    remember("size36", shards.folder)
    assert recall("size36") is None
