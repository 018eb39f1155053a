import jax
import jax.numpy as jnp
import pytest

from data_builder.errors import InputError
from dtvit_jax.training import memory
from dtvit_jax.training.memory import GIB, RUNTIME_BYTES, Estimate


def test_activations_of_a_linear_chain_by_hand():
    """y = relu(x W): the backward pass keeps x and the sign of its output, both per example."""
    params = {"kernel": jax.ShapeDtypeStruct((64, 32), jnp.float32)}

    def loss(p, examples):
        return jnp.tanh(jnp.ones((examples, 64)) @ p["kernel"]).sum()

    need = memory.estimate(loss, params, memory.tree_bytes([params] * 3))
    assert need.state == 3 * 64 * 32 * 4
    assert need.gradients == 64 * 32 * 4
    kept = (64 + 32) * 4  # the input, and tanh's output
    assert kept <= need.activations_per_example <= 2 * kept


def test_the_estimate_is_near_what_xla_allots():
    """A small ViT's whole step: XLA's own count within a quarter of ours."""
    import functools

    from dtvit_jax.planning.step_cost import abstract_batch
    from dtvit_jax.training.setup import abstract_state, make_setup, step_memory
    from dtvit_jax.training.steps import train_step
    from tests.helpers import tiny

    config = tiny.get_config()
    config.model.name, config.model.image_size, config.data.size = "vit_micro8", 64, 72
    config.batch_size = 32
    setup = make_setup(config, steps=10)
    abstract = abstract_state(setup)
    need = step_memory(config, setup, memory.tree_bytes(abstract))
    step = jax.jit(functools.partial(train_step, setup=setup), donate_argnums=0)
    found = step.lower(abstract, abstract_batch(config)).compile().memory_analysis()
    xla = found.argument_size_in_bytes + found.temp_size_in_bytes
    assert need.total(32, 1) - RUNTIME_BYTES == pytest.approx(xla, rel=0.25)


def test_the_papers_batch_on_24_gib():
    """Figures of ViT-L/16 in float32: batch 32 does not fit, and accumulation by 2 does."""
    vit_l = Estimate(3 * 1_217_000_000, 1_217_000_000, 640_000_000)
    assert 24 * GIB < vit_l.total(32, 1) < 30 * GIB
    assert 5 * GIB < vit_l.total(4, 1) < 7 * GIB
    with pytest.raises(InputError, match=r"about 25 GiB .* 24: --config.accumulation=2 .*size=16"):
        memory.check(vit_l, 32, 1, 24 * GIB)
    memory.check(vit_l, 32, 2, 24 * GIB)
    with pytest.raises(InputError, match="smaller model"):
        memory.check(vit_l, 32, 32, 4 * GIB)


def test_there_is_some_memory_here():
    assert memory.available() > 2**28
