"""Parses the bytes of a DICOM file up to Pixel Data (7FE0,0010), or refuses them with a reason."""

import contextlib
import io
import struct
import warnings
import zlib
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from data_builder.dicom.refusal import Reason, Refusal

_PIXEL_DATA = 0x7FE00010
_UNDEFINED_LENGTH = 0xFFFFFFFF
_IMAGE_KEYWORDS = ("SOPClassUID", "Modality", "StudyInstanceUID")
# The first bytes of a file without preamble: group 0002 or 0008, in either byte order.
_BARE_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def check_start(start: bytes) -> None:
    """Raises Refusal where a file's first 132 bytes are not those of a DICOM file."""
    if not looks_like_dicom(start):
        raise Refusal(Reason.NOT_DICOM, "it has neither preamble nor DICOM elements")


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file's first 132 bytes may be DICOM's: a preamble, or an element of its groups."""
    return _has_preamble(start) or start[:2] in _BARE_STARTS


def _has_preamble(start: bytes) -> bool:
    return start[128:132] == b"DICM"


def parse(data: bytes) -> Dataset:
    """The elements of a file up to Pixel Data.

    Raises Refusal where the file ends early or holds no element of an image, and exceptions of
    pydicom where an element does not parse.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = read_partial(io.BytesIO(data), stop_when=_AfterPixels(), force=True)
        except zlib.error:
            raise Refusal(Reason.TRUNCATED, "its deflated part does not inflate") from None
        except (EOFError, struct.error, OSError):
            raise Refusal(Reason.TRUNCATED, "it ends within an element") from None
    # Where a file ends within an element, pydicom warns and drops all that it has read, or keeps
    # the part of the value that is there.
    short = any(map(_is_short, dataset.values()))
    if short or any("in file" in str(warning.message) for warning in caught):
        raise Refusal(Reason.TRUNCATED, "it ends within an element")
    if not _has_image_element(dataset):
        if not _has_preamble(data):
            raise Refusal(Reason.NOT_DICOM, "it holds none of the elements that an image has")
        if not len(dataset):
            raise Refusal(Reason.TRUNCATED, "it ends before its first element")
        if "DirectoryRecordSequence" in dataset:
            raise Refusal(Reason.NO_PIXELS, "it is the directory of a medium (DICOMDIR)")
        detail = "the elements that an image has are missing or can't be read"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    return dataset


class _AfterPixels:
    """Stops pydicom after Pixel Data: padding may follow, at times without end."""

    def __init__(self) -> None:
        self._reached = False

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        over, self._reached = self._reached, int(tag) == _PIXEL_DATA
        return over


def _is_short(element: Any) -> bool:
    """Whether a value is shorter than its length; `pixels` checks that of Pixel Data."""
    length = getattr(element, "length", _UNDEFINED_LENGTH)
    if length == _UNDEFINED_LENGTH or len(element.value or b"") >= length:
        return False
    return element.tag != _PIXEL_DATA


def _has_image_element(dataset: Dataset) -> bool:
    for keyword in _IMAGE_KEYWORDS:
        with contextlib.suppress(Exception):  # pydicom raises many kinds for a bad value
            if keyword in dataset and dataset[keyword].keyword == keyword:
                return True
    return False
