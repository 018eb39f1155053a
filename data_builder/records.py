"""The words that every part shares: what a slice is, its labels, the manifest's columns."""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import UInt8

LOCATIONS = ("deep", "lobar", "subtentorial")
"""Classes of the location task, in the order of its logits."""

CLASSES = ("normal", *LOCATIONS)
"""Strata of a data set: no hemorrhage, or one by its location."""

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
REFUSED_COLUMNS = ("file", "frame", "reason", "detail")


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled 8-bit slice on its way into the shards. Keys are pseudonyms.

    `image` is a path that never leaves this process; `location` is empty for a normal slice;
    `position_mm` is nan where the source does not know it; `facts` are the columns of FACTS that
    it does know, kept to look for confounds and never trained on.
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
        """The class of CLASSES that this slice belongs to."""
        return self.location if self.hemorrhage else "normal"


def pixel_digest(image: UInt8[np.ndarray, "rows columns"]) -> str:
    """SHA-256 of a slice's shape and 8-bit pixels, as 32 hex digits: equal for equal pixels."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()[:32]
