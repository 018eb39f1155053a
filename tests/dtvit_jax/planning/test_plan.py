import dataclasses

import pytest

from configs import vit_l
from data_builder.errors import InputError
from dtvit_jax.planning.accelerators import ACCELERATORS
from dtvit_jax.planning.plan import WaysToFit, make_plan
from dtvit_jax.planning.table import table
from dtvit_jax.training.memory import GIB
from tests.helpers import tiny


@pytest.fixture(scope="module")
def paper():
    """The paper's recipe in float32 on one device, with no device and nothing compiled."""
    config = vit_l.get_config()
    config.dtype = "float32"
    return make_plan(config, 1, 1, ACCELERATORS, 0.4)


def test_the_papers_batch_on_24_gib(paper):
    assert paper.fits.memory == 24 * GIB
    ways = paper.fits.ways
    assert paper.as_json()["fits"] == {"memory": 24 * GIB, "with": ways}
    assert 12 * 304_353_797 < ways[""] < 0.92 * 24 * GIB
    block = paper.bytes_per_device.activations / 24
    recomputing = ways["--config.model.remat=True"]
    assert 12 * 304_353_797 + block < recomputing < ways[""] / 2
    assert "Does batch 32 fit on 24 GiB? Yes: it needs" in table(paper)
    only_flags = WaysToFit(24 * GIB, {way: need for way, need in ways.items() if way})
    assert "Does batch 32 fit on 24 GiB? No, it needs" in table(
        dataclasses.replace(paper, fits=only_flags)
    )
    fitting = {d.name: d.fits for d in paper.devices}
    assert fitting["RTX 3090"] and not fitting["TPU v5e"] and fitting["A100"]


def test_state_and_time_by_hand(paper):
    assert paper.parameters == 303_301_632 + 2 * (1024 * 512 + 512) + 512 * 5 + 5
    state = paper.bytes_per_device.state
    assert state == pytest.approx(12 * paper.parameters, abs=64)  # the steps' counters
    a100 = next(d for d in paper.devices if d.name == "A100")
    assert a100.step_s == pytest.approx(paper.tflop_per_step / 156 / 0.4, rel=1e-3)


def test_a_plan_that_makes_no_sense_is_refused():
    config = tiny.get_config()
    with pytest.raises(InputError, match="multiple"):
        make_plan(config, 3, 1, ACCELERATORS, 0.4)
    with pytest.raises(InputError, match="--utilisation"):
        make_plan(config, 1, 1, ACCELERATORS, 1.5)
