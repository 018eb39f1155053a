"""Makes the examples of the data set out of records."""

import functools
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import UInt8

from data_builder.parallel.threads import in_order
from data_builder.records import LOCATIONS, Record
from data_builder.shards import images


class Example(TypedDict):
    """The features of one slice, as IchCt stores them."""

    key: str
    image: UInt8[np.ndarray, "size size 1"]
    hemorrhage: int
    location: int
    subject: str
    study: str
    position_mm: float
    digest: str


def examples(records: Sequence[Record], size: int, what: str) -> Iterator[tuple[str, Example]]:
    """Yields key and example of each record, in order; `what` names the work in its progress.

    Raises InputError for an unreadable image.
    """
    for example in in_order(functools.partial(_example, size=size), records, what):
        yield example["key"], example


def _example(record: Record, size: int) -> Example:
    return {
        "key": record.key,
        "image": images.pixels(record, size),
        "hemorrhage": record.hemorrhage,
        "location": LOCATIONS.index(record.location) if record.hemorrhage else -1,
        "subject": record.subject,
        "study": record.study,
        "position_mm": record.position_mm,
        "digest": record.digest,
    }
