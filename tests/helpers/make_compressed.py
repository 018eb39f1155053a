"""Makes tests/compressed/*.dcm: synthetic CT objects by encoders that are not dependencies.

    python -m tests.helpers.make_compressed

Needs DCMTK's command-line tools (Debian's `dcmtk`), and `imagecodecs` for OpenJPH.

Each file is `dicom_files.head_hu()`, compressed. `unsigned` ones hold HU + 1024 in 12 of 16 bits,
`signed` ones HU in 16 bits, `gray` ones HU + 100 clipped to 0..200 in 8 bits.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2K as HTJ2KLossy
from pydicom.uid import UID, HTJ2KLossless, HTJ2KLosslessRPCL

from tests.helpers import ROOT
from tests.helpers.dicom_files import ct, encoded, head_hu

FOLDER = ROOT / "tests/compressed"
UIDS = {"SOPInstanceUID": "1.2.3.1", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.2"}
DCMTK = {
    "jpeg_baseline": ["dcmcjpeg", "+eb", "+q", "100"],
    "jpeg_extended": ["dcmcjpeg", "+ee", "+bt", "+q", "100"],
    "jpeg_lossless": ["dcmcjpeg", "+el", "+sv", "6"],
    "jpeg_lossless_sv1": ["dcmcjpeg", "+e1"],
    "jpeg_ls": ["dcmcjpls", "+el"],
    "jpeg_ls_near": ["dcmcjpls", "+en", "+md", "2"],
    "rle": ["dcmcrle"],
}
NOT_BY_DCMTK = {("jpeg_extended", "signed"), ("jpeg_ls_near", "signed")}  # 12 bits; unsigned only
# OpenJPH orders by resolution, position, component: what RPCL asks for and the others allow.
OPENJPH = {
    "htj2k_lossless": (HTJ2KLossless, True),
    "htj2k_lossless_rpcl": (HTJ2KLosslessRPCL, True),
    "htj2k_lossy": (HTJ2KLossy, False),
}


def sources() -> dict[str, tuple]:
    """Kind of stored value -> stored values, and the object that holds them unpacked."""
    hu = head_hu()
    gray = np.clip(hu + 100, 0, 200).astype("u1")
    eight = dict(BitsAllocated=8, BitsStored=8, HighBit=7, RescaleIntercept=-100)
    sixteen = dict(BitsStored=16, HighBit=15, PixelRepresentation=1, RescaleIntercept=0)
    signed = hu.astype("<i2")
    return {
        "unsigned": ((hu + 1024).astype("<u2"), ct(**UIDS)),
        "signed": (signed, ct(**UIDS | sixteen, PixelData=signed.tobytes())),
        "gray": (gray, ct(**UIDS | eight, PixelData=gray.tobytes())),
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        plain = Path(made) / "plain.dcm"
        for kind, (stored, ds) in sources().items():
            plain.write_bytes(encoded(ds))
            for name, command in DCMTK.items():
                if ("baseline" in name) != (kind == "gray") or (name, kind) in NOT_BY_DCMTK:
                    continue
                target = FOLDER / f"{name}_{kind}.dcm"
                subprocess.run([*command, "+un", str(plain), str(target)], check=True)
            for name, (syntax, reversible) in OPENJPH.items():
                if kind == "gray":
                    continue
                stream = imagecodecs.htj2k_encode(stored, reversible=reversible)
                ds.PixelData = encapsulate([stream])
                ds["PixelData"].is_undefined_length = True
                ds.file_meta.TransferSyntaxUID = UID(syntax)
                (FOLDER / f"{name}_{kind}.dcm").write_bytes(encoded(ds))


if __name__ == "__main__":
    sys.exit(main())
