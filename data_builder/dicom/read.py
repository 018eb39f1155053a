"""Reads one DICOM file into its CT slices in Hounsfield units, or refuses it with a reason."""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gdcm
import numpy as np
from jaxtyping import Bool, Float32, Integer
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut

from data_builder.dicom.header import Header, check_kind, frame_header
from data_builder.dicom.parse import check_start, parse
from data_builder.dicom.pixels import check_pixels, decode
from data_builder.dicom.refusal import Reason, Refusal
from data_builder.dicom.tags import Tags

AIR = -1000.0
"""HU of air, the value of padding."""


class CtSlice(NamedTuple):
    """One axial image: its Hounsfield units and its header."""

    hu: Float32[np.ndarray, "rows columns"]
    header: Header


def read_slices(source: Path | str | bytes) -> list[CtSlice]:
    """Reads every image of one DICOM file, in the order of its frames.

    HU are stored values x Rescale Slope (0028,1053) + Intercept (0028,1052). MONOCHROME1 states
    how values are shown, not what they are (PS3.3 C.7.6.3.1.2), so it changes nothing here.
    Pixels of Pixel Padding Value (0028,0120, 0028,0121) become air. Raises Refusal, for the whole
    file, where one of its frames cannot be used; a bad file raises nothing else.
    """
    try:
        data = source if isinstance(source, bytes) else _read(Path(source))
        with quiet():
            return list(_slices(data))
    except Refusal:
        raise
    except MemoryError:
        raise Refusal(Reason.DECODER_FAILED, "it needs more memory than a file gets") from None
    except Exception as error:  # pydicom raises many kinds on a malformed file
        kind = type(error).__name__
        raise Refusal(Reason.IMPOSSIBLE_HEADER, f"it can't be parsed ({kind})") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(132)
            check_start(start)
            return start + file.read()
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, error.strerror or "it can't be read") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences pydicom and GDCM: their warnings repeat values of the file."""
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _slices(data: bytes) -> Iterator[CtSlice]:
    check_start(data[:132])
    dataset = parse(data)
    check_kind(dataset)
    frames = check_pixels(dataset)
    numbers = range(1, frames + 1) if "NumberOfFrames" in dataset and frames > 1 else range(1)
    headers = [frame_header(dataset, number) for number in numbers]
    if not headers[0].sop_uid:
        dataset.SOPInstanceUID = hashlib.sha256(data).hexdigest()
        headers = [frame_header(dataset, number) for number in numbers]
    for header, stored in zip(headers, decode(dataset), strict=True):
        yield CtSlice(_hounsfield(dataset, stored, header.frame), header)


def _hounsfield(
    dataset: Dataset, stored: Integer[np.ndarray, "rows columns"], frame: int
) -> Float32[np.ndarray, "rows columns"]:
    tags = Tags(dataset, frame)
    padding = _padding(tags, stored)
    factor, intercept = tags.number("RescaleSlope", 1.0), tags.numbers("RescaleIntercept", 1)
    if intercept is None and tags.value("ModalityLUTSequence"):
        hu = apply_modality_lut(stored, dataset).astype(np.float32)
    else:
        if intercept is None and stored.min() > -500:
            detail = "RescaleIntercept is missing, and no value is low enough for air in HU"
            raise Refusal(Reason.IMPOSSIBLE_HEADER, detail, frame)
        offset = intercept[0] if intercept else 0.0
        if factor == 0:
            raise Refusal(Reason.IMPOSSIBLE_HEADER, "RescaleSlope is 0", frame)
        # float32 is exact for whole numbers of 16 bits, and takes half the time of float64.
        exact = factor.is_integer() and offset.is_integer() and stored.itemsize <= 2
        hu = stored.astype(np.float32 if exact else np.float64)
        hu *= factor
        hu += offset
        hu = hu.astype(np.float32, copy=False)
    if padding is not None:
        hu[padding] = AIR
    return hu


def _padding(
    tags: Tags, stored: Integer[np.ndarray, "rows columns"]
) -> Bool[np.ndarray, "rows columns"] | None:
    """True on padding; None where the header states no padding value."""
    value, limit = tags.whole("PixelPaddingValue"), tags.whole("PixelPaddingRangeLimit")
    if value is None:
        return None
    # Writers mix up signed and unsigned values here: the bits decide.
    low, high = sorted(
        int(np.array(part).astype(np.int64).astype(stored.dtype))
        for part in (value, value if limit is None else limit)
    )
    return (stored >= low) & (stored <= high) if low != high else stored == low
