"""Heat maps: where in a slice an answer comes from, up to the CT's own pixels.

A map shows what the model used. It is no proof that there is bleeding, nor that a dark place has
none. docs/prediction_heat_maps.md tells how far the maps of a phantom-trained model can be trusted.

Heat maps over the most suspicious slices of a study, for its report and its capture.
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
from dtvit_jax.prediction.attribution import HEADS, grad_cam, vit_relevance
from dtvit_jax.prediction.classifier import Classifier
from dtvit_jax.prediction.tables import worst_first
from dtvit_jax.training.steps import Task, merge_model

COLOURS = "inferno"
OPACITY = 0.6
"""How much of the colour is seen where the map is 1; where it is 0 the slice is as it was."""


def methods_of(params: Any) -> tuple[str, ...]:
    """The methods of `relevance.METHODS` for a model with these parameters, the usual one first.

    A ViT's is the gradient: rollout does not know which answer it explains.
    """
    return ("gradient", "rollout") if "class_token" in params["encoder"] else ("grad_cam",)


def heat_maps(
    task: Task,
    params: Any,
    stats: Any,
    images: UInt8[Array | np.ndarray, "batch size size"],
    *,
    head: str = "hemorrhage",
    classes: Int[Array | np.ndarray, " batch"] | None = None,
    method: str = "",
) -> Float32[Array, "batch image_size image_size"]:
    """Relevance for one head's answer, 0 to 1 (the map's highest), on the model's input grid.

    Args:
      task, params, stats: as `inference.TrainedRun.model` gives them.
      images: cleaned slices at the size of the shards, as the model is fed.
      head: 'hemorrhage' or 'location'.
      classes: of each slice, the class whose log-odds are explained; None: hemorrhage, or each
        slice's likeliest location. Rollout is the same for every head and class.
      method: of `relevance.METHODS`; empty: the first of `methods_of`.

    A map without any relevance is all 0. Compiled once a shape of `images`.

    Raises:
      InputError: no such head, or a method that this model does not have.
    """
    known = methods_of(params)
    method = method or known[0]
    if head not in HEADS:
        raise InputError(f"head {head!r}: it is one of {', '.join(HEADS)}")
    if method not in known:
        raise InputError(f"heat maps by {method!r}: this model has {', '.join(known)}")
    if method == "rollout":
        head = HEADS[0]  # they are all alike: one compilation
    if classes is None:
        classes = np.full(images.shape[0], 1 if head == "hemorrhage" else -1, np.int32)
    return _heat_maps(params, stats, images, classes, task=task, head=head, method=method)


@functools.partial(jax.jit, static_argnames=("task", "head", "method"))
def _heat_maps(
    params: Any, stats: Any, images: Array, classes: Array, *, task: Task, head: str, method: str
) -> Array:
    model = merge_model(task.graph, params, stats)
    x = task.transform(images, None)
    if method == "grad_cam":
        relevance = grad_cam(model, x, head, classes)
    else:
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
    """A map at the pixels of the slice that was explained: the way back through the transform.

    stored: the slice as the model was given it. shape: rows and columns before it was resized to
    that. What the crop left out gets 0: the model did not see it.
    """
    top, left, side = map(int, crop.place(stored[None], np)[0])
    whole = np.zeros(stored.shape, np.float32)
    seen = cv2.resize(np.asarray(heat, np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    whole[top : top + side, left : left + side] = seen
    side = max(shape)
    square = cv2.resize(whole, (side, side), interpolation=cv2.INTER_LINEAR)
    top, left = (
        (side - shape[0]) // 2,
        (side - shape[1]) // 2,
    )  # as data_builder.shards.images.to_square
    return np.clip(square[top : top + shape[0], left : left + shape[1]], 0, 1)


def overlay(
    image: UInt8[np.ndarray, "rows columns"], heat: Float[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The slice in gray with the map over it, RGB; heat is 0 to 1, as `to_slice` gives it."""
    colour = matplotlib.colormaps[COLOURS](heat)[..., :3] * 255
    opacity = OPACITY * np.asarray(heat, np.float64)[..., None]
    return np.rint(image[..., None] * (1 - opacity) + colour * opacity).astype(np.uint8)


MOST = 4
"""Slices with a map: most methods take a backward pass for each."""


def draw(
    classifier: Classifier,
    answer: StudyAnswer,
    stored: Mapping[str, UInt8[np.ndarray, "side side"]],
    pictures: Mapping[str, Path],
    method: str,
) -> dict[str, UInt8[np.ndarray, "rows columns 3"]]:
    """Slice key -> the slice at its own resolution with its map for hemorrhage over it, RGB.

    stored, pictures: by slice key, as the model sees it and as it was cleaned. method: as in
    `explain.heat_maps`, with its errors.
    """
    worst = worst_first(answer)[:MOST]
    images = np.stack([stored[each.key] for each in worst])
    padded = np.pad(images, ((0, MOST - len(images)), (0, 0), (0, 0)))  # one program for all
    task, params, stats = classifier.task, classifier.params, classifier.stats
    maps = np.asarray(heat_maps(task, params, stats, padded, method=method))
    drawn = {}
    for each, heat in zip(worst, maps[: len(worst)], strict=True):
        with Image.open(pictures[each.key]) as image:
            gray = np.asarray(image.convert("L"))
        back = to_slice(heat, stored[each.key], classifier.crop, gray.shape)
        drawn[each.key] = overlay(gray, back)
    return drawn
