"""The train step as lowered for CUDA on a host without a GPU, with the XLA attention.

What this can't see: cuDNN's attention (it can't be lowered without a GPU), what XLA's GPU passes
make of the program, and its speed.
"""

import functools
import re

import jax
import pytest

from dtvit_jax.planning.step_cost import abstract_batch
from dtvit_jax.training.setup import abstract_state, make_setup
from dtvit_jax.training.steps import train_step
from tests.helpers import tiny

BATCH = 4


@pytest.fixture(scope="module")
def lowered():
    """StableHLO of a bfloat16 step of the nano ViT, and its abstract state."""
    config = tiny.get_config()
    config.dtype = "bfloat16"
    config.clip_norm = 1.0
    config.batch_size = BATCH
    setup = make_setup(config, steps=10)
    abstract = abstract_state(setup)
    step = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
    return step.trace(abstract, abstract_batch(config)).lower(
        lowering_platforms=("cuda",)
    ).as_text(), abstract


def operands(text):
    """The types of both operands of each product."""
    return re.findall(r"dot_general.* : \(tensor<(\S+)>, tensor<(\S+)>\)", text)


def test_only_the_heads_multiply_in_float32(lowered):
    """Each of two heads has two linear layers, of [batch, features]: three products a layer."""
    products = operands(lowered[0])
    wide = [pair for pair in products if "f32" in "".join(pair)]
    assert len(products) - len(wide) > 20
    assert len(wide) == 12
    assert all(all(shape.count("x") == 2 for shape in pair) for pair in wide)


def test_the_state_is_donated(lowered):
    text, abstract = lowered
    signature = text[text.index("@main(") : text.index("->")]
    donated = len(re.findall(r"tf.aliasing_output|jax.buffer_donor", signature))
    assert donated == len(jax.tree.leaves(abstract))


def test_nothing_goes_to_the_host(lowered):
    text, _ = lowered
    called = set(re.findall(r"custom_call @(\w+)", text))
    assert called <= {"cu_threefry2x32_ffi"}
    assert not re.search(r"stablehlo\.(infeed|outfeed|send|recv)", text)


def test_no_barrier_is_left_for_a_gpu(lowered):
    """`settle` is for the CPU alone."""
    assert "optimization_barrier" not in lowered[0]
