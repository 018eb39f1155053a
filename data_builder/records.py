"""Defines the labelled slice, its classes, and the columns of manifest.csv and refused.csv."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import UInt8

LOCATIONS = ("deep", "lobar", "subtentorial")
"""Classes of the location task, in the order of its logits."""

CLASSES = ("normal", *LOCATIONS)
"""Strata of a data set: no hemorrhage, or the location of one."""

MANIFEST_COLUMNS = (
    "key",
    "file",
    "frame",
    "subject",
    "study",
    "series",
    "position_mm",
    "image",
    "keep",
    "hemorrhage",
    "location",
    "label_level",
    "mode",
    "digest",
    "sex",
    "year",
    "scanner",
    "thickness_mm",
)
FACTS = ("sex", "year", "scanner", "thickness_mm")
"""Columns of the manifest that may be confounds; a model is never trained on them."""

REFUSED_COLUMNS = ("file", "frame", "reason", "detail")


@dataclasses.dataclass(frozen=True)
class Record:
    """A labelled 8-bit slice before it is written to a shard. Keys are pseudonyms.

    `image` is a path and is never written; `location` is empty for a normal slice; `position_mm`
    is nan where the source does not give it; `facts` are pairs of a column of FACTS and its value,
    for those that the source gives.
    """

    key: str
    image: str = dataclasses.field(repr=False)
    hemorrhage: int
    location: str
    subject: str
    study: str
    position_mm: float
    digest: str
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def stratum(self) -> str:
        """The slice's class, one of CLASSES."""
        return self.location if self.hemorrhage else "normal"


def pixel_digest(image: UInt8[np.ndarray, "rows columns"]) -> str:
    """The first 32 hexadecimal digits of the SHA-256 of a slice's shape and pixels."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:32]
