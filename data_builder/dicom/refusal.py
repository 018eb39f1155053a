"""Defines why a DICOM file is refused."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a file is not used: the column `reason` of refused.csv."""

    NOT_DICOM = "not DICOM"
    NO_PIXELS = "no pixel data"
    NOT_CT = "not CT"
    LOCALIZER = "localizer"
    SECONDARY_CAPTURE = "secondary capture or screen"
    COLOUR = "colour"
    NO_DECODER = "no decoder"
    DECODER_FAILED = "decoder failed"
    TRUNCATED = "truncated"
    PIXEL_LENGTH = "pixel data length"
    IMPOSSIBLE_HEADER = "impossible header"
    NOT_HEAD = "not the head"
    NOT_AXIAL = "not axial"
    DUPLICATE = "duplicate"
    MIXED_PATIENTS = "mixed patients"
    UNREADABLE = "unreadable"


class Refusal(Exception):
    """A file that cannot be used: a reason, and a detail without any text of the file.

    `frame` is the frame at fault, from 1; 0 where it is the whole file.
    """

    def __init__(self, reason: Reason, detail: str, frame: int = 0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.frame = reason, detail, frame
