"""Heat maps over the most suspicious slices of a study, for its report and its capture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dtvit_jax.answers import StudyAnswer
from dtvit_jax.classifier import Classifier
from dtvit_jax.explain import heat_maps, overlay, to_slice
from dtvit_jax.results import worst_first

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
