"""Finds near-duplicate slices of different subjects by their 32 x 32 pictures.

A copy that was resized, encoded again or shifted by a gray level stays within NEAR; slices of
different people are further apart (docs/shards.md has the numbers).
"""

import dataclasses
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from data_builder.parallel.threads import in_order
from data_builder.records import Record
from data_builder.shards.images import read_gray, to_square

SIDE = 32
BACKGROUND = 8
"""Gray levels (of 255) up to which a pixel shows no tissue; 2.5 HU in the window of cleaning."""

LEAST_TISSUE = 0.02
"""Slices with a smaller share of tissue are not compared: all nearly black slices are alike."""

NEAR = 6.0
"""The largest root mean square difference of near slices, in gray levels, over the cells of the
32 x 32 picture that show tissue in either slice."""

_COARSE = 8  # the exact search prefilters with 8 x 8 pictures
_BATCH = 1024  # slices, and candidate pairs, compared at a time: bounds the memory


@dataclasses.dataclass(frozen=True)
class Contents:
    """Share of pixels that show tissue, and 32 x 32 picture, of each slice in order."""

    tissue: Float[np.ndarray, " n"]
    picture: UInt8[np.ndarray, "n 32 32"]

    @property
    def comparable(self) -> Bool[np.ndarray, " n"]:
        """Which slices show enough tissue to be compared."""
        return self.tissue >= LEAST_TISSUE


def small_picture(image: UInt8[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "32 32"]:
    """Pads `image` to a square and averages it over 32 x 32 areas."""
    return cv2.resize(to_square(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def contents_of(images: Iterator[UInt8[np.ndarray, "rows columns"]], total: int) -> Contents:
    """Contents of `total` images."""
    tissue = np.empty(total)
    picture = np.empty((total, SIDE, SIDE), np.uint8)
    for i, image in enumerate(images):
        tissue[i] = np.count_nonzero(image > BACKGROUND) / image.size
        picture[i] = small_picture(image)
    return Contents(tissue, picture)


def read_contents(records: Sequence[Record]) -> Contents:
    """Contents of the records' images. Raises InputError for an unreadable image."""
    return contents_of(in_order(read_gray, records, "looking for copies"), len(records))


def near_pairs(
    contents: Contents, subjects: Sequence[str]
) -> tuple[Int[np.ndarray, "pairs 2"], Float[np.ndarray, " pairs"]]:
    """Pairs of near slices of two subjects, the smaller index first, and their distances.

    The search misses no pair: the means of 4 x 4 cells differ at most as much as the cells do, so
    scikit-learn's search through 8 x 8 pictures returns every near pair among its candidates.
    """
    rows = np.flatnonzero(contents.comparable)
    pairs, distances = [np.empty((0, 2), int)], [np.empty(0)]
    if not len(rows):
        return pairs[0], distances[0]
    owner = np.unique(np.asarray(subjects), return_inverse=True)[1]
    tissue = np.maximum(contents.picture, BACKGROUND) - np.uint8(BACKGROUND)
    cell = SIDE // _COARSE
    coarse = tissue.reshape(-1, _COARSE, cell, _COARSE, cell).mean((2, 4), dtype=np.float32)
    coarse = coarse.reshape(len(tissue), -1)
    from sklearn.neighbors import NearestNeighbors  # 1 s to import, and training imports us

    # The sum of squares over all 8 x 8 cells is at most NEAR**2 times their number; float32 rounds.
    search = NearestNeighbors(radius=NEAR * _COARSE * 1.0001, algorithm="brute")
    search.fit(coarse[rows])
    for start in range(0, len(rows), _BATCH):
        queries = rows[start : start + _BATCH]
        neighbors = search.radius_neighbors(coarse[queries], return_distance=False)
        one = np.repeat(queries, [len(indices) for indices in neighbors])
        other = rows[np.concatenate(neighbors)]
        wanted = (one < other) & (owner[one] != owner[other])
        candidates = np.stack([one, other], 1)[wanted]
        for first in range(0, len(candidates), _BATCH):
            batch = candidates[first : first + _BATCH]
            distance = distances_between(tissue[batch[:, 0]], tissue[batch[:, 1]])
            near = distance <= NEAR
            pairs.append(batch[near])
            distances.append(distance[near])
    return np.concatenate(pairs), np.concatenate(distances)


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """Which slices are comparable, and their `near_pairs`, as indices of the records."""

    comparable: Bool[np.ndarray, " n"]
    pairs: Int[np.ndarray, "pairs 2"]
    distances: Float[np.ndarray, " pairs"]


def compare(contents: Contents, records: Sequence[Record]) -> NearDuplicates:
    """Compares the `contents` of `records`."""
    return NearDuplicates(contents.comparable, *near_pairs(contents, [r.subject for r in records]))


def read_near_duplicates(records: Sequence[Record]) -> NearDuplicates:
    """Compares the records' images. Raises InputError for an unreadable image."""
    return compare(read_contents(records), records)


def distances_between(
    one: UInt8[np.ndarray, "pairs 32 32"], other: UInt8[np.ndarray, "pairs 32 32"]
) -> Float[np.ndarray, " pairs"]:
    """Root mean square difference over the cells that are above 0 in either; 0 for two empty."""
    cells = np.maximum(((one > 0) | (other > 0)).sum((1, 2)), 1)
    difference = one.astype(np.float32) - other
    return np.sqrt((difference**2).sum((1, 2)) / cells, dtype=np.float64)
