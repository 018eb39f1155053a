"""The search returns altered copies of a slice, and no slices of other heads."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from data_builder.shards.near_duplicates import NEAR, contents_of, near_pairs


def head(seed: int, size: int = 512) -> np.ndarray:
    """A synthetic slice: an ellipse of soft blotches with a bright rim."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size - 0.5
    radius = np.hypot(x / rng.uniform(0.30, 0.4), y / rng.uniform(0.35, 0.45))
    blotches = cv2.resize(rng.uniform(80, 140, (9, 9)), (size, size), interpolation=cv2.INTER_CUBIC)
    image = np.where(radius < 1, blotches + rng.normal(0, 8, (size, size)), 0)
    return np.where(abs(radius - 0.95) < 0.05, 255, image).clip(0, 255).astype(np.uint8)


def again(image: np.ndarray, kind: str, **options) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return np.asarray(Image.open(file))


def resized(image: np.ndarray, size: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), how))


def shifted(image: np.ndarray, by: int) -> np.ndarray:
    return (image.astype(int) + by).clip(0, 255).astype(np.uint8)


COPIES = {
    "JPEG 75": lambda x: again(x, "JPEG", quality=75),
    "JPEG 30": lambda x: again(x, "JPEG", quality=30),
    "256, bilinear": lambda x: resized(x, 256, Image.Resampling.BILINEAR),
    "300, bicubic": lambda x: resized(x, 300, Image.Resampling.BICUBIC),
    "640, then JPEG": lambda x: again(resized(x, 640, Image.Resampling.BICUBIC), "JPEG"),
    "a level up": lambda x: shifted(x, 1),
    "a level down": lambda x: shifted(x, -1),
    "all three": lambda x: again(
        shifted(resized(x, 256, Image.Resampling.BILINEAR), 1), "JPEG", quality=75
    ),
}


def search(images: list[np.ndarray], subjects: list[str] | None = None):
    contents = contents_of(iter(images), len(images))
    pairs, distances = near_pairs(contents, subjects or [str(i) for i in range(len(images))])
    return [tuple(map(int, pair)) for pair in pairs], distances


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_found(how):
    images = [head(seed) for seed in range(4)]
    pairs, distances = search([*images, COPIES[how](images[2])])
    assert pairs == [(2, 4)]
    assert distances[0] <= NEAR


def test_different_heads_are_no_pair():
    assert search([head(seed) for seed in range(60)])[0] == []


def test_slices_of_one_subject_are_no_pair():
    assert search([head(0), head(0)], ["a", "a"])[0] == []


def test_slices_with_little_tissue_are_not_compared():
    black, speck = np.zeros((2, 512, 512), np.uint8)
    speck[:60, :60] = 200  # 1.4% of the slice
    assert search([black, black, speck, speck])[0] == []
    speck[:80, :80] = 200  # 2.4%
    assert search([black, black, speck, speck])[0] == [(2, 3)]


def test_the_search_misses_no_pair():
    """Compares with all pairs, one by one, on pictures around the limit."""
    rng = np.random.default_rng(1)
    base = [head(seed, 64) for seed in range(8)]
    images = [
        np.clip(base[i % 8] + rng.normal(0, 1, (32, 32)).repeat(2, 0).repeat(2, 1) * k, 0, 255)
        for i in range(40)
        for k in (rng.uniform(0, 10),)
    ]
    images = [image.astype(np.uint8) for image in images]
    by_hand = set()
    small = [cv2.resize(x, (32, 32), interpolation=cv2.INTER_AREA).astype(float) for x in images]
    for i in range(40):
        for j in range(i + 1, 40):
            one, other = np.maximum(small[i] - 8, 0), np.maximum(small[j] - 8, 0)
            shown = (one > 0) | (other > 0)
            if np.sqrt(((one - other)[shown] ** 2).mean()) <= NEAR:
                by_hand.add((i, j))
    assert 10 < len(by_hand) < 140
    assert set(search(images)[0]) == by_hand
