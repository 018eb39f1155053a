"""Reads slice images in gray, pads them to squares and resizes them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from data_builder.errors import InputError
from data_builder.parallel.threads import in_order
from data_builder.records import Record, pixel_digest


def open_gray(record: Record) -> Image.Image:
    """Reads a slice as 8-bit gray. Raises InputError, with its key, for an unreadable image."""
    try:
        with Image.open(record.image) as image:
            return image.convert("L")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(
            f"slice {record.key} is not a readable image: mend or remove the file "
            f"(python -m data_builder lookup {record.key} names it)"
        ) from error


def read_gray(record: Record) -> UInt8[np.ndarray, "rows columns"]:
    """Reads a slice as an array of 8-bit gray levels. Raises InputError as `open_gray`."""
    return np.asarray(open_gray(record))


def with_other_pixels(records: Sequence[Record]) -> list[Record]:
    """The records whose image has not the pixels of their digest (`records.pixel_digest`).

    Raises InputError as `open_gray`.
    """
    if not records:
        return []
    digests = in_order(lambda record: pixel_digest(read_gray(record)), records, "checking images")
    return [r for r, digest in zip(records, digests, strict=True) if digest != r.digest]


def to_square(image: UInt8[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "side side"]:
    """Pads with 0 on both sides, to the longest side."""
    rows, columns = image.shape
    side = max(rows, columns)
    if rows == columns:
        return image
    top, left = (side - rows) // 2, (side - columns) // 2
    return np.pad(image, ((top, side - rows - top), (left, side - columns - left)))


def resize(image: Image.Image, size: int) -> Image.Image:
    """Resizes to size x size, bilinear with antialiasing; pads to a square with 0 before."""
    if image.width != image.height:
        image = Image.fromarray(to_square(np.asarray(image)))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def pixels(record: Record, size: int) -> UInt8[np.ndarray, "size size 1"]:
    """Reads a slice in gray, padded to a square with 0 (air) and resized to size x size."""
    return np.asarray(resize(open_gray(record), size))[..., None]
