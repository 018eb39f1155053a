import functools

import pytest

from dtvit_jax.planning import accelerators
from dtvit_jax.planning.step_cost import on_accelerator, step_cost
from tests.helpers import tiny


def test_a_step_costs_three_times_its_forward_pass():
    """A ViT's backward pass is two products for each; only the patches' input needs no gradient."""
    config = tiny.get_config()
    cost = step_cost(config)
    forward = 2 * cost.forward_macs * config.batch_size
    patches = 2 * 16 * (8 * 8) * 64 * config.batch_size
    assert cost.flops == pytest.approx(3 * forward - patches, rel=0.01)


def test_sharding_and_links():
    config = tiny.get_config()
    alone, both = step_cost(config), step_cost(config, 2, 4)
    assert both.flops == alone.flops and both.examples == alone.examples // 8
    assert sum(alone.sent.values()) == 0 < both.sent["all-gather"] == both.sent["reduce-scatter"]
    v5e = accelerators.find("v5e")
    found = on_accelerator(both, v5e, 0.5, True)
    assert found.products_s == pytest.approx(both.flops / 8 / (197e12 / 2))
    assert found.links_s == pytest.approx(sum(both.sent.values()) / 200e9)
    assert found.step_s >= found.links_s + found.memory_s


def test_convolutions_of_a_training_step():
    """Each of a CNN's products costs three times its forward pass, but the first's two."""
    config = tiny.get_config()
    config.model = {"name": "resnet18", "image_size": 32, "channels": 1, "location_classes": 3}
    cost = step_cost(config)
    forward = 2 * cost.forward_macs * config.batch_size
    first = 2 * 16 * 16 * 64 * 49 * config.batch_size
    assert cost.flops == pytest.approx(3 * forward - first, rel=0.25)
    assert functools.reduce(max, cost.sent.values()) == 0
