import json
import pathlib
import shutil

import ml_collections
import pytest

from configs.experiments import table4
from data_builder.errors import InputError
from dtvit_jax.experiments.grid import BASELINE
from dtvit_jax.experiments.run import run
from tests.helpers.experiment import TINY, grid, predicted


def test_another_grid_in_the_same_folder_is_refused(tmp_path):
    run(grid(baseline=False), tmp_path, predicted)
    with pytest.raises(InputError, match="another experiment"):
        run(grid(), tmp_path, predicted)


def test_no_path_of_the_user_is_in_an_experiments_folder(tmp_path):
    """Of a recipe, of the weights to begin with, or in a message of why a cell failed."""
    place = tmp_path / "Jane Doe"
    place.mkdir()
    recipe = str(shutil.copy(TINY, place / "tiny.py"))
    out = place / "out"
    config = grid(source=str(place / "source"), data_dir=str(place / "data"))
    config.rows = {"good": table4.row(recipe, init_from=str(place / "weights.pth"))}

    def failing(config, cell, out):
        if cell.fold == 0:
            return predicted(config, cell, out)
        raise InputError(f"no shards in {config.data_dir}, {out}/{cell.folder} or {config.source}")

    assert run(config, out, failing) == 1
    for path in out.rglob("*"):
        assert not path.is_file() or b"Jane" not in path.read_bytes(), path
    why = (out / "failed.csv").read_text()
    assert "no shards in config.data_dir, --out/runs/good/" in why and "config.source" in why
    assert run(config, out, failing) == 1  # the same experiment
    pathlib.Path(recipe).write_text(
        pathlib.Path(TINY).read_text().replace("config.batch_size = 8", "config.batch_size = 4")
    )
    with pytest.raises(InputError, match="another experiment"):
        run(config, out, failing)


def test_an_experiment_of_an_older_version_continues(tmp_path):
    """Its experiment.json names the recipe by its path."""
    assert run(grid(), tmp_path, predicted) == 0
    path = tmp_path / "experiment.json"
    values = json.loads(path.read_text())
    assert values["rows"]["good"]["recipe"].startswith("sha256:")
    values["rows"]["good"]["recipe"] = TINY
    path.write_text(json.dumps(values))
    assert run(grid(), tmp_path, predicted) == 0
    assert TINY not in path.read_text()


def test_rows_may_be_added_but_not_changed_nor_removed_nor_the_baselines_data(tmp_path):
    ran = []

    def counting(config, cell, out):
        ran.append(cell.row)
        return predicted(config, cell, out)

    def rows(**sizes):
        fields = {name: {"data__size": size} if size else {} for name, size in sizes.items()}
        return ml_collections.ConfigDict({n: table4.row(TINY, **f) for n, f in fields.items()})

    run(grid(rows=rows(good=0)), tmp_path, counting)
    with pytest.raises(InputError, match="another experiment"):  # "bad" would be the first row
        run(grid(rows=rows(bad=40, good=0)), tmp_path, counting)
    assert run(grid(rows=rows(bad=0, good=0)), tmp_path, counting) == 0
    assert sorted(ran) == sorted(2 * [BASELINE] + 2 * ["good"] + 2 * ["bad"])
    for changed in (rows(good=0), rows(bad=0, good=40)):
        with pytest.raises(InputError, match="another experiment"):
            run(grid(rows=changed), tmp_path, counting)
