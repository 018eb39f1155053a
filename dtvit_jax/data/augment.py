"""Turns 8-bit slices into the model's input, with random augmentation in training.

The host draws a row of PARAMETERS for each example (`Augmentation.draw`), a function of seed, epoch
and example alone. The compiled step applies them to whole batches (`transform`, then `mix`), as
pure functions on the device, in the paper's order (arXiv 2405.06814, section 2.2.3, and its code):
crop, rotation, sharpness, normalisation. Gain and noise, before the normalisation, and mixup (arXiv
1710.09412), after it, are not the paper's and are off unless the config sets them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped, UInt8

from dtvit_jax.data.crop import Crop

VERSION = 1
"""Version of the evaluation transform: raised when the same config gives the model another input.
"""

PARAMETERS = (
    "angle",  # degrees, counter-clockwise
    "scale",  # magnification
    "shift_x",  # fraction of the width, to the right
    "shift_y",  # fraction of the height, downwards
    "flip",  # 1: left-right mirrored
    "sharpness",  # factor; 1 changes nothing
    "gain",  # factor of the gray value
    "noise",  # standard deviation, gray levels
    "noise_key",  # integer below 2**24, which float32 holds exactly
    "share",  # weight of the example itself in a mixup pair, 0.5 to 1
)
"""Columns of the table of drawn parameters, float32."""

IDENTITY = np.array([0, 1, 0, 0, 0, 1, 1, 0, 0, 1], np.float32)
"""The row of PARAMETERS that changes nothing."""

_STREAMS = ("order", "parameters", "share")


def stream(seed: int, epoch: int, use: str) -> np.random.Generator:
    """Returns the random generator of an epoch for one use: 'order', 'parameters' or 'share'."""
    key = [seed, (epoch << 32) + _STREAMS.index(use)]
    return np.random.Generator(np.random.Philox(key=key))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random parameters; the field names are those of config.augment."""

    rotation: float  # degrees, plus or minus
    sharpness: float  # factor; 1 changes nothing
    sharpness_probability: float
    flip_probability: float
    zoom: float  # scale is 1 plus or minus this
    shift: float  # fraction of the side, plus or minus
    intensity: float  # gain is 1 plus or minus this
    noise: float = 0.0  # largest standard deviation, as a fraction of the gray range
    mixup: float = 0.0  # both parameters of the share's beta distribution; 0: no mixup

    def draw(self, seed: int, epoch: int, n: int) -> Float32[np.ndarray, "n parameters"]:
        """Draws the rows of examples 0 to n - 1; row i is a function of seed, epoch and i."""
        uniform = stream(seed, epoch, "parameters").random((n, 9))
        signed, (flip, sharpen, noise, noise_key) = 2 * uniform[:, :5] - 1, uniform[:, 5:].T
        rows = np.tile(IDENTITY, (n, 1))
        rows[:, 0] = self.rotation * signed[:, 0]
        rows[:, 1] = 1 + self.zoom * signed[:, 1]
        rows[:, 2:4] = self.shift * signed[:, 2:4]
        rows[:, 4] = flip < self.flip_probability
        rows[:, 5] = np.where(sharpen < self.sharpness_probability, self.sharpness, 1)
        rows[:, 6] = 1 + self.intensity * signed[:, 4]
        rows[:, 7] = 255 * self.noise * noise
        rows[:, 8] = np.floor(noise_key * 2**24)
        if self.mixup:
            share = stream(seed, epoch, "share").beta(self.mixup, self.mixup, n)
            rows[:, 9] = np.maximum(share, 1 - share)
        return rows


def column(parameters: Float[Array, "batch parameters"], name: str) -> Float[Array, " batch"]:
    """Returns one of PARAMETERS of each example.

    Raises ValueError, when traced, for a table of another width: JAX clamps an index out of range.
    """
    if parameters.shape[1] != len(PARAMETERS):
        raise ValueError(
            f"a table of {parameters.shape[1]} augmentation parameters: it has {len(PARAMETERS)}, "
            "augment.PARAMETERS"
        )
    return parameters[:, PARAMETERS.index(name)]


def warp(
    images: Shaped[Array, "batch height width"], parameters: Float[Array, "batch parameters"]
) -> Float[Array, "batch height width"]:
    """Rotates, magnifies, shifts and flips each image about its centre.

    Nearest neighbour, 0 outside. With scale 1, no shift and no flip it is torchvision's `rotate`
    with its defaults. Fastest on uint8 images, since a CPU's cache then holds whole slices.
    """
    height, width = images.shape[1:]
    angle, scale, shift_x, shift_y, flip = (
        column(parameters, name) for name in ("angle", "scale", "shift_x", "shift_y", "flip")
    )
    cosine, sine = jnp.cos(jnp.deg2rad(angle)) / scale, jnp.sin(jnp.deg2rad(angle)) / scale
    mirror = 1 - 2 * flip
    y, x = jnp.meshgrid(
        jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
    )

    def per_image(v: Array) -> Array:
        return v[:, None, None]

    dx, dy = x - per_image(shift_x * width), y - per_image(shift_y * height)
    source_x = per_image(mirror) * (per_image(cosine) * dx - per_image(sine) * dy) + (width - 1) / 2
    source_y = per_image(sine) * dx + per_image(cosine) * dy + (height - 1) / 2
    column_index, row_index = (jnp.round(v).astype(jnp.int32) for v in (source_x, source_y))
    inside = (column_index >= 0) & (column_index < width) & (row_index >= 0) & (row_index < height)
    # An array of its own: XLA:CPU vectorises the indices' computation only outside the gather.
    index = _materialised(jnp.where(inside, row_index * width + column_index, -1))
    # mode='clip': XLA may round a coordinate on the border one way for `inside` and the other way
    # for `index`, and the default mode gives nan for an index out of range.
    gathered = jax.vmap(
        lambda pixels, i: pixels.at[i].get(mode="clip", wrap_negative_indices=False)
    )(_materialised(images).reshape(len(images), -1), index)
    return _materialised(jnp.where(index < 0, 0, gathered).astype(jnp.float32))


def _materialised(values: Shaped[Array, "batch height width"]) -> Array:
    """Returns `values`; on a CPU, XLA computes them once and writes them to memory.

    XLA:CPU would otherwise fuse `warp` into its readers and compute each of its pixels again
    for each of its 9 neighbours in the sharpening, in each of 3 channels (11 times the time;
    benchmarks/input_pipeline.py). It removes an optimization_barrier here, unlike in the model
    (`models.layers_cpu.settle`), but not a maximum over each pixel and a gap next to it.
    """
    return jax.lax.platform_dependent(values, cpu=_maximum_with_gap, default=lambda x: x)


def _maximum_with_gap(values: Array) -> Array:
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
    """Extrapolates gray values (0 to 255) from a 3x3 blur: torchvision's adjust_sharpness.

    The blur weights the centre by 5 and its neighbours by 1; the outermost pixels stay unblurred.
    """
    total = images[:, 1:-1, 1:-1] * 4
    for top in range(3):
        for left in range(3):
            bottom, right = images.shape[1] - 2 + top, images.shape[2] - 2 + left
            total = total + images[:, top:bottom, left:right]
    blurred = images.at[:, 1:-1, 1:-1].set(jnp.round(total / 13))
    f = factor[:, None, None]
    return jnp.floor(jnp.clip(f * images + (1 - f) * blurred, 0, 255))


def add_noise(
    images: Float[Array, "batch height width"], parameters: Float[Array, "batch parameters"]
) -> Float[Array, "batch height width"]:
    """Adds white Gaussian noise, with a standard deviation and a random key for each example."""

    def standard_normal(key: Array) -> Array:
        return jax.random.normal(jax.random.key(key), images.shape[1:])

    noise = jax.vmap(standard_normal)(column(parameters, "noise_key").astype(jnp.uint32))
    return images + column(parameters, "noise")[:, None, None] * noise


def normalise(
    images: Float[Array, "batch height width"],
    windows: tuple[tuple[float, float], ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels: int,
) -> Float[Array, "batch height width channels"]:
    """Maps gray values (0 to 255) to (windowed - mean) / std, one channel for each window.

    `windowed` rises from 0 at a window's low end to 1 at its high end, as a viewer's display does.
    The first `channels` of `windows`, `mean` and `std` are used.
    """
    low, high = jnp.asarray(windows[:channels], jnp.float32).T
    offset, scale = jnp.asarray(mean[:channels]), jnp.asarray(std[:channels])
    windowed = jnp.clip((images[..., None] - low) / (high - low), 0, 1)
    return (windowed - offset) / scale


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
    head_threshold: float | None = None,
) -> Float[Array, "batch image_size image_size channels"]:
    """Returns the model's input for stored slices.

    Args:
      parameters: rows of PARAMETERS, in training; None, in evaluation: crop and normalisation only.
      image_size, head_threshold: as in `Crop`.
      channels, windows, mean, std: as in `normalise`.
      noise: whether config.augment.noise is above 0; otherwise no noise is computed.

    Raises:
      ValueError: when traced, if the rows of `parameters` have another length.
    """
    x = Crop(image_size, head_threshold)(images).astype(jnp.uint8)
    if parameters is None:
        x = x.astype(jnp.float32)
    else:
        x = sharpen(warp(x, parameters), column(parameters, "sharpness"))
        x = x * column(parameters, "gain")[:, None, None]
        x = jnp.clip(add_noise(x, parameters) if noise else x, 0, 255)
    return normalise(x, windows, mean, std, channels)


def partner(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
    """Returns each example's mixup partner, half a batch further: i and i + n/2 are a pair.

    Batches are shuffled, so the pairs are random; they depend on seed and step alone. Each part of
    an accumulated batch (`steps.train_step`) makes its own pairs.
    """
    return jnp.roll(x, len(x) // 2, axis=0)


def shares(parameters: Float[Array, "batch parameters"]) -> Float[Array, " batch"]:
    """Returns each example's weight in its mixup pair: that drawn for the first one, for both.

    With one share for both, each label counts as much in the batch's loss as without mixup.
    """
    drawn = column(parameters, "share")[: len(parameters) // 2]
    return jnp.concatenate([drawn, drawn])


def mix(
    images: Float[Array, "batch height width channels"], share: Float[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """Blends each image with its partner: share * image + (1 - share) * partner."""
    weight = share[:, None, None, None]
    return weight * images + (1 - weight) * partner(images)
