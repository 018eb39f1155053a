"""The CNNs' convolution against XLA's own, differentiated by JAX, and as lowered for CUDA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dtvit_jax.models.layers import Conv
from dtvit_jax.models.layers_cpu import AUTO


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def run(layer, params, x):
    return nnx.merge(layer, nnx.State(params))(x)


def both(kernel, stride, pixels, padding, bias=True):
    """The layer and nnx.Conv with the same parameters, as functions of these and the images."""
    options = {"kernels": AUTO, "dtype": jnp.float32, "rngs": RNGS}
    layer = Conv(3, 5, kernel, stride=stride, padding=padding, bias=bias, **options)
    plain = nnx.Conv(
        3,
        5,
        (kernel, kernel),
        strides=stride,
        padding=((padding, padding),) * 2,
        use_bias=bias,
        rngs=RNGS,
    )
    (ours, params), (theirs, _) = nnx.split(layer), nnx.split(plain)
    return ours, theirs, nnx.to_pure_dict(params), draw(2, *pixels, 3)


RNGS = nnx.Rngs(0)
CASES = [  # kernel, stride, rows and columns, padding
    (3, 1, (2, 2), 1),
    (3, 1, (1, 1), 1),
    (3, 2, (4, 4), 1),
    (3, 2, (3, 9), 1),
    (7, 2, (9, 8), 3),
    (11, 4, (15, 16), 2),
    (5, 1, (3, 4), 2),
    (3, 4, (5, 5), 0),
    (1, 2, (4, 4), 0),
    (3, 1, (6, 6), 1),
]


@pytest.mark.parametrize(("kernel", "stride", "pixels", "padding"), CASES)
def test_values_and_gradients_are_the_plain_convolutions(kernel, stride, pixels, padding):
    ours, theirs, params, x = both(kernel, stride, pixels, padding)
    shape = jax.eval_shape(lambda x: run(theirs, params, x), x).shape
    weights = draw(*shape, seed=1)

    def answer(layer):
        def loss(params, x):
            y = run(layer, params, x)
            return (y * weights).sum(), y

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    (_, y), gradient = answer(ours)
    (_, want), want_gradient = answer(theirs)
    assert y.shape == want.shape
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 1)])
def test_small_maps_are_products_on_a_cpu_alone(platform, convolutions):
    ours, _, params, x = both(3, 1, (2, 2), 1, bias=False)
    step = jax.jit(lambda params, x: run(ours, params, x))
    text = step.trace(params, x).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("stablehlo.dot_general") == 1 - convolutions
