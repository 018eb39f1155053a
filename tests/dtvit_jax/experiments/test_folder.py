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
