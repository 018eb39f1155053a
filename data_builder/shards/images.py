"""Slices as files and arrays: reading one in gray, padding it to a square, resizing it.

Records to the examples of a data set: the slice resized, with its labels.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from data_builder.errors import InputError
from data_builder.parallel.threads import in_order
from data_builder.records import LOCATIONS, Record


def open_gray(record: Record) -> Image.Image:
    """The slice's 8-bit pixels. Raises InputError, by key, where its file is no readable image."""
    try:
        with Image.open(record.image) as image:
            return image.convert("L")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(
            f"slice {record.key} is not a readable image: mend or remove the file "
            f"(python -m data_builder lookup {record.key} names it)"
        ) from error


def read_gray(record: Record) -> UInt8[np.ndarray, "rows columns"]:
    """`open_gray` as an array."""
    return np.asarray(open_gray(record))


def to_square(image: UInt8[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "side side"]:
    """Padded with 0 around to its longest side."""
    rows, columns = image.shape
    side = max(rows, columns)
    if rows == columns:
        return image
    top, left = (side - rows) // 2, (side - columns) // 2
    return np.pad(image, ((top, side - rows - top), (left, side - columns - left)))


def resize(image: Image.Image, size: int) -> Image.Image:
    """Bilinear and antialiased to size x size; a slice that is not square is padded with 0."""
    if image.width != image.height:
        image = Image.fromarray(to_square(np.asarray(image)))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def examples(records: Sequence[Record], size: int, what: str) -> Iterator[tuple[str, dict]]:
    """Keys and features of `records`, in order; `what` names them in the progress."""
    for example in in_order(functools.partial(_example, size=size), records, what):
        yield example["key"], example


def _example(record: Record, size: int) -> dict[str, Any]:
    return {
        "key": record.key,
        "image": pixels(record, size),
        "hemorrhage": record.hemorrhage,
        "location": LOCATIONS.index(record.location) if record.hemorrhage else -1,
        "subject": record.subject,
        "study": record.study,
        "position_mm": record.position_mm,
        "digest": record.digest,
    }


def pixels(record: Record, size: int) -> UInt8[np.ndarray, "size size 1"]:
    """The slice at size x size: gray, longest side fitted, black around (the air of CT)."""
    return np.asarray(resize(open_gray(record), size))[..., None]
