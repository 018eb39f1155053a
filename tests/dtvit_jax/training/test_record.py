"""The files of a run that are no checkpoints: without paths, compared, and damaged."""

import json

import pytest

from data_builder.errors import InputError
from dtvit_jax.training import record
from tests.helpers import tiny


def config(**changes):
    made = tiny.get_config("/home/Jane Doe/data")
    made.init_from = f"sha256:{64 * 'a'}"
    made.update(changes)
    return made


def older(**changes):
    """config.json of an older version, which wrote the paths of data and weights as typed."""
    values = record.public_config(config()) | {"init_from": "/home/Jane Doe/vit.pth"} | changes
    values["data"]["dir"] = "/home/Jane Doe/data"
    return values


def test_an_older_run_continues_and_loses_its_paths(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(older()))
    assert record.read_config(tmp_path).data.dir == "/home/Jane Doe/data"
    record.claim_workdir(tmp_path, config(), older())
    assert "Jane" not in path.read_text()
    assert json.loads(path.read_text())["init_from"] == config().init_from
    assert record.read_config(tmp_path).data.dir == ""
    record.claim_workdir(tmp_path, config(), record.public_config(config()))


@pytest.mark.parametrize(
    ("earlier", "name"),
    [
        (older(learning_rate=0.5), "learning_rate"),
        (older(init_from="scratch"), "init_from"),
        (older(init_from="torchvision/vit_l_16"), "init_from"),
        (older(init_from=f"sha256:{64 * 'b'}"), "init_from"),
        (older(init_from=f"weights:{64 * 'a'}"), "init_from"),
    ],
)
def test_another_config_is_refused(tmp_path, earlier, name):
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    with pytest.raises(InputError, match=rf"another config \({name}\)"):
        record.claim_workdir(tmp_path, config())


@pytest.mark.parametrize("text", ["{", "[]", "\udcff", '"text"'])
def test_a_damaged_config_is_one_line_and_stays(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, errors="surrogateescape")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"config\.json of --workdir is damaged: restore it, or"):
        record.claim_workdir(tmp_path, config())
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"config\.json is missing or damaged"):
        record.read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"dataset": []}', '{"dataset": {}}', "3"])
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json of --workdir is missing or damaged") as error:
        record.read_record(tmp_path)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]\n", '{"step": 1}\n', "3\n"])
def test_a_damaged_history_is_one_line(tmp_path, text):
    assert record.read_history(tmp_path) == []
    (tmp_path / "history.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"history\.jsonl of --workdir is damaged"):
        record.read_history(tmp_path)
