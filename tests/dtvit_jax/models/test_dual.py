"""The dual-task heads, and that a model is parameters alone and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dtvit_jax.models import count_parameters, create, create_encoder
from dtvit_jax.models.kernels import PLAIN
from dtvit_jax.models.vit import SIZES, ViT


def small(**options):
    return create("vit_nano8", key=jax.random.key(0), image_size=32, **options)


IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32, 32, 3)), jnp.float32)


def test_parameters_are_drawn_from_the_keys_that_flax_gives_out():
    key = jax.random.key(3)
    ours = create_encoder("vit_nano8", key=key, image_size=32)
    options = {"kernels": PLAIN, "dtype": jnp.float32, "rngs": nnx.Rngs(params=key)}
    theirs = ViT(SIZES["nano"], 8, image_size=32, **options)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in (ours, theirs)),
    )


@pytest.mark.parametrize("location_classes", [3, 4])
def test_heads_are_linear_relu_linear(location_classes):
    model = small(location_classes=location_classes)
    features = np.asarray(model.encoder(IMAGES))
    state = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    for name, got, classes in zip(
        ("hemorrhage", "location"), model(IMAGES), (2, location_classes), strict=True
    ):
        hidden, out = state[name]["hidden"], state[name]["out"]
        assert hidden["kernel"].shape == (64, 32)
        y = np.maximum(features @ hidden["kernel"] + hidden["bias"], 0)
        assert got.shape == (3, classes)
        np.testing.assert_allclose(got, y @ out["kernel"] + out["bias"], rtol=1e-5, atol=1e-6)


def test_linear_heads():
    model = small(head="linear")
    out = nnx.to_pure_dict(nnx.state(model))["location"]["out"]
    want = model.encoder(IMAGES) @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(model(IMAGES)[1], want, rtol=1e-5, atol=1e-6)


def test_count_of_the_papers_model():
    """ViT-L/16 and two heads of 1024 -> 512 -> 2 and 3, by hand."""
    model = nnx.eval_shape(lambda: create("vit_l16", key=jax.random.key(0)))
    heads = 2 * (1024 * 512 + 512) + (512 * 2 + 2) + (512 * 3 + 3)
    assert count_parameters(model) == 303_301_632 + heads


def test_a_model_is_parameters_alone():
    """No generator state to save; it splits once and merges inside a plain jit."""
    model = small()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(rest)
    run = jax.jit(lambda params, images: nnx.merge(graph, params)(images))
    for got, want in zip(run(params, IMAGES), model(IMAGES), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_every_parameter_has_a_gradient_and_kernels_are_called_kernel():
    graph, params = nnx.split(small())

    def loss(params):
        hemorrhage, location = nnx.merge(graph, params)(IMAGES)
        return jnp.sum(jax.nn.log_softmax(hemorrhage)[:, 1] * jax.nn.log_softmax(location)[:, 0])

    gradient = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(leaf).max() > 0, path
        assert (path[-1].key == "kernel") == (leaf.ndim == 2), path


def test_same_key_same_parameters():
    for a, b in zip(
        jax.tree.leaves(nnx.state(small())), jax.tree.leaves(nnx.state(small())), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_encoder_made_abstractly_is_the_same():
    def make():
        return create_encoder("vit_nano8", key=jax.random.key(0), image_size=32)

    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), nnx.state(nnx.eval_shape(make)))
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), nnx.state(make()))
