"""One DICOM file -> its CT slices in Hounsfield units, or a refusal with its reason."""

import contextlib
import hashlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gdcm
import numpy as np
import pydicom
from jaxtyping import Float32
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.filereader import read_partial
from pydicom.pixels import apply_modality_lut, get_decoder
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    RLELossless,
)

from data_builder.dicom import jpeg12
from data_builder.dicom.header import Header, Reason, Refusal, Tags, check_kind, frame_header

__all__ = [
    "AIR",
    "CtSlice",
    "Header",
    "Reason",
    "Refusal",
    "looks_like_dicom",
    "quiet",
    "read_slices",
]

AIR = -1000.0
"""HU of air, which stands in for padding."""

_LARGEST_SIDE = 8192
_PREFERRED = ("pylibjpeg", "pyjpegls", "pydicom", "pillow", "gdcm")
# Of the standard's transfer syntaxes those that pydicom 3's dictionary is too old for.
_LATER_SYNTAXES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
# The first bytes of a file without preamble: group 0002 or 0008, in either byte order.
_BARE_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")


class CtSlice(NamedTuple):
    """One axial image: HU as float32 [rows, columns], and its header."""

    hu: Float32[np.ndarray, "rows columns"]
    header: Header


def read_slices(source: Path | str | bytes) -> list[CtSlice]:
    """Every image of one DICOM file, in the order of its frames.

    HU are stored values x Rescale Slope (0028,1053) + Intercept (0028,1052). MONOCHROME1 changes
    how values are shown, not what they are (PS3.3 C.7.6.3.1.2), so it changes nothing here.
    Pixels of Pixel Padding Value (0028,0120, 0028,0121) become air. Raises Refusal, for the whole
    file, if any of its frames can't be used; no other exception comes out of a bad file.
    """
    try:
        data = source if isinstance(source, bytes) else _read(Path(source))
        with quiet():
            return list(_slices(data))
    except Refusal:
        raise
    except MemoryError:
        raise Refusal(Reason.DECODER_FAILED, "it needs more memory than a file gets") from None
    except Exception as error:  # pydicom raises many kinds on a file that is not as it says
        kind = type(error).__name__
        raise Refusal(Reason.IMPOSSIBLE_HEADER, f"it can't be parsed ({kind})") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(132)
            if not looks_like_dicom(start):
                raise Refusal(Reason.NOT_DICOM, "it has neither preamble nor DICOM elements")
            return start + file.read()
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, error.strerror or "it can't be read") from None


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file's first 132 bytes may be DICOM's: a preamble, or an element of its groups."""
    return _has_preamble(start) or start[:2] in _BARE_STARTS


def _has_preamble(start: bytes) -> bool:
    return start[128:132] == b"DICM"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on the terminal or in a log: the libraries' warnings repeat values of the file."""
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
    if not looks_like_dicom(data[:132]):
        raise Refusal(Reason.NOT_DICOM, "it has neither preamble nor DICOM elements")
    dataset = _parse(data)
    check_kind(dataset)
    frames = _check_pixels(dataset, len(data))
    numbers = range(1, frames + 1) if "NumberOfFrames" in dataset and frames > 1 else range(1)
    headers = [frame_header(dataset, number) for number in numbers]
    if not headers[0].sop_uid:
        dataset.SOPInstanceUID = hashlib.sha256(data).hexdigest()
        headers = [frame_header(dataset, number) for number in numbers]
    for header, stored in zip(headers, _decode(dataset, frames), strict=True):
        yield CtSlice(_hounsfield(dataset, stored, header.frame), header)


def _parse(data: bytes) -> Dataset:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            dataset = read_partial(io.BytesIO(data), stop_when=_AfterPixels(), force=True)
        except zlib.error:
            raise Refusal(Reason.TRUNCATED, "its deflated part does not inflate") from None
        except (EOFError, struct.error, OSError):
            raise Refusal(Reason.TRUNCATED, "it ends within an element") from None
    # pydicom drops all it has read and only warns where the file ends within an element, or keeps
    # what there is of its value.
    short = any(map(_is_short, dataset.values()))
    if short or any("in file" in str(warning.message) for warning in said):
        raise Refusal(Reason.TRUNCATED, "it ends within an element")
    if not {"SOPClassUID", "Modality", "StudyInstanceUID"} & {e.keyword for e in _top(dataset)}:
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
    """Tells pydicom to stop behind Pixel Data: what may follow is padding, at times without end."""

    def __init__(self) -> None:
        self._reached = False

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        over, self._reached = self._reached, int(tag) == 0x7FE00010
        return over


def _is_short(element: Any) -> bool:
    """Whether there is less of an element's value than its length says; Pixel Data: see below."""
    length = getattr(element, "length", 0xFFFFFFFF)
    if length == 0xFFFFFFFF or len(element.value or b"") >= length:
        return False
    return element.tag != 0x7FE00010


def _top(dataset: Dataset) -> Iterator[pydicom.DataElement]:
    for keyword in ("SOPClassUID", "Modality", "StudyInstanceUID"):
        with contextlib.suppress(Exception):
            if keyword in dataset:
                yield dataset[keyword]


def _check_pixels(dataset: Dataset, file_bytes: int) -> int:
    """The number of frames. Raises Refusal where sizes, bits and buffer do not fit together."""
    tags = Tags(dataset)
    element = dataset.get_item("PixelData")
    if element is None or not element.value:
        raise Refusal(Reason.NO_PIXELS, "Pixel Data is missing or empty")
    size = {
        name: tags.whole(name)
        for name in ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored")
    }
    for name, value in size.items():
        if value is None or value < 1:
            raise Refusal(Reason.IMPOSSIBLE_HEADER, f"{name} is missing or not above 0")
    rows, columns = size["Rows"] or 0, size["Columns"] or 0
    allocated, stored = size["BitsAllocated"] or 0, size["BitsStored"] or 0
    if max(rows, columns) > _LARGEST_SIDE:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, f"{rows} x {columns} pixels is past belief")
    if allocated not in (8, 16, 32) or stored > allocated:
        detail = f"BitsAllocated {allocated} with BitsStored {stored}"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    high = tags.whole("HighBit")
    if high is not None and high != stored - 1:
        detail = f"HighBit {high} with BitsStored {stored}"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    if tags.whole("PixelRepresentation") not in (0, 1) or not tags.text(
        "PhotometricInterpretation"
    ):
        detail = "PixelRepresentation or PhotometricInterpretation is missing or no known one"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    frames = _frames(dataset, tags)
    syntax = _transfer_syntax(dataset)
    if syntax.is_compressed and not syntax.is_deflated:
        _check_fragments(element.value, frames, syntax)
    else:
        _check_length(element, rows * columns * allocated // 8 * frames)
    return frames


def _frames(dataset: Dataset, tags: Tags) -> int:
    if "NumberOfFrames" not in dataset or dataset.get_item("NumberOfFrames").value in (None, b""):
        return 1
    frames = tags.whole("NumberOfFrames")
    if frames is None or frames < 1:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, "NumberOfFrames is not above 0")
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if frames > 1 and (groups is None or len(groups) != frames):
        raise Refusal(
            Reason.IMPOSSIBLE_HEADER, f"{frames} frames, with the places of another number of them"
        )
    return frames


def _transfer_syntax(dataset: Dataset) -> UID:
    """The declared transfer syntax, or the one that the file was seen to be in."""
    meta = getattr(dataset, "file_meta", None)
    declared = Tags(meta).text("TransferSyntaxUID") if meta is not None else ""
    if not declared:
        implicit, little = dataset.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        return native if little else ExplicitVRBigEndian
    syntax = UID(declared)
    # A name that is not in the standard's dictionary may be anything: it is not repeated.
    known = _LATER_SYNTAXES.get(declared, "an unknown one")
    name = syntax.name if syntax.name != syntax else known
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Refusal(Reason.NO_DECODER, f"its transfer syntax is {name}") from None
    if not decoder.is_available:
        raise Refusal(Reason.NO_DECODER, f"no decoder is installed for {name}")
    return syntax


def _check_length(element, expected: int) -> None:
    found = len(element.value)
    declared = getattr(element, "length", found)
    if declared == 0xFFFFFFFF:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, "encapsulated pixels in a native transfer syntax")
    if found < declared:
        raise Refusal(Reason.TRUNCATED, f"{found} of {declared} bytes of pixels")
    if found not in (expected, expected + expected % 2):
        raise Refusal(Reason.PIXEL_LENGTH, f"{found} bytes where its header says {expected}")


def _check_fragments(buffer: bytes, frames: int, syntax: UID) -> None:
    """Counts the images in encapsulated pixels: an RLE fragment, or what a JPEG marker opens."""
    try:
        fragments = list(generate_fragments(buffer))[1:]
    except Exception:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, "its encapsulated pixels are malformed") from None
    starts = (b"\xff\xd8", b"\xff\x4f", b"\0\0\0\x0cjP")
    images = sum(fragment.startswith(starts) for fragment in fragments)
    if syntax == RLELossless:
        images = len(fragments)
    elif images and not fragments[-1].rstrip(b"\0").endswith(b"\xff\xd9"):
        raise Refusal(Reason.TRUNCATED, "its last compressed image has no end marker")
    if images != frames:
        raise Refusal(Reason.PIXEL_LENGTH, f"{images} images where its header says {frames}")


def _decode(dataset: Dataset, frames: int) -> Iterator[np.ndarray]:
    """Stored values, frame by frame."""
    syntax = _transfer_syntax(dataset)
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    decoder = get_decoder(syntax)
    plugin = next((name for name in _PREFERRED if name in decoder.available_plugins), "")
    if syntax == JPEGExtended12Bit and dataset.BitsAllocated > 8:
        plugin = jpeg12.PLUGIN
        if plugin not in decoder.available_plugins:
            decoder.add_plugin(plugin, (jpeg12.__name__, "decode_frame"))
    try:
        for stored, _ in decoder.iter_array(
            dataset,
            raw=True,
            decoding_plugin=plugin if syntax.is_compressed else "",
            allow_excess_frames=False,
        ):
            yield stored
    except MemoryError:
        raise
    except Exception:
        raise Refusal(Reason.DECODER_FAILED, f"{syntax.name} pixels do not decode") from None


def _hounsfield(dataset: Dataset, stored: np.ndarray, frame: int) -> np.ndarray:
    tags = Tags(dataset, frame)
    padding = _padding(dataset, tags, stored)
    slope, intercept = tags.numbers("RescaleSlope", 1), tags.numbers("RescaleIntercept", 1)
    if intercept is None and tags.value("ModalityLUTSequence"):
        hu = apply_modality_lut(stored, dataset).astype(np.float32)
    else:
        if intercept is None and stored.min() > -500:
            detail = "RescaleIntercept is missing, and no value is low enough for air in HU"
            raise Refusal(Reason.IMPOSSIBLE_HEADER, detail, frame)
        factor, offset = (slope or (1.0,))[0], (intercept or (0.0,))[0]
        if factor == 0:
            raise Refusal(Reason.IMPOSSIBLE_HEADER, "RescaleSlope is 0", frame)
        # Whole numbers are exact in float32, which takes half the time.
        exact = factor.is_integer() and offset.is_integer() and stored.itemsize <= 2
        hu = stored.astype(np.float32 if exact else np.float64)
        hu *= factor
        hu += offset
        hu = hu.astype(np.float32, copy=False)
    if padding is not None:
        hu[padding] = AIR
    return hu


def _padding(dataset: Dataset, tags: Tags, stored: np.ndarray) -> np.ndarray | None:
    value, limit = tags.whole("PixelPaddingValue"), tags.whole("PixelPaddingRangeLimit")
    if value is None:
        return None
    # Writers mix up signed and unsigned here: the bits are what counts.
    low, high = sorted(
        int(np.array(part).astype(np.int64).astype(stored.dtype))
        for part in (value, value if limit is None else limit)
    )
    return (stored >= low) & (stored <= high) if low != high else stored == low
