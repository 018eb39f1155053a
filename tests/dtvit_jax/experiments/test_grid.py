from dtvit_jax.experiments.grid import BASELINE, cells
from tests.helpers.experiment import grid


def test_the_grid_has_every_cell_once_and_the_baseline_one_seed():
    config = grid(seeds=(0, 1), splits=("slice", "subject"))
    found = list(cells(config))
    assert len(found) == len(set(found)) == 2 * 2 * (2 * 1 + 1)
    assert {c.seed for c in found if c.row == BASELINE} == {0}
