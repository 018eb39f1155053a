"""Makes heat maps of a model's answer, up to the CT's own pixels, and draws them over slices.

A map shows what the model used. It does not prove that there is bleeding, nor that a dark region
has none. docs/prediction_heat_maps.md measures how reliable maps of a phantom-trained model are.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8
from PIL import Image

from data_builder.errors import InputError
from dtvit_jax.data.crop import Crop
from dtvit_jax.decision.answer import StudyAnswer
from dtvit_jax.models.vit import ViT
from dtvit_jax.prediction.attribution import (
    CNN_METHODS,
    HEADS,
    VIT_METHODS,
    grad_cam,
    vit_relevance,
)
from dtvit_jax.prediction.classifier import Classifier
from dtvit_jax.prediction.tables import worst_first
from dtvit_jax.training.network import Network

COLOURS = "inferno"
OPACITY = 0.6
"""Opacity of the colour where the map is 1; where it is 0 the slice is unchanged."""

SLICES_DRAWN = 4
"""Slices of a study that get a map: most methods take a backward pass for each."""


def methods_of(params: Any) -> tuple[str, ...]:
    """The methods of `attribution.METHODS` for a model with these parameters, the default first."""
    return VIT_METHODS if "class_token" in params["encoder"] else CNN_METHODS


def heat_maps(
    network: Network,
    params: Any,
    stats: Any,
    images: UInt8[Array | np.ndarray, "batch size size"],
    *,
    head: str = "hemorrhage",
    classes: Int[Array | np.ndarray, " batch"] | None = None,
    method: str = "",
) -> Float32[Array, "batch image_size image_size"]:
    """Computes the relevance for one head's answer, scaled to a maximum of 1, on the input grid.

    Args:
      network, params, stats: as `TrainedRun.model` returns them.
      images: cleaned slices at the size of the shards.
      head: 'hemorrhage' or 'location'.
      classes: the class of each slice whose log-odds are explained; None: hemorrhage, or each
        slice's likeliest location. Rollout does not depend on it.
      method: of `attribution.METHODS`; empty: the first of `methods_of`.

    A map without any relevance is all 0. Compiled once for each shape of `images`.

    Raises:
      InputError: an unknown head, or a method that this model does not have.
    """
    methods = methods_of(params)
    method = method or methods[0]
    if head not in HEADS:
        raise InputError(f"head {head!r}: it is one of {', '.join(HEADS)}")
    if method not in methods:
        raise InputError(f"heat maps by {method!r}: this model has {', '.join(methods)}")
    if method == "rollout":
        head = HEADS[0]  # the map is the same for all: one compilation
    if classes is None:
        classes = np.full(images.shape[0], 1 if head == "hemorrhage" else -1, np.int32)
    return _heat_maps(params, stats, images, classes, network=network, head=head, method=method)


@functools.partial(jax.jit, static_argnames=("network", "head", "method"))
def _heat_maps(
    params: Any,
    stats: Any,
    images: Array,
    classes: Array,
    *,
    network: Network,
    head: str,
    method: str,
) -> Array:
    model = network.model(params, stats)
    x = network.transform(images, None)
    if method == "grad_cam":
        relevance = grad_cam(model, x, head, classes)
    else:
        assert isinstance(model.encoder, ViT)  # `methods` offers the others for ViTs alone
        relevance = vit_relevance(model, x, model.encoder.counted(x), head, classes, method)
    relevance = jax.image.resize(relevance, x.shape[:3], "linear")
    highest = relevance.max((1, 2), keepdims=True)
    return relevance / jnp.where(highest > 0, highest, 1)


def to_slice(
    heat: Float[np.ndarray, "image_size image_size"],
    stored: UInt8[np.ndarray, "size size"],
    crop: Crop,
    shape: tuple[int, int],
) -> Float32[np.ndarray, "rows columns"]:
    """Maps relevance back to the pixels of the slice, by the inverse of the transform.

    Args:
      heat: the map on the model's input grid.
      stored: the slice at the size of the shards, before the crop.
      crop: the model's crop; what it left out gets 0.
      shape: rows and columns of the slice before it was resized.
    """
    top, left, side = map(int, crop.place(stored[None], np)[0])
    uncropped = np.zeros(stored.shape, np.float32)
    uncropped[top : top + side, left : left + side] = cv2.resize(
        np.asarray(heat, np.float32), (side, side), interpolation=cv2.INTER_LINEAR
    )
    side = max(shape)
    square = cv2.resize(uncropped, (side, side), interpolation=cv2.INTER_LINEAR)
    top, left = (
        (side - shape[0]) // 2,
        (side - shape[1]) // 2,
    )  # data_builder.shards.images' padding
    return np.clip(square[top : top + shape[0], left : left + shape[1]], 0, 1)


def overlay(
    image: UInt8[np.ndarray, "rows columns"], heat: Float[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draws a map over a slice in gray, RGB; heat is 0 to 1, as `to_slice` returns it."""
    colour = matplotlib.colormaps[COLOURS](heat)[..., :3] * 255
    opacity = OPACITY * np.asarray(heat, np.float64)[..., None]
    return np.rint(image[..., None] * (1 - opacity) + colour * opacity).astype(np.uint8)


def draw(
    classifier: Classifier,
    answer: StudyAnswer,
    stored: Mapping[str, UInt8[np.ndarray, "side side"]],
    pictures: Mapping[str, Path],
    method: str,
) -> dict[str, UInt8[np.ndarray, "rows columns 3"]]:
    """Draws maps for hemorrhage over the most suspicious slices at their own resolution.

    Args:
      classifier: the model.
      answer: the study's answer.
      stored: slice key -> the slice at the size of the shards.
      pictures: slice key -> its cleaned image.
      method: as in `heat_maps`, with its errors.

    Returns RGB pictures by slice key, the most suspicious first.
    """
    worst = worst_first(answer)[:SLICES_DRAWN]
    images = np.stack([stored[each.key] for each in worst])
    padding = ((0, SLICES_DRAWN - len(images)), (0, 0), (0, 0))  # one program for all studies
    network, params, stats = classifier.network, classifier.params, classifier.stats
    maps = np.asarray(heat_maps(network, params, stats, np.pad(images, padding), method=method))
    drawn = {}
    for each, heat in zip(worst, maps[: len(worst)], strict=True):
        with Image.open(pictures[each.key]) as image:
            gray = np.asarray(image.convert("L"))
        on_slice = to_slice(heat, stored[each.key], classifier.crop, gray.shape)
        drawn[each.key] = overlay(gray, on_slice)
    return drawn
