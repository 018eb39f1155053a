"""Small CT objects by chance, and mutations that break them."""

import io
import random
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.helpers.dicom_files import ct, encoded, enhanced, head_hu

SECRET = "QUIXOTE"
_VRS = (b"US", b"SS", b"UL", b"DS", b"IS", b"OB", b"OW", b"SQ", b"UN", b"PN", b"AT", b"ZZ", b"\0\0")


def small(rng: random.Random) -> bytes:
    """A small CT object in a random transfer syntax and layout."""
    side = rng.choice([48, 64, 96])
    hu = head_hu(side, rng.choice([side, side + 16])) + rng.randrange(30)
    uid = f"1.2.{rng.randrange(1, 10**9)}"
    study = rng.randrange(1, 20)
    ds = ct(
        hu,
        SOPInstanceUID=f"{uid}.1",
        StudyInstanceUID=f"1.2.{study}",
        PatientName=f"{SECRET}^{rng.randrange(99)}",
        PatientID=f"{SECRET}{study}",
        InstanceNumber=rng.randrange(1, 40),
        ImagePositionPatient=[0, 0, 5 * rng.randrange(30)],
    )
    kind = rng.randrange(10)
    if kind == 0:
        stack = np.stack([head_hu() + k for k in range(rng.randrange(1, 5))])
        places = tuple(5.0 * k for k in range(len(stack)))
        ds = enhanced(stack, places, SOPInstanceUID=f"{uid}.2", PatientName=SECRET)
    elif kind <= 3:
        ds.compress(rng.choice([RLELossless, JPEGLSLossless, JPEG2000Lossless]))
    elif kind <= 6:
        ds.file_meta.TransferSyntaxUID = rng.choice(
            [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
        )
    data = encoded(ds)
    return data[132:] if kind == 7 else data


def _tags_changed(data: bytes, rng: random.Random) -> bytes:
    """Elements dropped, emptied or given an impossible value."""
    for _ in range(rng.randrange(1, 4)):
        value = rng.choice([None, 0, -1, 65535, 2**31 - 1, "", "x" * 200, [1.5] * 7, b"\xff" * 9])
        try:
            ds = pydicom.dcmread(io.BytesIO(data), force=True)
            element = rng.choice(list(ds))
            if value is None:
                del ds[element.tag]
            else:
                element.value = value
            buffer = io.BytesIO()
            ds.save_as(buffer, enforce_file_format=True)
            data = buffer.getvalue()
        except Exception:  # pydicom neither reads nor writes every value
            continue
    return data


def _patched(data: bytes, rng: random.Random, patch: bytes, low: int = 132) -> bytes:
    return _at(data, rng.randrange(low, max(low + 1, len(data) - len(patch))), patch)


def _vr_changed(data: bytes, rng: random.Random) -> bytes:
    indices = [i for vr in (b"US", b"DS", b"UI", b"LO", b"CS", b"OW") for i in _all(data, vr)]
    return _at(data, rng.choice(indices), rng.choice(_VRS)) if indices else data


def _all(data: bytes, pattern: bytes) -> list[int]:
    return [i for i in range(len(data[:4000])) if data[i : i + len(pattern)] == pattern]


def _at(data: bytes, index: int, patch: bytes) -> bytes:
    return data[:index] + patch + data[index + len(patch) :]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    reach = rng.choice([400, 1500, len(data)])
    for _ in range(rng.choice([1, 3, 20, 200])):
        changed[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _swapped(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.sample(range(132, len(data) - 40), 2))
    n = rng.randrange(4, 40)
    return data[:a] + data[b : b + n] + data[a + n : b] + data[a : a + n] + data[b + n :]


def _other_syntax(data: bytes, rng: random.Random) -> bytes:
    at = data.find(b"1.2.840.10008.1.2", 140)
    other = rng.choice(["4.50", "4.57", "4.70", "4.80", "4.90", "4.201", "4.100", "5", "1.99", "2"])
    return data if at < 0 else _at(data, at, f"1.2.840.10008.1.2.{other}".encode())


def _nested(data: bytes, rng: random.Random) -> bytes:
    """Sequences in sequences in sequences, thousands deep."""
    deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    at = data.find(b"\x08\x00\x16\x00")
    return data[: max(at, 0)] + deep * rng.randrange(10, 20000) + data[max(at, 0) :]


def inflating_file(megabytes: int) -> bytes:
    """A small deflated file that inflates to so many megabytes."""
    ds = ct()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = encoded(ds)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = whole[: whole.find(b"1.2.840.10008.1.2.1.99") + 22]
    zeros = bytes(1 << 24)
    parts = [squeeze.compress(b"\xe0\x7f\x10\x00OW\0\0" + (1 << 30).to_bytes(4, "little"))]
    parts += [squeeze.compress(zeros) for _ in range(megabytes // 16)]
    return head + b"".join(parts) + squeeze.flush()


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": lambda data, rng: data[: rng.randrange(len(data))],
    "cut late": lambda data, rng: data[: -rng.randrange(1, 60)],
    "flipped": _flipped,
    "flipped more": _flipped,
    "swapped": _swapped,
    "zeroed": lambda data, rng: _patched(data, rng, bytes(rng.randrange(1, 600))),
    "noise": lambda data, rng: _patched(data, rng, rng.randbytes(rng.randrange(1, 3000))),
    "noise in pixels": lambda data, rng: _patched(data, rng, rng.randbytes(300), len(data) // 2),
    "inserted": lambda data, rng: data[:300] + rng.randbytes(rng.randrange(1, 9)) + data[300:],
    "huge length": lambda data, rng: _patched(data, rng, b"\xfe\xff\xff\xff"),
    "undefined length": lambda data, rng: _patched(data, rng, b"\xff\xff\xff\xff"),
    "wrong VR": _vr_changed,
    "other syntax": _other_syntax,
    "tags": _tags_changed,
    "more tags": _tags_changed,
    "twice": lambda data, rng: data + data,
    "tail": lambda data, rng: data + rng.randbytes(rng.randrange(1, 5000)),
    "header alone": lambda data, rng: data[: rng.choice([132, 133, 140, 200, 340])],
    "meta doubled": lambda data, rng: data[:132] + data[132:340] + data[132:],
    "nested": _nested,
}
