"""Decodes lossy JPEG of 12 bits a sample (Process 4) with GDCM, as a plugin of pydicom.

pydicom's own plugin for GDCM refuses such files. The tests check files of DCMTK's encoder.
"""

import gdcm
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGExtended12Bit

PLUGIN = "gdcm 12 bit"


def is_available(syntax: str) -> bool:
    """Whether this plugin decodes a transfer syntax; pydicom requires the function."""
    return syntax == JPEGExtended12Bit


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """The stored values of one frame, little endian, as pydicom expects them.

    Raises ValueError where the stream does not decode to the size in the header.
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(source)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    gray = gdcm.PhotometricInterpretation.GetPIType(str(runner.photometric_interpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gray))
    syntax = gdcm.TransferSyntax.GetTSType(str.__str__(runner.transfer_syntax))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    stored, signed = runner.bits_stored, runner.pixel_representation
    image.SetPixelFormat(gdcm.PixelFormat(1, runner.bits_allocated, stored, stored - 1, signed))
    frame = image.GetBuffer().encode("utf-8", "surrogateescape")  # GetBuffer returns bytes as text
    if len(frame) != runner.frame_length("bytes"):
        raise ValueError("the JPEG stream does not hold the frame that the header says")
    return frame
