"""Heat maps of a trained model show what it learnt, and map back to the CT's pixels."""

import functools

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
from dtvit_jax.data.augment import IDENTITY
from dtvit_jax.data.crop import Crop, centre_crop
from dtvit_jax.models.variables import split_model
from dtvit_jax.prediction import attribution
from dtvit_jax.prediction.heat_maps import heat_maps, methods_of, overlay, to_slice
from dtvit_jax.training.network import make_model, make_network
from dtvit_jax.training.setup import make_setup
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
    """A nano ViT that has learnt to see the spots: network, parameters and statistics."""
    config = tiny.get_config()
    config.num_epochs, config.num_steps, config.warmup = 0, 150, 0.1
    setup = make_setup(config, 150)
    _, params, stats = split_model(nnx.jit(lambda: make_model(config))())
    state = TrainState(jnp.int32(0), params, stats, setup.optimizer.init(params))
    step = jax.jit(functools.partial(train_step, setup=setup))
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
    return setup.network, state.params, state.stats


@pytest.fixture(scope="module")
def slices():
    images, location, spots, head = draw(np.random.default_rng(1), 48)
    bled = location >= 0
    return images[bled], spots[bled], head


def test_relevance_concentrates_on_the_learnt_spots(trained, slices):
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


def test_shuffled_weights_give_another_map(trained, slices):
    """Adebayo et al. 2018 (arXiv 1810.03292): here each array's own values, in any order."""
    network, params, stats = trained
    noise = np.random.default_rng(3)
    shuffled = jax.tree.map(lambda x: noise.permutation(np.ravel(x)).reshape(x.shape), params)
    images, _, _ = slices

    def grid(params, head):  # one value a patch: pixels between are interpolated
        return np.asarray(heat_maps(network, params, stats, images, head=head))[:, 4::8, 4::8]

    nearly = jax.tree.map(lambda x: x * (1 + 0.02 * noise.standard_normal(x.shape)), params)
    nearly = jax.tree.map(lambda x: x.astype(np.float32), nearly)
    for head in attribution.HEADS:
        maps = grid(params, head)
        assert alike(maps, grid(shuffled, head)) < 0.4
        assert alike(maps, grid(nearly, head)) > 0.8  # the maps compared are not noise


def test_each_head_and_class_has_its_own_map_except_in_rollout(trained, slices):
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
    network = make_network(config)
    model = nnx.jit(lambda: make_model(config))()
    _, params, stats = split_model(model)
    counted = np.asarray(model.encoder.counted(network.transform(jnp.asarray(images), None)))
    assert not counted[0].any() and 0 < counted[1].sum() < 64
    heat = np.asarray(heat_maps(network, params, stats, images))
    assert (heat[0] == 0).all()
    # A patch is dark where it and its neighbours, which the interpolation mixes in, are masked.
    grid = np.pad(counted.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    near = np.lib.stride_tricks.sliding_window_view(grid, (3, 3), (1, 2)).any((-1, -2))
    cells = heat.reshape(-1, 8, 4, 8, 4).max((2, 4))
    assert (cells[~near] == 0).all() and (~near[1:]).any() and (cells[1:].max((1, 2)) > 0.999).all()


def test_an_unknown_head_or_method_is_an_error(trained):
    images = np.zeros((1, 36, 36), np.uint8)
    with pytest.raises(InputError, match="gradient, rollout"):
        heat_maps(*trained, images, method="grad_cam")
    with pytest.raises(InputError, match="hemorrhage, location"):
        heat_maps(*trained, images, head="age")


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1", "vgg16", "alexnet"])
def test_every_cnn_has_a_map_for_each_head(name):
    config = tiny.get_config()
    shared = {"head": "mlp", "channels": 1, "location_classes": 3, "image_size": 64}
    config.model, config.data.size = {"name": name, **shared}, 72
    network = make_network(config)
    assert methods_of(network.params) == ("grad_cam",)
    images = jax.ShapeDtypeStruct((2, 72, 72), np.uint8)
    maps = functools.partial(heat_maps, network, head="location")
    result = jax.eval_shape(maps, network.params, network.stats, images)
    assert result.shape == (2, 64, 64) and result.dtype == np.float32


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(90, 200), st.integers(90, 200)),
    where=st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)),
    crop=st.integers(0, 7),
)
def test_a_map_returns_to_its_position_in_the_slice(shape, where, crop):
    """A round spot is transformed like a slice; taken as a map, it returns to its position."""
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


def test_the_overlay_changes_no_pixel_without_heat():
    image = np.arange(200, dtype=np.uint8).reshape(10, 20)
    heat = np.zeros((10, 20), np.float32)
    heat[3, 4] = 1
    shown = overlay(image, heat)
    assert shown.shape == (10, 20, 3) and shown.dtype == np.uint8
    cold = heat == 0
    np.testing.assert_array_equal(shown[cold], np.repeat(image[cold][:, None], 3, 1))
    red, green, blue = shown[3, 4].astype(int)
    assert red > blue + 50 and green > blue + 50  # inferno's end is a light yellow
