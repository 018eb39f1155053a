"""JPEG of 12 bits a sample (Process 4, lossy), which pydicom has no permissive decoder for.

GDCM decodes it; pydicom's own plugin turns such files away unasked. The result is checked in the
tests against DCMTK's decoder.
"""

import gdcm
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGExtended12Bit

PLUGIN = "gdcm 12 bit"


def is_available(syntax: str) -> bool:
    """Whether this decodes the transfer syntax; pydicom asks."""
    return syntax == JPEGExtended12Bit


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """One frame's stored values, little endian, as pydicom's decoders give them.

    Raises ValueError where the stream does not decode.
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
    frame = image.GetBuffer().encode("utf-8", "surrogateescape")  # it gives bytes as text
    if len(frame) != runner.frame_length("bytes"):
        raise ValueError("the JPEG stream does not hold the frame that the header says")
    return frame
