"""Records to the examples of a data set: the slice resized, with its labels."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_builder.ahead import in_order
from data_builder.images import open_gray, resize
from data_builder.records import LOCATIONS, Record


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
