"""A folder of good, odd and broken files, made by chance, and `clean` run over it.

    python -m tests.helpers.mixed_files [--files 800] [--seed S] [--src FOLDER_OF_DICOM] [--out DIR]

Good files are phantom slices, those of --src, and small objects in every transfer syntax; odd ones
are pydicom's own test files and files that are no scans; broken ones are good ones after a
mutation. `clean` runs over them in its own process, is killed a few times, and goes on. It fails
on a traceback, a file that is not in exactly one table, bytes that differ from those of a run
that was never killed, or a name that gets out.
"""

import argparse
import csv
import io
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.data import DATA_ROOT
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from tests.helpers import ROOT
from tests.helpers.dicom_files import ct, encoded, enhanced, head_hu

SECRET = "QUIXOTE"
Chance = random.Random
_VRS = (b"US", b"SS", b"UL", b"DS", b"IS", b"OB", b"OW", b"SQ", b"UN", b"PN", b"AT", b"ZZ", b"\0\0")


def small(rng: Chance) -> bytes:
    """A small CT object in a syntax and layout by chance."""
    side = rng.choice([48, 64, 96])
    hu = head_hu(side, rng.choice([side, side + 16])) + rng.randrange(30)
    uid = f"1.2.{rng.randrange(1, 10**9)}"
    ds = ct(
        hu,
        SOPInstanceUID=f"{uid}.1",
        StudyInstanceUID=f"1.2.{rng.randrange(1, 20)}",
        PatientName=f"{SECRET}^{rng.randrange(99)}",
        PatientID=f"{SECRET}{rng.randrange(9)}",
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


def _tags_changed(data: bytes, rng: Chance) -> bytes:
    """Elements dropped, emptied or given a value that makes no sense."""
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
        except Exception:  # pydicom neither reads nor writes all nonsense
            continue
    return data


def _patched(data: bytes, rng: Chance, what: bytes, low: int = 132) -> bytes:
    at = rng.randrange(low, max(low + 1, len(data) - len(what)))
    return data[:at] + what + data[at + len(what) :]


def _vr_changed(data: bytes, rng: Chance) -> bytes:
    places = [i for vr in (b"US", b"DS", b"UI", b"LO", b"CS", b"OW") for i in _all(data, vr)]
    return _at(data, rng.choice(places), rng.choice(_VRS)) if places else data


def _all(data: bytes, what: bytes) -> list[int]:
    return [i for i in range(len(data[:4000])) if data[i : i + len(what)] == what]


def _at(data: bytes, where: int, what: bytes) -> bytes:
    return data[:where] + what + data[where + len(what) :]


def _flipped(data: bytes, rng: Chance) -> bytes:
    changed = bytearray(data)
    reach = rng.choice([400, 1500, len(data)])
    for _ in range(rng.choice([1, 3, 20, 200])):
        changed[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _swapped(data: bytes, rng: Chance) -> bytes:
    a, b = sorted(rng.sample(range(132, len(data) - 40), 2))
    n = rng.randrange(4, 40)
    return data[:a] + data[b : b + n] + data[a + n : b] + data[a : a + n] + data[b + n :]


def _other_syntax(data: bytes, rng: Chance) -> bytes:
    at = data.find(b"1.2.840.10008.1.2", 140)
    other = rng.choice(["4.50", "4.57", "4.70", "4.80", "4.90", "4.201", "4.100", "5", "1.99", "2"])
    return data if at < 0 else _at(data, at, f"1.2.840.10008.1.2.{other}".encode())


def _nested(data: bytes, rng: Chance) -> bytes:
    """Sequences in sequences in sequences, thousands deep."""
    deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    at = data.find(b"\x08\x00\x16\x00")
    return data[: max(at, 0)] + deep * rng.randrange(10, 20000) + data[max(at, 0) :]


def _bomb(megabytes: int) -> bytes:
    """A small deflated file that inflates to so much."""
    ds = ct()
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = encoded(ds)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = whole[: whole.find(b"1.2.840.10008.1.2.1.99") + 22]
    zeros = bytes(1 << 24)
    parts = [squeeze.compress(b"\xe0\x7f\x10\x00OW\0\0" + (1 << 30).to_bytes(4, "little"))]
    parts += [squeeze.compress(zeros) for _ in range(megabytes // 16)]
    return head + b"".join(parts) + squeeze.flush()


MUTATIONS: dict[str, Callable[[bytes, Chance], bytes]] = {
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


def not_scans(rng: Chance) -> dict[str, bytes]:
    """What lies about in folders, by name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.dcm", small(rng))
    jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + rng.randbytes(400) + b"\xff\xd9"
    return {
        "empty.dcm": b"",
        "one byte": b"\x08",
        "readme.txt": f"about {SECRET}".encode(),
        "photo.dcm": jpeg,
        "all.zip": packed.getvalue(),
        "zeros.dcm": bytes(5000),
        "noise.dcm": rng.randbytes(3000),
        "noise behind a preamble.dcm": bytes(128) + b"DICM" + rng.randbytes(3000),
        "preamble.dcm": bytes(128) + b"DICM",
        ".DS_Store": b"\0\0\0\1Bud1",
        "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(500),
        "a\nline": b"x",
        'commas, "quotes".dcm': small(rng),
        "-rf": b"x",
        "name with ümlaut": small(rng),
        "w" * 250: small(rng),
        "image.dcm.tmp": small(rng)[:100],
    }


def specials(folder: Path) -> None:
    """Links, pipes, sockets, deep folders, a file name that is not UTF-8, a huge hole."""
    (folder / "dead link.dcm").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "up").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket must be short
        end.bind("socket")
        os.chdir(here)
    deep = folder.joinpath(*["deep"] * 40)
    deep.mkdir(parents=True)
    (deep / "slice").write_bytes(small(Chance(5)))
    (folder / "link to a slice").symlink_to(deep / "slice")
    (folder / "nothing in it").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.dcm")).write_bytes(small(Chance(6)))
    hole = folder / "hole.dcm"
    hole.write_bytes(bytes(128) + b"DICM" + small(Chance(7))[132:])
    os.truncate(hole, 200_000_000)


def make_folder(folder: Path, count: int, seed: int, good: list[Path], bombs: bool = True) -> None:
    """Fills `folder` with `count` files; `good` are DICOM files to take from.

    `bombs` are files that inflate to gigabytes: ten seconds each.
    """
    rng = Chance(seed)
    warnings.simplefilter("ignore")  # pydicom's, of the nonsense that is written
    compressed = sorted((ROOT / "tests/compressed").glob("*.dcm"))
    pydicoms = sorted(p for p in Path(DATA_ROOT, "test_files").rglob("*") if p.is_file())
    folder.mkdir(parents=True)
    places = [folder / f"{SECRET} {k}" / f"series {k % 3}" for k in range(12)]
    for place in places:
        place.mkdir(parents=True)
    specials(folder)
    odd = not_scans(rng) | ({"bomb": _bomb(1000), "larger bomb": _bomb(12000)} if bombs else {})
    for name, data in odd.items():
        (rng.choice(places) / name).write_bytes(data)
    for path in rng.sample(pydicoms, min(len(pydicoms), count // 5)):
        (rng.choice(places) / f"{rng.randrange(10**9)}{path.name}").write_bytes(path.read_bytes())
    kinds = sorted(MUTATIONS)
    made = sum(not path.is_dir() or path.is_symlink() for path in folder.rglob("*"))
    for number in range(count - made):
        draw = rng.random()
        if draw < 0.35 and good:
            data = rng.choice(good).read_bytes()
        elif draw < 0.45:
            data = rng.choice(compressed).read_bytes()
        elif draw < 0.55:
            data = rng.choice(pydicoms).read_bytes()
        else:
            data = small(rng)
        if number % 3 and len(data) > 200:
            for kind in rng.choices(kinds, k=rng.choice([1, 1, 1, 2])):
                data = MUTATIONS[kind](data, rng) if len(data) > 200 else data
        (rng.choice(places) / rng.choice([f"{number}", f"IM{number:05d}.dcm"])).write_bytes(data)


def entries(folder: Path) -> list[str]:
    """Every path below `folder` that is no folder of its own, found without the package's help."""
    found = []
    with os.scandir(folder) as inside:
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                found += [f"{entry.name}/{path}" for path in entries(Path(entry.path))]
            else:
                found.append(entry.name)
    return found


def clean(src: Path, out: Path, jobs: int, kill_after: float = 0.0) -> tuple[int, str]:
    """Exit status and all that was said by one run, killed after so many seconds if not 0."""
    command = [sys.executable, "-m", "data_builder", "clean", src, "--out", out]
    command += ["--key", "public", "--jobs", str(jobs)]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if kill_after:
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=1200)
    return process.returncode, said.decode(errors="replace")


def check(src: Path, out: Path, said: str) -> Counter:
    """Asserts that all of `src` is accounted for and nothing got out; counts what became of it."""
    files = sorted(Pseudonyms(PUBLIC_KEY).file(path) for path in entries(src))
    with (out / "manifest.csv").open(newline="") as table:
        used = {row["file"] for row in csv.DictReader(table)}
    with (out / "refused.csv").open(newline="") as table:
        refused = list(csv.DictReader(table))
    told = sorted([*used, *(row["file"] for row in refused)])
    assert told == files, f"{len(told)} rows for {len(files)} files"
    assert "Traceback" not in said, said
    assert SECRET not in said, said
    for path in out.rglob("*"):
        assert SECRET not in str(path.relative_to(out))
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    return Counter({"used": len(used)}) + Counter(row["reason"] for row in refused)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--src", type=Path, help="folder of DICOM to take good files from, too")
    parser.add_argument("--out", type=Path, help="folder to keep all in (default: none is kept)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        from data_builder.phantom import write_studies

        base = args.out or Path(made)
        write_studies(base / "phantoms", subjects=2, seed=args.seed, jobs=2)
        good = sorted((base / "phantoms").rglob("*.dcm"))
        if args.src:
            good += sorted(p for p in args.src.rglob("*") if p.is_file())
        make_folder(base / "src", args.files, args.seed, good)
        start = time.monotonic()
        status, said = clean(base / "src", base / "whole", jobs=2)
        took = time.monotonic() - start
        counts = check(base / "src", base / "whole", said)
        print(f"{sum(counts.values())} files in {took:.0f} s, exit status {status}: {dict(counts)}")
        assert status == 1, said
        rng = Chance(args.seed)
        for turn in range(4):
            after = rng.uniform(0.3, 0.5 * took)
            status, _ = clean(base / "src", base / "killed", 1 + turn % 2, kill_after=after)
            print(f"killed after {after:.1f} s: exit status {status}")
        status, said = clean(base / "src", base / "killed", 2)
        check(base / "src", base / "killed", said)
        same = contents(base / "whole") == contents(base / "killed")
        print("killed four times and gone on:", "the same bytes" if same else "OTHER BYTES")
        assert same


if __name__ == "__main__":
    main()
