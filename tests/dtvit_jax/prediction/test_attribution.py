"""Relevance by attention and gradients, checked by hand and by finite differences."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dtvit_jax import models
from dtvit_jax.prediction import attribution


@pytest.fixture(scope="module")
def model():
    """A nano ViT of 16 patches with linear heads, and with a class 'normal'."""
    options = {"image_size": 16, "channels": 1, "head": "linear", "location_classes": 4}
    create = functools.partial(models.create, "vit_nano4", **options)
    return nnx.jit(lambda: create(key=jax.random.key(0)))()


@pytest.fixture
def pooling(model):
    """Sets the shared model's pooling; 'cls' is restored afterwards."""
    yield lambda kind: setattr(model.encoder, "pooling", kind)
    model.encoder.pooling = "cls"


def test_the_attention_weights_are_the_models_own(model, pooling):
    """Features from the whole attention matrices equal the encoder's, with and without a mask."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 16, 16, 1)), jnp.float32)
    mask = rng.random((3, 16)) < 0.6

    for kind in ("mean", "cls"):
        pooling(kind)

        @jax.jit
        def both_ways(images, mask):
            patches, results = attribution.patchify(images, 4), []
            for m in (None, mask):
                attended = attribution.attend(model.encoder, images, m)
                results.append((*attended, model.encoder.encode(patches, mask=m)))
            return results

        for features, weights, want in both_ways(images, mask):
            np.testing.assert_allclose(features, want, atol=2e-6)
            assert len(weights) == 2 and weights[0].shape == (3, 2, 17, 17)
            np.testing.assert_allclose(np.sum(weights, -1), 1, atol=1e-5)
    to_patches = np.asarray(weights[1])[:, :, :, 1:].transpose(0, 3, 1, 2)
    assert not to_patches[~mask].any() and to_patches[mask].all()


def test_masked_patches_get_no_relevance_and_have_no_influence(model, pooling):
    pooling("mean")
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 16, 16, 1)), jnp.float32)
    mask = np.ones((2, 16), bool)
    mask[:, :4] = False

    @jax.jit
    def maps(images, mask):
        relevance = functools.partial(attribution.vit_relevance, model, images, mask, "hemorrhage")
        return [relevance(jnp.ones(2, jnp.int32), method) for method in ("gradient", "rollout")]

    other = images.at[:, :4].add(3.0)  # the first row of patches
    for one, two in zip(maps(images, mask), maps(other, mask), strict=True):
        one = np.asarray(one).reshape(2, 16)
        assert (one[~mask] == 0).all() and one[mask].any()
        np.testing.assert_allclose(one, np.asarray(two).reshape(2, 16), atol=1e-6)


def test_rollout_by_hand():
    """Two tokens, two blocks, two heads whose mean is known."""
    first = jnp.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])[None]
    second = jnp.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])[None]
    # 0.5 A + 0.5 I: [[.75, .25], [.25, .75]], then [[.5, .5], [.5, .5]] times that.
    np.testing.assert_allclose(attribution.rollout([first, second])[0], np.full((2, 2), 0.5))
    np.testing.assert_allclose(attribution.rollout([first])[0], [[0.75, 0.25], [0.25, 0.75]])


def test_gradient_relevance_by_finite_differences(model):
    """One block, where R = I + mean over heads of (dy/dA x A)+: dy/dA by moving each weight."""
    graph, state = nnx.split(model)
    model = nnx.merge(graph, state)
    model.encoder.blocks = nnx.List(model.encoder.blocks[:1])
    # At initialization the class token is near 0, where the function is far from linear.
    model.encoder.class_token[...] = jax.random.normal(jax.random.key(1), (1, 1, 64))
    images = jnp.asarray(np.random.default_rng(2).normal(size=(1, 16, 16, 1)), jnp.float32)
    step = 1e-2
    moves = step * jnp.eye(32).reshape(32, 2, 16)  # of each head's weights from the class token
    taps = jnp.zeros((32, 1, 2, 17, 17)).at[:, 0, :, 0, 1:].set(moves)

    @jax.jit
    def everything(taps):
        def answer(tap):
            features, weights = attribution.attend(model.encoder, images, None, [tap])
            return attribution.log_odds(model, features, "location", jnp.array([2]))[0], weights[0]

        changes = jax.vmap(lambda tap: answer(tap)[0] - answer(-tap)[0])(taps)
        relevance = functools.partial(attribution.vit_relevance, model, images, None, "location")
        return changes, answer(taps[0] * 0)[1], relevance(jnp.array([2]), "gradient")

    changes, weights, got = everything(taps)
    gradient = np.asarray(changes).reshape(2, 16) / (2 * step)
    want = np.maximum(gradient * weights[0, :, 0, 1:], 0).mean(0)
    assert (want > 0).sum() > 4
    np.testing.assert_allclose(np.ravel(got), want, rtol=2e-2, atol=1e-3 * want.max())


def test_log_odds_are_those_of_the_probability(model):
    features = jnp.asarray(np.random.default_rng(0).normal(size=(5, 64)), jnp.float32)
    p = jax.nn.softmax(model.hemorrhage(features))[:, 1]
    ones = jnp.ones(5, jnp.int32)
    got = attribution.log_odds(model, features, "hemorrhage", ones)
    np.testing.assert_allclose(got, np.log(p / (1 - p)), atol=1e-5)
    places = jax.nn.softmax(
        model.location(features)[:, :3]
    )  # the fourth, 'normal', is never reported
    got = attribution.log_odds(model, features, "location", -ones)
    np.testing.assert_allclose(got, np.log(places.max(-1) / (1 - places.max(-1))), atol=1e-5)


def test_grad_cam_is_cam_where_the_head_is_linear():
    """Selvaraju et al. 2017, section 3.1: with pooled means and one linear layer they are equal."""
    rng = np.random.default_rng(0)
    last = jnp.asarray(rng.normal(size=(2, 5, 5, 8)), jnp.float32)
    kernel = rng.normal(size=(8, 2)).astype(np.float32)
    encoder = SimpleNamespace(last_map=lambda images: images, from_map=lambda x: x.mean((1, 2)))
    model = SimpleNamespace(encoder=encoder, hemorrhage=lambda features: features @ kernel)
    got = attribution.grad_cam(model, last, "hemorrhage", jnp.ones(2, jnp.int32))
    want = np.maximum(np.asarray(last) @ (kernel[:, 1] - kernel[:, 0]), 0)
    np.testing.assert_allclose(got, want / 25, atol=1e-6)  # a mean's gradient is 1 / 25
