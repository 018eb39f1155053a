"""Tests of the transform against Pillow, which torchvision calls for PIL images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from dtvit_jax.data.augment import (
    IDENTITY,
    PARAMETERS,
    Augmentation,
    normalise,
    shares,
    sharpen,
    transform,
    warp,
)
from dtvit_jax.data.crop import centre_crop

WHOLE = ((0.0, 255.0),) * 3

PAPER = Augmentation(15.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    smooth = 120 + 60 * np.sin(x / 7) + 50 * np.cos(y / 9)
    noisy = np.clip(smooth + rng.normal(0, 12, (6, 64, 64)), 0, 255)
    return (noisy * ((x - 32) ** 2 + (y - 32) ** 2 < 900)).astype(np.uint8)


def row(**values):
    made = IDENTITY.copy()
    for name, value in values.items():
        made[PARAMETERS.index(name)] = value
    return jnp.asarray(made)[None]


@pytest.mark.parametrize("angle", [-15.0, -7.3, 0.0, 4.9, 14.2])
def test_rotation_is_torchvisions(images, angle):
    for image in images:
        expected = np.asarray(Image.fromarray(image).rotate(angle))
        found = np.asarray(warp(jnp.float32(image)[None], row(angle=angle)))[0]
        assert (found == expected).mean() >= 0.995


def test_sharpness_is_torchvisions(images):
    for image in images:
        expected = np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(2.0))
        found = np.asarray(sharpen(jnp.float32(image)[None], jnp.array([2.0])))[0]
        assert (found == expected).mean() >= 0.995
        assert np.abs(found - expected).max() <= 1


def test_the_whole_transform_of_the_paper(images):
    """Centre crop, rotation, sharpness, normalisation, in this order."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    parameters = jnp.concatenate([row(angle=a, sharpness=2) for a in (3.0, -11.0, 15.0)])
    found = transform(
        jnp.asarray(images[:3]),
        parameters,
        image_size=56,
        channels=3,
        windows=WHOLE,
        mean=mean,
        std=std,
    )
    for image, angle, ours in zip(images[:3], (3.0, -11.0, 15.0), found, strict=True):
        step = Image.fromarray(image[4:60, 4:60]).rotate(angle)
        gray = np.asarray(ImageEnhance.Sharpness(step).enhance(2.0)) / 255
        expected = (gray[..., None] - np.array(mean)) / np.array(std)
        assert (np.abs(np.asarray(ours) - expected) < 1e-5).mean() >= 0.995


def test_identity_changes_nothing(images):
    whole = transform(
        jnp.asarray(images),
        jnp.asarray(np.repeat(IDENTITY[None], len(images), 0)),
        image_size=64,
        channels=1,
        windows=WHOLE,
        mean=(0.5,),
        std=(0.5,),
    )
    assert np.allclose(np.asarray(whole)[..., 0], images / 255 * 2 - 1, atol=1e-6)


@pytest.mark.parametrize("width", [7, 11])
def test_a_table_of_another_width_is_refused_when_traced(width):
    """JAX would clamp the index of a missing column."""
    shapes = jax.ShapeDtypeStruct((2, 64, 64), jnp.uint8), jax.ShapeDtypeStruct((2, width), float)
    whole = {"image_size": 56, "channels": 1, "windows": WHOLE, "mean": (0.0,), "std": (1.0,)}
    with pytest.raises(ValueError, match=f"{width} augmentation parameters: it has 10"):
        jax.eval_shape(lambda x, p: transform(x, p, **whole), *shapes)
    with pytest.raises(ValueError, match=f"{width} augmentation parameters"):
        shares(jnp.zeros((2, width)))


def test_flip_zoom_and_shift(images):
    image = jnp.float32(images[0])[None]
    assert (np.asarray(warp(image, row(flip=1)))[0] == images[0][:, ::-1]).all()
    moved = np.asarray(warp(image, row(shift_x=4 / 64, shift_y=-2 / 64)))[0]
    assert (moved[:-2, 4:] == images[0][2:, :-4]).all() and (moved[:, :4] == 0).all()
    larger = np.asarray(warp(image, row(scale=2)))[0]
    assert (larger[1:-1:2, 1:-1:2] == images[0][16:47, 16:47]).mean() > 0.9


def test_the_crop_is_the_middle():
    image = jnp.arange(100, dtype=jnp.uint8).reshape(1, 10, 10)
    assert (np.asarray(centre_crop(image, 4))[0, 0] == [33, 34, 35, 36]).all()


def test_normalisation_by_hand():
    mean, std = (0.1, 0.2, 0.4), (0.5, 0.1, 0.2)
    found = normalise(jnp.array([[[51.0]]]), WHOLE, mean, std, 3)
    assert np.allclose(found[0, 0, 0], [0.2, 0.0, -1.0], atol=1e-6)


def test_each_channel_shows_its_window():
    gray = jnp.array([[[0.0, 100.0, 125.0, 150.0, 255.0]]])
    found = normalise(gray, ((0.0, 255.0), (100.0, 150.0)), (0.0, 0.5), (1.0, 0.5), 2)
    assert np.allclose(found[0, 0, :, 0], np.array([0, 100, 125, 150, 255]) / 255, atol=1e-6)
    assert np.allclose(found[0, 0, :, 1], [-1, -1, 0, 1, 1], atol=1e-6)


def test_draws_lie_in_their_ranges_and_depend_on_the_example_alone():
    rows = PAPER.draw(3, 1, 400)
    assert np.abs(rows[:, 0]).max() <= 15 and rows[:, 0].std() > 8
    assert set(rows[:, 5]) == {1.0, 2.0} and 0.4 < (rows[:, 5] == 2).mean() < 0.6
    assert (rows[:, [1, 2, 3, 4, 6]] == IDENTITY[[1, 2, 3, 4, 6]]).all()
    assert (PAPER.draw(3, 1, 8) == rows[:8]).all()  # however many there are
    for seed, epoch in ((3, 2), (4, 1)):
        assert (PAPER.draw(seed, epoch, 400)[:, 0] != rows[:, 0]).all()


def test_the_compiled_transform_is_finite_on_the_border():
    """A coordinate on the border's rounding edge once gave nan, in the compiled transform only."""
    border = np.array([0.7478084564208984, 0.9243535995483398, 0.049872417002916336], np.float32)
    row_of = np.array([[*border, -0.042756590992212296, 1.0, 2.0, 1.0, 0.0, 0.0, 1.0]], np.float32)
    wild = Augmentation(15.0, 2.0, 0.5, 0.5, 0.2, 0.1, 0.2)
    drawn = np.concatenate([row_of, wild.draw(0, 0, 1023)])
    images = jnp.full((len(drawn), 128, 128), 255, jnp.uint8)
    compiled = jax.jit(
        lambda x, p: transform(
            x, p, image_size=112, channels=1, windows=WHOLE, mean=(0.5,), std=(0.5,)
        )
    )
    assert np.isfinite(np.asarray(compiled(images, jnp.asarray(drawn)))).all()


def test_noise_is_each_examples_own():
    """With the drawn deviation and key, independent of the rest of the batch."""
    gray = jnp.full((4, 64, 64), 128, jnp.uint8)
    rows = jnp.concatenate(
        [row(noise=10, noise_key=5), row(noise=20, noise_key=6), row(noise_key=7), row(noise=10)]
    )
    add = jax.jit(
        lambda x, p: transform(
            x,
            p,
            image_size=64,
            channels=1,
            windows=WHOLE,
            mean=(0.0,),
            std=(1 / 255,),
            noise=True,
        )[..., 0]
    )
    noisy = np.asarray(add(gray, rows)) - 128
    assert noisy[0].std() == pytest.approx(10, rel=0.05) and abs(noisy[0].mean()) < 0.6
    assert noisy[1].std() == pytest.approx(20, rel=0.05)
    assert np.abs(noisy[2]).max() < 1e-4
    assert np.corrcoef(noisy[0].ravel(), noisy[3].ravel())[0, 1] < 0.1  # another key
    turned = np.asarray(add(gray[::-1], rows[::-1])) - 128
    assert np.array_equal(turned[::-1], noisy)


def test_options_are_drawn_in_their_ranges_and_change_nothing_else():
    wild = Augmentation(15.0, 2.0, 0.5, 0.5, 0.1, 0.1, 0.2, 0.05, 0.4)
    rows = wild.draw(3, 1, 400)
    named = dict(zip(PARAMETERS, rows.T, strict=True))
    assert 0 <= named["noise"].min() < 1 and 12 < named["noise"].max() <= 0.05 * 255
    assert (named["noise_key"] == np.floor(named["noise_key"])).all()
    assert len(set(named["noise_key"])) > 390 and named["noise_key"].max() < 2**24
    assert 0.5 <= named["share"].min() < 0.55 and named["share"].max() > 0.95
    assert 0.4 < named["flip"].mean() < 0.6
    assert (PAPER.draw(3, 1, 400)[:, 0] == rows[:, 0]).all()  # the same angles
    assert (wild.draw(3, 1, 8) == rows[:8]).all()
