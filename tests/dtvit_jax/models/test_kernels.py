"""The plain form of each operation against the automatic one, alone and in whole models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dtvit_jax.models import create, create_encoder, kernels
from dtvit_jax.models.kernels import PLAIN
from dtvit_jax.models.layers_cpu import AUTO

CUSTOM = ("custom_vjp", "platform_index", "optimization_barrier", "reduce_window_max")
"""Operations that ONNX has no counterpart of, or that depend on the platform."""
MODELS = {
    "vit_nano8": {"image_size": 32},
    "vit_nano16": {"image_size": 64, "pooling": "mean", "gelu": "tanh", "tissue": (0, 0.5, 3)},
    "resnet18": {"image_size": 32},
    "alexnet": {"image_size": 63},
    "squeezenet1_1": {"image_size": 32},
    "densenet121": {"image_size": 32},
    "vgg16": {"image_size": 32},
}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


Q, K, V = draw(2, 3, 4, 8), draw(2, 5, 4, 8, seed=1), draw(2, 5, 4, 8, seed=2)
MAPS = draw(2, 7, 6, 3)
OPERATIONS = {
    "linear": (Q, draw(8, 12), draw(12)),
    "layer_norm": (Q + 3, draw(8), draw(8, seed=1), 1e-6),
    "attention": (Q, K, V, jnp.arange(5) < jnp.array([[5], [3]])),
    "residual": (Q, draw(2, 3, 4, 8, seed=3)),
    "convolution": (draw(2, 2, 2, 3), draw(3, 3, 3, 5), (1, 1), ((1, 1), (1, 1))),
    "window_max": (MAPS, 3, 2, ((1, 1), (1, 2))),
}


def test_every_operation_is_compared():
    assert {*OPERATIONS} == {*PLAIN.__dataclass_fields__}


@pytest.mark.parametrize("name", OPERATIONS)
def test_plain_and_automatic_operations_agree_in_values_and_gradients(name):
    arguments = OPERATIONS[name]
    floats = [i for i, x in enumerate(arguments) if getattr(x, "dtype", None) == jnp.float32]

    def value_and_gradient(form):
        def total(*given):
            filled = list(arguments)
            for i, x in zip(floats, given, strict=True):
                filled[i] = x
            y = getattr(form, name)(*filled)
            return (y * jnp.arange(y.size).reshape(y.shape)).sum() / y.size, y

        given = [arguments[i] for i in floats]
        return jax.jit(jax.value_and_grad(total, tuple(range(len(floats))), has_aux=True))(*given)

    got, want = value_and_gradient(PLAIN), value_and_gradient(AUTO)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("side, stride", [(2, 2), (3, 1), (3, 2)])
def test_a_windows_maximum_is_that_of_its_pixels(side, stride):
    got = kernels.window_max(MAPS, side, stride, ((1, 0), (0, 1)))
    padded = np.pad(MAPS, ((0, 0), (1, 0), (0, 1), (0, 0)), constant_values=-np.inf)
    for row in range(got.shape[1]):
        for column in range(got.shape[2]):
            top, left = row * stride, column * stride
            window = padded[:, top : top + side, left : left + side]
            np.testing.assert_array_equal(got[:, row, column], window.max((1, 2)))


@functools.cache
def abstract_forms(name):
    """The graphs of both forms of a model, and its abstract parameters and statistics."""
    graphs = {}
    for form in ("auto", "plain"):
        make = functools.partial(create, name, kernels=form, **MODELS[name])
        model = nnx.eval_shape(lambda make=make: make(key=jax.random.key(0)))
        graphs[form], *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphs, states


def randomised(states):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.01, 0.1, x.shape), x.dtype), states)


@pytest.mark.parametrize("name", ["vit_nano8", "vit_nano16", "resnet18", "squeezenet1_1"])
def test_plain_and_automatic_models_give_the_same_logits(name):
    graphs, states = abstract_forms(name)
    states = randomised(states)
    side = MODELS[name]["image_size"]
    images = draw(2, side, side, 3)
    plain, auto = (
        jax.jit(lambda images, graph=graph: nnx.merge(graph, *states)(images))(images)
        for graph in (graphs["plain"], graphs["auto"])
    )
    for got, want in zip(plain, auto, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_plain_model_has_plain_operations_alone(name):
    graphs, states = abstract_forms(name)
    side = MODELS[name]["image_size"]
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    auto, plain = (
        str(jax.make_jaxpr(lambda s, x, graph=graph: nnx.merge(graph, *s)(x))(states, images))
        for graph in (graphs["auto"], graphs["plain"])
    )
    assert any(operation in auto for operation in CUSTOM)
    assert not [operation for operation in CUSTOM if operation in plain]


@pytest.fixture
def cudnns_form(monkeypatch):
    """`cudnn_attention` runs on a CPU: jax computes what it is asked for by XLA instead."""
    by_xla = jax.nn.dot_product_attention

    def instead(q, k, v, *, key_value_seq_lengths, implementation):
        assert implementation == "cudnn" and q.shape[1] % 2 == k.shape[1] % 2 == 0
        return by_xla(q, k, v, key_value_seq_lengths=key_value_seq_lengths, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)


@pytest.mark.parametrize("tokens", [4, 5])
@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_cudnns_padding_changes_no_number(cudnns_form, tokens, queries, masked):
    q, k, v = Q[:, :queries], K[:, :tokens], V[:, :tokens]
    mask = jnp.arange(tokens) < jnp.array([[tokens], [2]]) if masked else None

    def value_and_gradient(attention):
        def total(*arrays):
            y = attention(*arrays, mask)
            return (y * jnp.arange(y.size).reshape(y.shape)).sum() / y.size, y

        return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)

    got, want = map(value_and_gradient, (kernels.cudnn_attention, kernels.attention))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_masked_vit_is_the_same_with_cudnns_attention(cudnns_form, pooling):
    """Its patches change their order, because cuDNN takes lengths and no masks."""
    options = {"image_size": 64, "pooling": pooling, "tissue": (0, 0.5, 3)}
    images = draw(3, 64, 64, 3).at[0].set(0)  # the first image keeps no patch
    images = images.at[1, :24, :24].set(0).at[1, 28:, 12:52].set(0)  # wider than the margin

    def features(attention):
        encoder = create_encoder(
            "vit_nano16", key=jax.random.key(1), kernels="plain", attention=attention, **options
        )
        counted = np.asarray(encoder.counted(images))
        assert not counted[0].any() and (counted[1, 1:] > counted[1, :-1]).any()
        return encoder(images)

    np.testing.assert_allclose(features("cudnn"), features("xla"), rtol=1e-5, atol=1e-5)
