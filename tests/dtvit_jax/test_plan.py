import dataclasses
import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from configs import resnet18, vit_l
from data_builder.errors import InputError
from dtvit_jax.data.augment import PARAMETERS
from dtvit_jax.plan import parse_mesh
from dtvit_jax.planning import accelerators, flops
from dtvit_jax.planning.accelerators import ACCELERATORS
from dtvit_jax.planning.plan import WaysToFit, make_plan
from dtvit_jax.planning.step_cost import forward_macs, step_cost, step_time
from dtvit_jax.planning.table import table
from dtvit_jax.training.memory import GIB
from dtvit_jax.training.setup import make_task
from tests.helpers import ROOT, tiny

TINY = str(ROOT / "tests/helpers/tiny.py")
VIT_L_HEADS = 2 * 1024 * 512 + 512 * 2 + 512 * 3


def macs(config):
    return forward_macs(config, *make_task(config, steps=1))


def vit_l_by_hand(last_block_tokens):
    """Multiply-adds of ViT-L/16 at 224: 197 tokens of 1024, 24 blocks, 16 heads of 64, MLP 4096."""
    tokens, width, mlp = 197, 1024, 4096
    patches = 196 * (16 * 16 * 3) * width

    def block(queries):
        q, kv = queries * width * width, 2 * tokens * width * width
        attention = 2 * queries * tokens * width  # Q K^T, and the weights times V
        return q + kv + attention + queries * width * width + 2 * queries * width * mlp

    return patches + 23 * block(tokens) + block(last_block_tokens)


def test_vit_l_16_by_hand():
    """61.6 GMAC with every token in every block; ours computes the class token alone in the last.

    Pooling by mean reads all tokens of the last block, and is otherwise the same model.
    """
    config = vit_l.get_config()
    assert vit_l_by_hand(197) == pytest.approx(61.6e9, rel=1e-3)
    config.model.pooling = "mean"
    assert macs(config) == vit_l_by_hand(197) + VIT_L_HEADS
    config.model.pooling = "cls"
    assert macs(config) == vit_l_by_hand(1) + VIT_L_HEADS


def test_resnet18_beside_torchvisions_figure():
    """1.814 G multiply-adds at 224, with a classifier of 512 x 1000 where we have two heads."""
    heads = 2 * 512 * 256 + 256 * 2 + 256 * 3
    assert macs(resnet18.get_config()) - heads + 512 * 1000 == pytest.approx(1.814e9, rel=1e-3)


def test_loops_gradients_and_recomputation_are_counted():
    x, w = jnp.ones((8, 16)), jnp.ones((16, 16))
    product = 2 * 8 * 16 * 16

    def twice(w, x):
        return jnp.tanh(jnp.tanh(x @ w) @ w).sum()

    def looped(w, x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=2)[0].sum()

    for function in (twice, looped):
        assert flops.count(function, w, x) == 2 * product
        # backward: two products for w, and one for the inner x
        assert flops.count(jax.grad(function), w, x) == pytest.approx(5 * product, abs=product)
    again = jax.value_and_grad(jax.checkpoint(twice))  # both forward products twice
    assert flops.count(again, w, x) == 7 * product
    unread = jax.grad(lambda w, x: twice(w, x) + 0 * jax.lax.stop_gradient(x @ w).sum())
    assert flops.count(unread, w, x) == flops.count(jax.grad(twice), w, x)
    kernel = jnp.ones((3, 3, 4, 8))
    images = jnp.ones((2, 16, 16, 4))

    def convolve(kernel, images):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=numbers
        ).sum()

    forward = 2 * (2 * 8 * 8 * 8) * (3 * 3 * 4)
    assert flops.count(convolve, kernel, images) == forward
    both = flops.count(jax.value_and_grad(convolve, (0, 1)), kernel, images)
    assert both == 3 * forward


def test_a_step_costs_three_times_its_forward_pass():
    """A ViT's backward pass is two products for each; only the patches' input needs no gradient."""
    config = tiny.get_config()
    cost = step_cost(config)
    forward = 2 * cost.forward_macs * config.batch_size
    patches = 2 * 16 * (8 * 8) * 64 * config.batch_size
    assert cost.flops == pytest.approx(3 * forward - patches, rel=0.01)


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


def test_sharding_and_links():
    config = tiny.get_config()
    alone, both = step_cost(config), step_cost(config, 2, 4)
    assert both.flops == alone.flops and both.examples == alone.examples // 8
    assert sum(alone.sent.values()) == 0 < both.sent["all-gather"] == both.sent["reduce-scatter"]
    v5e = accelerators.find("v5e")
    time = step_time(both, v5e, 0.5, True)
    assert time.products == pytest.approx(both.flops / 8 / (197e12 / 2))
    assert time.links == pytest.approx(sum(both.sent.values()) / 200e9)
    assert time.total >= time.links + time.memory


def test_names_of_devices_and_meshes():
    assert accelerators.find("rtx3090") is accelerators.find("NVIDIA GeForce RTX-3090")
    assert accelerators.find("TPU-v4").memory == 32e9
    with pytest.raises(InputError, match=r"--device=abacus: .*H100"):
        accelerators.find("abacus")
    config = tiny.get_config()
    assert parse_mesh("", config) == (1, 1)
    assert parse_mesh("data=2,fsdp=4", config) == (2, 4)
    assert parse_mesh("fsdp=4", config) == (1, 4)
    for text in ("data", "data=0", "model=2", "data=-1", "8"):
        with pytest.raises(InputError, match="give data=N"):
            parse_mesh(text, config)
    with pytest.raises(InputError, match="multiple"):
        make_plan(config, 3, 1, ACCELERATORS, 0.4)
    with pytest.raises(InputError, match="--utilisation"):
        make_plan(config, 1, 1, ACCELERATORS, 1.5)


def run_plan(*arguments):
    command = [sys.executable, "-m", "dtvit_jax.plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_agrees_with_the_compiled_step():
    """XLA's own counts of what it compiled for 4 devices, beside the arithmetic."""
    mesh = "--mesh=data=2,fsdp=2"
    done = run_plan(f"--config={TINY}", mesh, "--device=h100", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    compiled, device = answer["compiled"], answer["bytes_per_device"]
    config = tiny.get_config()
    batch = config.batch_size // 4 * (36 * 36 + 4 + 4 + len(PARAMETERS) * 4)
    gathered = compiled["collectives"]["all-gather"]
    assert compiled["arguments"] == pytest.approx(device["state"] - gathered + batch, abs=512)
    assert 4 * compiled["tflop"] == pytest.approx(answer["tflop_per_step"], rel=0.2)
    assert [d["name"] for d in answer["devices"]] == ["H100"]


def test_a_bad_command_is_one_line_and_status_2():
    done = run_plan(f"--config={TINY}", "--device=abacus", "--nocompile")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: --device=abacus")


def test_convolutions_of_a_training_step():
    """Each of a CNN's products costs three times its forward pass, but the first's two."""
    config = tiny.get_config()
    config.model = {"name": "resnet18", "image_size": 32, "channels": 1, "location_classes": 3}
    cost = step_cost(config)
    forward = 2 * cost.forward_macs * config.batch_size
    first = 2 * 16 * 16 * 64 * 49 * config.batch_size
    assert cost.flops == pytest.approx(3 * forward - first, rel=0.25)
    assert functools.reduce(max, cost.sent.values()) == 0
