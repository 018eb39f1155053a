"""Tests of the head's box: its position, host against device, and maps mapped back to slices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_builder.errors import InputError
from dtvit_jax.data import packing
from dtvit_jax.data.crop import Crop
from dtvit_jax.models.variables import split_model
from dtvit_jax.prediction.heat_maps import to_slice
from dtvit_jax.runs.portable import run_onnx, to_onnx
from dtvit_jax.training.config_checks import check_config
from dtvit_jax.training.network import make_model, make_network, make_tissue
from dtvit_jax.training.setup import make_setup
from dtvit_jax.training.steps import evaluate_step, probabilities
from tests.helpers import tiny

HEAD = Crop(32, 10.0)
on_device = jax.jit(HEAD.__call__)


def slices(rng, n=6):
    """Returns gray ellipses of random size and position, with noise up to the threshold in air."""
    y, x = np.mgrid[:36, :36]
    centre, radius = rng.uniform(0, 36, (2, n, 1, 1)), rng.uniform(1, 25, (2, n, 1, 1))
    inside = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1
    images = np.where(inside, rng.integers(11, 256, (n, 36, 36)), rng.integers(0, 11, (n, 36, 36)))
    return images.astype(np.uint8)


@pytest.mark.parametrize(
    ("rows", "columns", "place"),
    [
        (slice(9, 29), slice(12, 20), [9, 6, 20]),  # the longer side counts, the head in the middle
        (slice(10, 12), slice(20, 22), [3, 13, 16]),  # no smaller than half of 32
        (slice(0, 1), slice(35, 36), [0, 20, 16]),  # moved into the slice
        (slice(0, 36), slice(3, 30), [0, 0, 36]),  # more than 32: made smaller
        (slice(0, 0), slice(0, 0), [2, 2, 32]),  # nothing: the middle
    ],
)
def test_the_box_by_hand(rows, columns, place):
    image = np.full((1, 36, 36), 10, np.uint8)
    image[0, rows, columns] = 11
    assert HEAD.place(image, np)[0].tolist() == place
    assert np.asarray(HEAD.place(jnp.asarray(image)))[0].tolist() == place
    if place == [2, 2, 32]:
        assert (HEAD.on_host(image[0]) == image[0, 2:34, 2:34]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_host_and_device_see_the_same_and_pil_nearly_so(seed):
    """Host and device agree exactly. PIL's bilinear resize differs by rounding where the box is
    magnified; where it is reduced, PIL filters over more pixels."""
    images = slices(np.random.default_rng(seed))
    found = np.asarray(on_device(images))
    assert found.dtype == np.int32
    for image, seen in zip(images, found, strict=True):
        assert (HEAD.on_host(image) == seen).all()
        top, left, side = HEAD.place(image[None], np)[0].tolist()
        if side <= 32:
            box = (left, top, left + side, top + side)
            pil = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR, box)
            assert np.abs(np.asarray(pil, int) - seen).max() <= 2


def test_a_head_that_moves_or_grows_looks_the_same():
    """The purpose of the option: the same disc, smaller or moved, fills the input equally."""
    y, x = np.mgrid[:36, :36]

    def disc(row, column, radius):
        return (((y - row) ** 2 + (x - column) ** 2 <= radius**2) * 200).astype(np.uint8)

    large, moved, small = (
        HEAD.on_host(disc(*given)) > 100 for given in ((17, 18, 15), (19, 16, 15), (12, 22, 10))
    )
    assert (large == moved).all()
    assert (large != small).mean() < 0.06  # of 10% that lie on the edge
    middle = Crop(32).on_host(disc(12, 22, 10)) > 100
    assert (large != middle).mean() > 0.3


@settings(max_examples=15, deadline=None)
@given(st.floats(25, 75), st.floats(25, 75))
def test_a_map_goes_back_to_where_it_was_seen(row, column):
    """A round spot in the magnified box, used as a map, returns to its position in the slice."""
    y, x = np.mgrid[:100, :100]
    spot = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 8.0**2))
    stored = np.rint(255 * spot).astype(np.uint8)
    crop = Crop(80, 10.0)
    seen = crop.on_host(stored) / np.float32(255)
    back = to_slice(seen, stored, crop, (100, 100))
    np.testing.assert_allclose(back, spot, atol=0.06)
    assert abs((back * y).sum() / back.sum() - row) < 0.3


def test_evaluation_prediction_and_export_see_the_same(tmp_path):
    """Packed tissue of the head's box, the dense form and ONNX have the same probabilities."""
    config = tiny.get_config()
    config.crop, config.model.tokens = "head", "tissue"
    check_config(config)
    setup = make_setup(config, steps=1)
    _, params, stats = split_model(make_model(config))
    images = slices(np.random.default_rng(3), 8)
    rule = make_tissue(config)
    kept = np.stack([rule.kept(image) for image in images])
    centre = dataclasses.replace(rule, head_crop=False)
    assert (kept != np.stack([centre.kept(image) for image in images])).any()
    level = packing.Level(8 * rule.patches, (rule.patches + 1,) * 4)
    batch = {
        "image": images,
        "mask": np.ones(8, bool),
        "hemorrhage": np.zeros(8, int),
        "location": np.full(8, -1),
        "packing": packing.pack(kept, level, 1),
    }
    _, *packed = jax.jit(functools.partial(evaluate_step, network=setup.network))(
        params, stats, batch
    )

    plain = make_network(config, kernels="plain")  # ONNX takes no other

    def dense(images):
        model = plain.model(params, stats)
        first, second = probabilities(model(plain.transform(images, None)))
        return {
            "p_hemorrhage": first,
            "p_location": second,
            "raw_p_hemorrhage": 1 - first,
            "raw_p_location": 1 - second,
        }

    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(dense, 36))
    for answers in (jax.jit(dense)(images), run_onnx(path, images)):
        assert np.abs(answers["p_hemorrhage"] - packed[0]).max() < 1e-5
        assert np.abs(answers["p_location"] - packed[1]).max() < 1e-5


def test_another_crop_and_a_threshold_that_finds_nothing_are_refused():
    config = tiny.get_config()
    config.crop = "box"
    with pytest.raises(InputError, match=r"config\.crop='box': it is 'centre' or 'head'"):
        check_config(config)
    config.crop, config.tissue.threshold = "head", 255.0
    with pytest.raises(InputError, match=r"config\.tissue\.threshold=255"):
        check_config(config)
