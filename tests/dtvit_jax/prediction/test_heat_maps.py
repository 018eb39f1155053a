"""Heat maps: their rules by hand, what they show after training, and the way back to the CT."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr

from data_builder.errors import InputError
from data_builder.shards.images import resize
from dtvit_jax import models
from dtvit_jax.data.augment import IDENTITY
from dtvit_jax.data.crop import Crop, centre_crop
from dtvit_jax.prediction import attribution
from dtvit_jax.prediction.heat_maps import heat_maps, methods_of, overlay, to_slice
from dtvit_jax.training.network import make_model, split_model
from dtvit_jax.training.setup import abstract_state, make_task
from dtvit_jax.training.steps import TrainState, train_step
from tests.helpers import tiny

PLACES = ((10, 11), (18, 25), (27, 12))  # centres of the spot in a slice of 36 pixels


def draw(rng, n):
    """Slices of a gray disc; where ICH is, a bright spot of 7 x 7 pixels at its location."""
    y, x = np.mgrid[:36, :36]
    head = (y - 18) ** 2 + (x - 18) ** 2 < 17**2
    images = head * rng.integers(60, 110, (n, 36, 36))
    location = rng.integers(-1, 3, n)
    spots = np.zeros((n, 36, 36), bool)
    for i, where in enumerate(location):
        if where >= 0:
            row, column = np.array(PLACES[where]) + rng.integers(-2, 3, 2)
            spots[i, row - 3 : row + 4, column - 3 : column + 4] = True
    images[spots] = rng.integers(160, 200, spots.sum())
    return images.astype(np.uint8), location.astype(np.int32), spots, head


@pytest.fixture(scope="module")
def trained():
    """A nano ViT that has learnt to see the spots: task, parameters and statistics."""
    config = tiny.get_config()
    config.num_epochs, config.num_steps, config.warmup = 0, 150, 0.1
    task = make_task(config, 150)
    _, params, stats = split_model(nnx.jit(lambda: make_model(config))())
    state = TrainState(jnp.int32(0), params, stats, task.optimizer.init(params))
    step = jax.jit(functools.partial(train_step, task=task))
    rng = np.random.default_rng(0)
    for _ in range(150):
        images, location, _, _ = draw(rng, 16)
        batch = {
            "image": images,
            "augmentation": np.tile(IDENTITY, (16, 1)),
            "hemorrhage": (location >= 0).astype(np.int32),
            "location": location,
        }
        state, logged = step(state, batch)
    assert logged["right"] >= 15 and logged["loss"] < 0.3  # it has learnt something to explain
    return task, state.params, state.stats


@pytest.fixture(scope="module")
def slices():
    images, location, spots, head = draw(np.random.default_rng(1), 48)
    bled = location >= 0
    return images[bled], spots[bled], head


def test_the_gradients_mass_lies_on_what_was_learnt(trained, slices):
    images, spots, head = slices
    heat = np.asarray(heat_maps(*trained, images))
    assert heat.shape == (len(images), 32, 32) and heat.dtype == np.float32
    assert heat.min() >= 0 and np.allclose(heat.max((1, 2)), 1)
    seen = np.asarray(centre_crop(jnp.asarray(spots, jnp.uint8), 32)) > 0
    share = (heat * seen).sum((1, 2)) / heat.sum((1, 2))
    chance = spots.sum((1, 2)) / head.sum()
    assert (share > chance).mean() > 0.7 and np.median(share / chance) > 2


def alike(one, other):
    """The median of Spearman's correlations of maps in pairs."""
    pairs = zip(one, other, strict=True)
    return np.median([spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs])


def test_random_weights_make_another_map(trained, slices):
    """Adebayo et al. 2018 (arXiv 1810.03292): here each array's own values, in any order."""
    task, params, stats = trained
    noise = np.random.default_rng(3)
    shuffled = jax.tree.map(lambda x: noise.permutation(np.ravel(x)).reshape(x.shape), params)
    images, _, _ = slices

    def grid(params, head):  # one value a patch: pixels between them would be no news
        return np.asarray(heat_maps(task, params, stats, images, head=head))[:, 4::8, 4::8]

    nearly = jax.tree.map(lambda x: x * (1 + 0.02 * noise.standard_normal(x.shape)), params)
    nearly = jax.tree.map(lambda x: x.astype(np.float32), nearly)
    for head in attribution.HEADS:
        maps = grid(params, head)
        assert alike(maps, grid(shuffled, head)) < 0.4
        assert alike(maps, grid(nearly, head)) > 0.8  # what is compared is no noise


def test_each_head_and_class_has_its_own_map_but_in_rollout(trained, slices):
    images = slices[0][:8]

    def maps(**options):
        return np.asarray(heat_maps(*trained, images, **options))

    deep, lobar = (maps(head="location", classes=np.full(8, i, np.int32)) for i in (0, 1))
    assert np.abs(deep - lobar).max() > 0.1 and np.abs(deep - maps()).max() > 0.1
    rollouts = [maps(method="rollout", head=head) for head in attribution.HEADS]
    np.testing.assert_array_equal(*rollouts)
    assert rollouts[0].min() >= 0 and np.allclose(rollouts[0].max((1, 2)), 1)


def test_patches_without_tissue_are_dark(slices):
    images = slices[0].copy()
    images[0] = 0
    images[:, :, :18] = 0
    config = tiny.get_config()
    config.model.tokens = "tissue"
    config.model.name = "vit_nano4"
    task = make_task(config, 1)
    model = nnx.jit(lambda: make_model(config))()
    _, params, stats = split_model(model)
    counted = np.asarray(model.encoder.counted(task.network.transform(jnp.asarray(images), None)))
    assert not counted[0].any() and 0 < counted[1].sum() < 64
    heat = np.asarray(heat_maps(task, params, stats, images))
    assert (heat[0] == 0).all()
    # A patch is dark where it and those around it, which the enlarging mixes in, are left out.
    grid = np.pad(counted.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    near = np.lib.stride_tricks.sliding_window_view(grid, (3, 3), (1, 2)).any((-1, -2))
    cells = heat.reshape(-1, 8, 4, 8, 4).max((2, 4))
    assert (cells[~near] == 0).all() and (~near[1:]).any() and (cells[1:].max((1, 2)) > 0.999).all()


def test_what_a_model_cannot_do_is_said(trained):
    images = np.zeros((1, 36, 36), np.uint8)
    with pytest.raises(InputError, match="gradient, rollout"):
        heat_maps(*trained, images, method="grad_cam")
    with pytest.raises(InputError, match="hemorrhage, location"):
        heat_maps(*trained, images, head="age")


@pytest.fixture(scope="module")
def model():
    """A nano ViT of 16 patches with linear heads, and with a class 'normal'."""
    options = {"image_size": 16, "channels": 1, "head": "linear", "location_classes": 4}
    create = functools.partial(models.create, "vit_nano4", **options)
    return nnx.jit(lambda: create(key=jax.random.key(0)))()


@pytest.fixture
def pooling(model):
    """Sets the shared model's pooling; 'cls' again afterwards."""
    yield lambda kind: setattr(model.encoder, "pooling", kind)
    model.encoder.pooling = "cls"


def test_the_attention_that_is_shown_is_the_models_own(model, pooling):
    """Features from the whole attention matrices equal the encoder's, with and without a mask."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(3, 16, 16, 1)), jnp.float32)
    mask = rng.random((3, 16)) < 0.6

    for kind in ("mean", "cls"):
        pooling(kind)

        @jax.jit
        def both_ways(images, mask):
            patches, found = attribution.patchify(images, 4), []
            for m in (None, mask):
                shown = attribution.attend(model.encoder, images, m)
                found.append((*shown, model.encoder.encode(patches, mask=m)))
            return found

        for features, weights, want in both_ways(images, mask):
            np.testing.assert_allclose(features, want, atol=2e-6)
            assert len(weights) == 2 and weights[0].shape == (3, 2, 17, 17)
            np.testing.assert_allclose(np.sum(weights, -1), 1, atol=1e-5)
    to_patches = np.asarray(weights[1])[:, :, :, 1:].transpose(0, 3, 1, 2)
    assert not to_patches[~mask].any() and to_patches[mask].all()


def test_patches_left_out_get_nothing_and_say_nothing(model, pooling):
    pooling("mean")
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 16, 16, 1)), jnp.float32)
    mask = np.ones((2, 16), bool)
    mask[:, :4] = False

    @jax.jit
    def maps(images, mask):
        find = functools.partial(attribution.vit_relevance, model, images, mask, "hemorrhage")
        return [find(jnp.ones(2, jnp.int32), method) for method in ("gradient", "rollout")]

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
    # At the start the class token is near 0, and what comes next to it far from linear.
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
        find = functools.partial(attribution.vit_relevance, model, images, None, "location")
        return changes, answer(taps[0] * 0)[1], find(jnp.array([2]), "gradient")

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
    places = jax.nn.softmax(model.location(features)[:, :3])  # a fourth, 'normal', is no answer
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


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1", "vgg16", "alexnet"])
def test_every_cnn_has_a_map_for_each_head(name):
    config = tiny.get_config()
    shared = {"head": "mlp", "channels": 1, "location_classes": 3, "image_size": 64}
    config.model, config.data.size = {"name": name, **shared}, 72
    task = make_task(config, 1)
    abstract = abstract_state(task)
    assert methods_of(abstract.params) == ("grad_cam",)
    images = jax.ShapeDtypeStruct((2, 72, 72), np.uint8)
    maps = functools.partial(heat_maps, task, head="location")
    found = jax.eval_shape(maps, abstract.params, abstract.stats, images)
    assert found.shape == (2, 64, 64) and found.dtype == np.float32


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(90, 200), st.integers(90, 200)),
    where=st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)),
    crop=st.integers(0, 7),
)
def test_a_map_goes_back_to_where_it_was_seen(shape, where, crop):
    """A round spot goes the way of a slice; its image, taken for a map, must come home."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    row, column = where[0] * shape[0], where[1] * shape[1]
    spot = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 9.0**2))
    image = np.rint(255 * spot).astype(np.uint8)
    stored = np.asarray(resize(Image.fromarray(image), 64))
    seen = np.asarray(centre_crop(jnp.asarray(stored[None]), 64 - crop))[0].astype(np.float32) / 255
    back = to_slice(seen, stored, Crop(64 - crop), shape)
    assert back.shape == shape and back.dtype == np.float32 and back.max() <= 1
    total = back.sum()
    assert abs((back * y).sum() / total - row) < 0.3
    assert abs((back * x).sum() / total - column) < 0.3
    np.testing.assert_allclose(back, spot, atol=0.08)


def test_the_overlay_leaves_alone_what_has_no_heat():
    image = np.arange(200, dtype=np.uint8).reshape(10, 20)
    heat = np.zeros((10, 20), np.float32)
    heat[3, 4] = 1
    shown = overlay(image, heat)
    assert shown.shape == (10, 20, 3) and shown.dtype == np.uint8
    cold = heat == 0
    np.testing.assert_array_equal(shown[cold], np.repeat(image[cold][:, None], 3, 1))
    red, green, blue = shown[3, 4].astype(int)
    assert red > blue + 50 and green > blue + 50  # inferno's end is a light yellow
