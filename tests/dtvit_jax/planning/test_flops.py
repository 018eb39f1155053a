import jax
import jax.numpy as jnp
import pytest

from configs import resnet18, vit_l
from dtvit_jax.planning import flops
from dtvit_jax.planning.step_cost import forward_macs
from dtvit_jax.training.network import make_network

VIT_L_HEADS = 2 * 1024 * 512 + 512 * 2 + 512 * 3


def macs(config):
    return forward_macs(config, make_network(config))


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


def test_resnet18_has_torchvisions_figure():
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
