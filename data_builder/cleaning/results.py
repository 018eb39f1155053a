"""Defines the outcome of cleaning a file: its cleaned slices, or why the file is refused."""

import dataclasses
import math
from typing import Literal, TypedDict

from data_builder.dicom.refusal import Refusal

Origin = Literal["labels.csv", "Patient ID", "study"]
"""What a slice's subject was read from."""


@dataclasses.dataclass(frozen=True)
class CleanedSlice:
    """One cleaned image, as manifest.csv and the journal have it, without its labels.

    `key`, `file`, `subject`, `study`, `series`, `patient` (the Patient ID without its issuer) and
    `instance_uid` are pseudonyms. `frame` counts from 1 and is '' for the only image of a file;
    lengths are texts of three digits, '' where unknown. `image` is the path inside the folder of
    the output, `head` is 0 where the slice shows no head, `digest` is that of `pixel_digest`,
    `phantom` is 1 where the source is marked as a synthetic phantom.
    """

    key: str
    file: str
    frame: int | Literal[""]
    subject: str
    study: str
    series: str
    position_mm: str
    image: str
    head: int
    mode: str
    digest: str
    sex: str
    year: str
    scanner: str
    thickness_mm: str
    patient: str
    instance: int | None
    instance_uid: str
    phantom: int

    @property
    def position(self) -> float:
        """The position in mm, nan where unknown."""
        return float(self.position_mm) if self.position_mm else math.nan


@dataclasses.dataclass(frozen=True)
class LabelledSlice(CleanedSlice):
    """A row of manifest.csv: a cleaned slice and what labels.csv says of it, as `Verdict`.

    The manifest leaves `subject_from` out.
    """

    keep: str
    hemorrhage: str
    location: str
    label_level: str
    subject_from: Origin


class RefusedRow(TypedDict):
    """A row of refused.csv."""

    file: str
    frame: str
    reason: str
    detail: str


@dataclasses.dataclass
class FileResult:
    """The cleaned slices of a file, or its row of refused.csv.

    `size` is in bytes, -1 where it is unknown. `content` is `Pseudonyms.content` of the file, empty
    where it could not be read. `meanings` are pairs of a pseudonym and its meaning, for the lookup.
    `images` has the SHA-256 of each image that was written, by its path inside the output.
    `failure` says why the output could not be written, which is no fault of the file.

    A journal of an earlier version has neither `content` nor `images`.
    """

    file: str
    size: int = -1
    content: str = ""
    rows: list[CleanedSlice] = dataclasses.field(default_factory=list)
    refused: RefusedRow | None = None
    meanings: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    failure: str = ""


def refused(file: str, size: int, refusal: Refusal, content: str = "") -> FileResult:
    """The result of a file that cannot be used."""
    row = RefusedRow(
        file=file,
        frame=str(refusal.frame or ""),
        reason=str(refusal.reason),
        detail=refusal.detail,
    )
    return FileResult(file, size, content, refused=row)
