"""Records to the examples of a data set: the slice resized and encoded, with its labels."""

import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any

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
        "image": encode(record, size),
        "hemorrhage": record.hemorrhage,
        "location": LOCATIONS.index(record.location) if record.hemorrhage else -1,
        "subject": record.subject,
        "study": record.study,
        "position_mm": record.position_mm,
        "digest": record.digest,
    }


def encode(record: Record, size: int) -> bytes:
    """PNG of the slice at size x size: gray, longest side fitted, black around (the air of CT)."""
    buffer = io.BytesIO()
    resize(open_gray(record), size).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
