"""Slices as files and arrays: reading one in gray, padding it to a square, resizing it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from data_builder.errors import InputError
from data_builder.records import Record


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
