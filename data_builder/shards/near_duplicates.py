"""What a slice shows, in 32 x 32 gray levels: slices that are the same picture are found by it.

A copy that was resized, encoded again or shifted by a gray level stays within NEAR; the slices of
two people do not come close (docs/shards.md has the count).
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
"""A slice with a smaller share of tissue takes no part in the search: black looks like black."""

NEAR = 6.0
"""Two slices are near where the root mean square of their difference is at most this many gray
levels, over the cells of the 32 x 32 picture that show tissue in either."""

_COARSE = 8
_QUERIES = 1024


@dataclasses.dataclass(frozen=True)
class Contents:
    """Of each slice, in the records' order: the share of pixels that show tissue, the picture."""

    tissue: Float[np.ndarray, " n"]
    picture: UInt8[np.ndarray, "n 32 32"]

    @property
    def counts(self) -> Bool[np.ndarray, " n"]:
        """Which slices show enough to be told from others."""
        return self.tissue >= LEAST_TISSUE


def small_picture(image: UInt8[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "32 32"]:
    """The mean of each of 32 x 32 areas, after padding to a square."""
    return cv2.resize(to_square(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def contents_of(images: Iterator[UInt8[np.ndarray, "rows columns"]], total: int) -> Contents:
    """Contents of `total` images, one after the other."""
    tissue = np.empty(total)
    picture = np.empty((total, SIDE, SIDE), np.uint8)
    for i, image in enumerate(images):
        tissue[i] = np.count_nonzero(image > BACKGROUND) / image.size
        picture[i] = small_picture(image)
    return Contents(tissue, picture)


def read_contents(records: Sequence[Record]) -> Contents:
    """Contents of the records' images. Raises InputError for one that cannot be read."""
    return contents_of(in_order(read_gray, records, "looking for copies"), len(records))


def near_pairs(
    contents: Contents, subjects: Sequence[str]
) -> tuple[Int[np.ndarray, "pairs 2"], Float[np.ndarray, " pairs"]]:
    """Pairs of near slices of two subjects, the first index smaller, and their distances.

    The search is exact: the means of 4 x 4 cells differ at most as much as the cells do, so that
    pictures of 8 x 8, gone through by scikit-learn, leave out no pair.
    """
    rows = np.flatnonzero(contents.counts)
    pairs, distances = [np.empty((0, 2), int)], [np.empty(0)]
    if not len(rows):
        return pairs[0], distances[0]
    owner = np.unique(np.asarray(subjects), return_inverse=True)[1]
    tissue = np.maximum(contents.picture, BACKGROUND) - np.uint8(BACKGROUND)
    part = SIDE // _COARSE
    coarse = tissue.reshape(-1, _COARSE, part, _COARSE, part).mean((2, 4), dtype=np.float32)
    coarse = coarse.reshape(len(tissue), -1)
    # The sum of squares over all cells is at most NEAR**2 times their number.
    from sklearn.neighbors import NearestNeighbors  # 1 s to import, and training imports us

    search = NearestNeighbors(radius=NEAR * _COARSE * 1.0001, algorithm="brute")
    search.fit(coarse[rows])
    for start in range(0, len(rows), _QUERIES):
        here = rows[start : start + _QUERIES]
        found = search.radius_neighbors(coarse[here], return_distance=False)
        one = np.repeat(here, [len(each) for each in found])
        other = rows[np.concatenate(found)]
        apart = (one < other) & (owner[one] != owner[other])
        candidates = np.stack([one, other], 1)[apart]
        for first in range(0, len(candidates), _QUERIES):
            some = candidates[first : first + _QUERIES]
            distance = distances_between(tissue[some[:, 0]], tissue[some[:, 1]])
            near = distance <= NEAR
            pairs.append(some[near])
            distances.append(distance[near])
    return np.concatenate(pairs), np.concatenate(distances)


@dataclasses.dataclass(frozen=True)
class Likeness:
    """Which slices show enough to be compared, and `near_pairs` of them, by the records' order."""

    counts: Bool[np.ndarray, " n"]
    pairs: Int[np.ndarray, "pairs 2"]
    distances: Float[np.ndarray, " pairs"]


def likeness(contents: Contents, records: Sequence[Record]) -> Likeness:
    """What the `contents` of `records` have in common."""
    return Likeness(contents.counts, *near_pairs(contents, [r.subject for r in records]))


def read_likeness(records: Sequence[Record]) -> Likeness:
    """`likeness` of the records' images. Raises InputError for one that cannot be read."""
    return likeness(read_contents(records), records)


def distances_between(
    one: UInt8[np.ndarray, "pairs 32 32"], other: UInt8[np.ndarray, "pairs 32 32"]
) -> Float[np.ndarray, " pairs"]:
    """Root mean square difference over the cells that are above 0 in either; 0 for two empty."""
    shown = np.maximum(((one > 0) | (other > 0)).sum((1, 2)), 1)
    difference = one.astype(np.float32) - other
    return np.sqrt((difference**2).sum((1, 2)) / shown, dtype=np.float64)
