"""From 8-bit slices to the model's input, on the device, inside the compiled step.

The order is the paper's (arXiv 2405.06814, section 2.2.3, and its code): crop, rotation,
sharpness, normalisation; gain and noise, which are not the paper's, come before the last. What is
random is drawn on the host, and depends on seed, epoch and example alone; here everything is a pure
function.

Mixup (arXiv 1710.09412): each example blended with one other of its batch, labels too.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped, UInt8

from dtvit_jax.data.crop import Crop

VERSION = 1
"""Raised by every change that alters the model's input in evaluation, for the same config."""

PARAMETERS = (
    "angle",
    "scale",
    "shift_x",
    "shift_y",
    "flip",
    "sharpness",
    "gain",
    "noise",  # standard deviation, gray levels
    "noise_key",  # a whole number below 2**24, which float32 holds exactly
    "share",  # what the example keeps of itself in a mixture, 0.5 to 1
)
"""Columns of a row of drawn parameters."""

IDENTITY = np.array([0, 1, 0, 0, 0, 1, 1, 0, 0, 1], np.float32)
"""The row that changes nothing."""

_COLUMN = {name: i for i, name in enumerate(PARAMETERS)}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges that the parameters are drawn from; the names are those of config.augment."""

    rotation: float  # degrees, both ways
    sharpness: float  # factor; 1 changes nothing
    sharpness_probability: float
    flip_probability: float
    zoom: float  # part of the size, both ways
    shift: float  # part of the side, both ways
    intensity: float  # part of the gray value, both ways
    noise: float = 0.0  # standard deviation up to this part of the gray range
    mixup: float = 0.0  # both parameters of the beta distribution of the share; 0: nothing is mixed

    def draw(self, seed: int, epoch: int, n: int) -> Float32[np.ndarray, "n parameters"]:
        """Rows of PARAMETERS of examples 0 to n - 1; row i is a function of seed, epoch and i."""
        uniform = stream(seed, epoch, "parameters").random((n, 9))
        both_ways, (flip, sharpen, noise, noise_key) = 2 * uniform[:, :5] - 1, uniform[:, 5:].T
        rows = np.tile(IDENTITY, (n, 1))
        rows[:, 0] = self.rotation * both_ways[:, 0]
        rows[:, 1] = 1 + self.zoom * both_ways[:, 1]
        rows[:, 2:4] = self.shift * both_ways[:, 2:4]
        rows[:, 4] = flip < self.flip_probability
        rows[:, 5] = np.where(sharpen < self.sharpness_probability, self.sharpness, 1)
        rows[:, 6] = 1 + self.intensity * both_ways[:, 4]
        rows[:, 7] = 255 * self.noise * noise
        rows[:, 8] = np.floor(noise_key * 2**24)
        if self.mixup:
            share = stream(seed, epoch, "share").beta(self.mixup, self.mixup, n)
            rows[:, 9] = np.maximum(share, 1 - share)
        return rows


def rotate(
    images: Shaped[Array, "batch height width"], parameters: Float[Array, "batch parameters"]
) -> Float[Array, "batch height width"]:
    """Turns (counter-clockwise, degrees), magnifies, shifts and flips about the centre.

    Quickest from bytes, of which a processor's cache holds whole slices.

    Nearest neighbour, black outside: with scale 1, no shift and no flip it is torchvision's
    `rotate` with its defaults.
    """
    height, width = images.shape[1:]
    angle, scale, shift_x, shift_y, flip = (parameters[:, i] for i in range(5))
    cosine, sine = jnp.cos(jnp.deg2rad(angle)) / scale, jnp.sin(jnp.deg2rad(angle)) / scale
    mirror = 1 - 2 * flip
    y, x = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )

    def column(v: Array) -> Array:
        return v[:, None, None]

    dx, dy = x - column(shift_x * width), y - column(shift_y * height)
    from_x = column(mirror) * (column(cosine) * dx - column(sine) * dy) + (width - 1) / 2
    from_y = column(sine) * dx + column(cosine) * dy + (height - 1) / 2
    column_index = jnp.round(from_x).astype(jnp.int32)
    row_index = jnp.round(from_y).astype(jnp.int32)
    inside = (column_index >= 0) & (column_index < width) & (row_index >= 0) & (row_index < height)
    at = _computed(jnp.where(inside, row_index * width + column_index, -1))
    # A CPU computes places many at a time where they are no part of the picking. XLA may round a
    # coordinate on the border one way for `inside` and another way for its place: without 'clip'
    # the pixel would then lie outside and be nan.
    picked = jax.vmap(
        lambda pixels, places: pixels.at[places].get(mode="clip", wrap_negative_indices=False)
    )(_computed(images).reshape(len(images), -1), at)
    return _computed(jnp.where(at < 0, 0, picked).astype(jnp.float32))


def _computed(values: Array) -> Array:
    """The same [batch, height, width], as an array that XLA computes once.

    Its CPU compiler would otherwise compute each turned pixel again for each of the 9 pixels that
    are sharpened by it, in each of 3 channels (11 times the time; benchmarks/input_pipeline.py).
    It undoes optimization_barrier, but not a window over every pixel and the hole beside it.
    """
    floating = jnp.issubdtype(values.dtype, jnp.floating)
    least = -jnp.inf if floating else jnp.iinfo(values.dtype).min
    return jax.lax.reduce_window(
        values,
        jnp.asarray(least, values.dtype),
        jax.lax.max,
        window_dimensions=(1, 1, 2),
        window_strides=(1, 1, 2),
        padding=((0, 0), (0, 0), (0, 1)),
        base_dilation=(1, 1, 2),
    )


def sharpen(
    images: Float[Array, "batch height width"], factor: Float[Array, " batch"]
) -> Float[Array, "batch height width"]:
    """torchvision's adjust_sharpness on 8-bit values: away from a 3x3 blur by `factor`.

    The blur weighs the centre 5 and its neighbours 1; the outermost pixels stay as they are.
    """
    total = images[:, 1:-1, 1:-1] * 4
    for row in range(3):
        for column in range(3):
            end_row, end_column = images.shape[1] - 2 + row, images.shape[2] - 2 + column
            total = total + images[:, row:end_row, column:end_column]
    blurred = images.at[:, 1:-1, 1:-1].set(jnp.round(total / 13))
    f = factor[:, None, None]
    return jnp.floor(jnp.clip(f * images + (1 - f) * blurred, 0, 255))


def add_noise(
    images: Float[Array, "batch height width"], parameters: Float[Array, "batch parameters"]
) -> Float[Array, "batch height width"]:
    """White normal noise of each example's own standard deviation and key."""

    def one(key: Array) -> Array:
        return jax.random.normal(jax.random.key(key), images.shape[1:])

    keys = parameters[:, _COLUMN["noise_key"]].astype(jnp.uint32)
    return images + parameters[:, _COLUMN["noise"], None, None] * jax.vmap(one)(keys)


def normalise(
    images: Float[Array, "batch height width"],
    windows: tuple[tuple[float, float], ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels: int,
) -> Float[Array, "batch height width channels"]:
    """Gray values 0..255 to (shown - mean) / std; one channel takes the first of each.

    `shown` rises from 0 at a window's low end to 1 at its high end, as a viewer's display does.
    """
    low, high = jnp.asarray(windows[:channels], jnp.float32).T
    shift, spread = jnp.asarray(mean[:channels]), jnp.asarray(std[:channels])
    shown = jnp.clip((images[..., None] - low) / (high - low), 0, 1)
    return (shown - shift) / spread


def transform(
    images: UInt8[Array, "batch height width"],
    parameters: Float[Array, "batch parameters"] | None,
    *,
    image_size: int,
    channels: int,
    windows: tuple[tuple[float, float], ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    noise: bool = False,
    head: float | None = None,
) -> Float[Array, "batch image_size image_size channels"]:
    """Stored slices to the model's input; without `parameters`, as in evaluation: crop only.

    `noise`: whether some is added; where none is, none is computed. `head`: as in `Crop`.
    """
    x = Crop(image_size, head)(images).astype(jnp.uint8)
    if parameters is None:
        x = x.astype(jnp.float32)
    else:
        x = sharpen(rotate(x, parameters), parameters[:, _COLUMN["sharpness"]])
        x = x * parameters[:, _COLUMN["gain"], None, None]
        x = jnp.clip(add_noise(x, parameters) if noise else x, 0, 255)
    return normalise(x, windows, mean, std, channels)


_STREAMS = ("order", "parameters", "share")


def stream(seed: int, epoch: int, use: str) -> np.random.Generator:
    """The random numbers of an epoch for one use: 'order', 'parameters' or 'share'."""
    key = [seed, (epoch << 32) + _STREAMS.index(use)]
    return np.random.Generator(np.random.Philox(key=key))


def partner(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
    """Each example's partner: half a batch further, so that i and i + n/2 are a pair.

    Batches are shuffled, so the pair is as random as any; it depends on seed and step alone, and
    `steps.train_step`'s parts of a batch keep it whole.
    """
    return jnp.roll(x, len(x) // 2, axis=0)


def shares(parameters: Float[Array, "batch parameters"]) -> Float[Array, " batch"]:
    """What each example keeps of itself: the first one's drawn share, for both of a pair.

    With one share a pair every label counts as much in the batch's loss as without mixing.
    """
    drawn = parameters[: len(parameters) // 2, PARAMETERS.index("share")]
    return jnp.concatenate([drawn, drawn])


def mix(
    images: Float[Array, "batch height width channels"], share: Float[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """share of each image, and the rest of its partner's."""
    kept = share[:, None, None, None]
    return kept * images + (1 - kept) * partner(images)
