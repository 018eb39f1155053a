"""Measures distances between slices of different subjects and between copies, the basis of NEAR.

    python benchmarks/near_duplicates.py --source SRC

SRC is a published or a cleaned folder. Prints the near pairs across subjects (false merges, where
SRC is known to hold no copies), the closest pairs beyond, and for each kind of copy the largest
distance to its original over all slices that take part in the search.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.shards.images import read_gray
from data_builder.shards.near_duplicates import (
    BACKGROUND,
    NEAR,
    Contents,
    contents_of,
    distances_between,
    near_pairs,
    read_contents,
)
from data_builder.shards.sources import open_source


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(image: np.ndarray, side: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), how))


def shifted(image: np.ndarray, by: int) -> np.ndarray:
    return (image.astype(int) + by).clip(0, 255).astype(np.uint8)


COPIES = {
    "JPEG, quality 75": lambda x: jpeg(x, 75),
    "JPEG, quality 30": lambda x: jpeg(x, 30),
    "a gray level up": lambda x: shifted(x, 1),
    "a gray level down": lambda x: shifted(x, -1),
    "256 pixels, bilinear": lambda x: resized(x, 256, Image.Resampling.BILINEAR),
    "300 pixels, bicubic": lambda x: resized(x, 300, Image.Resampling.BICUBIC),
    "224 pixels, nearest": lambda x: resized(x, 224, Image.Resampling.NEAREST),
    "128 pixels, bilinear": lambda x: resized(x, 128, Image.Resampling.BILINEAR),
    "224 pixels, a level up, JPEG 50": lambda x: jpeg(
        shifted(resized(x, 224, Image.Resampling.BILINEAR), 1), 50
    ),
    "moved by a pixel of 512": lambda x: np.roll(x, 1, 0),
}


def tissue_of(contents: Contents) -> np.ndarray:
    return np.maximum(contents.picture, BACKGROUND) - np.uint8(BACKGROUND)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True)
    records = open_source(parser.parse_args().source, Pseudonyms(PUBLIC_KEY)).records
    contents = read_contents(records)
    subjects = np.array([record.subject for record in records])
    started = time.monotonic()
    pairs, _ = near_pairs(contents, list(subjects))
    seconds = time.monotonic() - started
    print(f"{len(records)} slices of {len(set(subjects))} subjects, searched in {seconds:.1f} s")
    print(f"{(~contents.comparable).sum()} slices with too little tissue")
    print(f"near pairs across subjects (at most {NEAR:g} gray levels): {len(pairs)}")

    tissue, counts = tissue_of(contents), contents.comparable
    closest = []
    for i in np.flatnonzero(counts):
        others = np.flatnonzero(counts & (subjects != subjects[i]))
        others = others[others > i]
        if len(others):
            distance = distances_between(
                np.repeat(tissue[i : i + 1], len(others), 0), tissue[others]
            )
            closest += [(float(d), i, j) for d, j in zip(distance, others, strict=True) if d < 40]
    print("closest pairs of two subjects: gray levels, classes, share of tissue of each")
    for distance, i, j in sorted(closest)[:10]:
        classes = f"{records[i].stratum} and {records[j].stratum}"
        print(f"  {distance:.1f}  {classes}  {contents.tissue[i]:.3f} {contents.tissue[j]:.3f}")
    rows = np.flatnonzero(counts)
    print("copies: largest and median distance from the original, share within the limit")
    for name, change in COPIES.items():
        copies = contents_of((change(read_gray(records[i])) for i in rows), len(rows))
        distance = distances_between(tissue_of(copies), tissue[rows])
        within = (distance <= NEAR).mean()
        print(f"  {name}: {distance.max():.2f}, {np.median(distance):.2f}, {within:.2%}")


if __name__ == "__main__":
    main()
