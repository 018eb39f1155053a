"""Checks the Pixel Data of a DICOM file against its header, and decodes it to stored values."""

from collections.abc import Iterator

import numpy as np
import pydicom
from jaxtyping import Integer
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    RLELossless,
)

from data_builder.dicom import jpeg12
from data_builder.dicom.refusal import Reason, Refusal
from data_builder.dicom.tags import Tags

_LARGEST_SIDE = 8192
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PREFERRED = ("pylibjpeg", "pyjpegls", "pydicom", "pillow", "gdcm")
# Transfer syntaxes of the standard that pydicom 3's dictionary lacks.
_LATER_SYNTAXES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}


def check_pixels(dataset: Dataset) -> int:
    """The number of frames. Raises Refusal where sizes, bits and Pixel Data disagree."""
    tags = Tags(dataset)
    element = dataset.get_item("PixelData")
    if element is None or not element.value:
        raise Refusal(Reason.NO_PIXELS, "Pixel Data is missing or empty")
    _, rows, columns, allocated, stored = (
        _above_zero(tags, keyword)
        for keyword in ("SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored")
    )
    if max(rows, columns) > _LARGEST_SIDE:
        detail = f"{rows} x {columns} pixels, the limit is {_LARGEST_SIDE} a side"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    if allocated not in (8, 16, 32) or stored > allocated:
        detail = f"BitsAllocated {allocated} with BitsStored {stored}"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    high = tags.whole("HighBit")
    if high is not None and high != stored - 1:
        detail = f"HighBit {high} with BitsStored {stored}"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    signed, gray = tags.whole("PixelRepresentation"), tags.text("PhotometricInterpretation")
    if signed not in (0, 1) or not gray:
        detail = "PixelRepresentation or PhotometricInterpretation is missing or unknown"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    frames = _frames(dataset, tags)
    syntax = _transfer_syntax(dataset)
    if syntax.is_compressed and not syntax.is_deflated:
        _check_fragments(element.value, frames, syntax)
    else:
        length = len(element.value)
        declared = getattr(element, "length", length)
        _check_length(length, declared, rows * columns * allocated // 8 * frames)
    return frames


def _above_zero(tags: Tags, keyword: str) -> int:
    value = tags.whole(keyword)
    if value is None or value < 1:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, f"{keyword} is missing or not above 0")
    return value


def _frames(dataset: Dataset, tags: Tags) -> int:
    if "NumberOfFrames" not in dataset or dataset.get_item("NumberOfFrames").value in (None, b""):
        return 1
    frames = tags.whole("NumberOfFrames")
    if frames is None or frames < 1:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, "NumberOfFrames is not above 0")
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if frames > 1 and (groups is None or len(groups) != frames):
        detail = f"{frames} frames, but Per-Frame Functional Groups for another number"
        raise Refusal(Reason.IMPOSSIBLE_HEADER, detail)
    return frames


def _transfer_syntax(dataset: Dataset) -> UID:
    """The declared transfer syntax; without one, the encoding in which the file parsed."""
    meta = getattr(dataset, "file_meta", None)
    declared = Tags(meta).text("TransferSyntaxUID") if meta is not None else ""
    if not declared:
        implicit, little = dataset.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        return native if little else ExplicitVRBigEndian
    syntax = UID(declared)
    # A UID that is not in the standard's dictionary may hold anything: it is not repeated.
    name = syntax.name
    if name == syntax:
        name = _LATER_SYNTAXES.get(declared, "unknown")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Refusal(Reason.NO_DECODER, f"its transfer syntax is {name}") from None
    if not decoder.is_available:
        raise Refusal(Reason.NO_DECODER, f"no decoder is installed for {name}")
    return syntax


def _check_length(length: int, declared: int, expected: int) -> None:
    if declared == _UNDEFINED_LENGTH:
        raise Refusal(Reason.IMPOSSIBLE_HEADER, "encapsulated pixels in a native transfer syntax")
    if length < declared:
        raise Refusal(Reason.TRUNCATED, f"{length} of {declared} bytes of pixels")
    if length not in (expected, expected + expected % 2):
        raise Refusal(Reason.PIXEL_LENGTH, f"{length} bytes, its header requires {expected}")


def _check_fragments(buffer: bytes, frames: int, syntax: UID) -> None:
    """Counts the images in encapsulated pixels: RLE fragments, or start markers of JPEG."""
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
        raise Refusal(Reason.PIXEL_LENGTH, f"{images} images, its header states {frames}")


def decode(dataset: Dataset) -> Iterator[Integer[np.ndarray, "rows columns"]]:
    """Yields the stored values of each frame. Raises Refusal where the pixels do not decode."""
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
