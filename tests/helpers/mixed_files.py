"""Makes a folder of random good, odd and broken files, and runs `clean` over it.

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
from collections import Counter
from pathlib import Path

from pydicom.data import DATA_ROOT

from data_builder.pseudonyms import Pseudonyms
from tests.helpers import ROOT
from tests.helpers.broken_files import MUTATIONS, SECRET, inflating_file, small
from tests.helpers.source_folder import contents


def not_scans(rng: random.Random) -> dict[str, bytes]:
    """Other files that folders hold, by name."""
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
    (deep / "slice").write_bytes(small(random.Random(5)))
    (folder / "link to a slice").symlink_to(deep / "slice")
    (folder / "nothing in it").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.dcm")).write_bytes(small(random.Random(6)))
    hole = folder / "hole.dcm"
    hole.write_bytes(bytes(128) + b"DICM" + small(random.Random(7))[132:])
    os.truncate(hole, 200_000_000)


def make_folder(folder: Path, count: int, seed: int, good: list[Path], bombs: bool = True) -> None:
    """Fills `folder` with `count` files; `good` are DICOM files to take from.

    `bombs` are files that inflate to gigabytes: ten seconds each.
    """
    rng = random.Random(seed)
    warnings.simplefilter("ignore")  # of pydicom, about the impossible values that are written
    compressed = sorted((ROOT / "tests/compressed").glob("*.dcm"))
    pydicoms = sorted(p for p in Path(DATA_ROOT, "test_files").rglob("*") if p.is_file())
    folder.mkdir(parents=True)
    subfolders = [folder / f"{SECRET} {k}" / f"series {k % 3}" for k in range(12)]
    for subfolder in subfolders:
        subfolder.mkdir(parents=True)
    specials(folder)
    odd = not_scans(rng) | (
        {"bomb": inflating_file(1000), "larger bomb": inflating_file(12000)} if bombs else {}
    )
    for name, data in odd.items():
        (rng.choice(subfolders) / name).write_bytes(data)
    for path in rng.sample(pydicoms, min(len(pydicoms), count // 5)):
        (rng.choice(subfolders) / f"{rng.randrange(10**9)}{path.name}").write_bytes(
            path.read_bytes()
        )
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
        (rng.choice(subfolders) / rng.choice([f"{number}", f"IM{number:05d}.dcm"])).write_bytes(
            data
        )


def entries(folder: Path) -> list[str]:
    """Every path below `folder` that is no folder, listed without the package's `walk`."""
    paths = []
    with os.scandir(folder) as inside:
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                paths += [f"{entry.name}/{path}" for path in entries(Path(entry.path))]
            else:
                paths.append(entry.name)
    return paths


_KEY = b"a key for odd files"


def key_file(src: Path) -> Path:
    """A key beside the folder: pydicom's files are of people, which the public key is not for."""
    path = src.with_name(f"{src.name}.key")
    path.write_bytes(_KEY)
    return path


def clean(src: Path, out: Path, jobs: int, kill_after: float = 0.0) -> tuple[int, str]:
    """Exit status and output of one run, which is killed after so many seconds if not 0."""
    command = [sys.executable, "-m", "data_builder", "clean", src, "--out", out]
    command += ["--key", key_file(src), "--jobs", str(jobs)]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if kill_after:
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=1200)
    return process.returncode, output.decode(errors="replace")


def check(src: Path, out: Path, output: str) -> Counter:
    """Asserts that every file is in one table and no name got out; counts files by outcome."""
    files = sorted(Pseudonyms(_KEY).file(path) for path in entries(src))
    with (out / "manifest.csv").open(newline="") as table:
        used = {row["file"] for row in csv.DictReader(table)}
    with (out / "refused.csv").open(newline="") as table:
        refused = list(csv.DictReader(table))
    listed = sorted([*used, *(row["file"] for row in refused)])
    assert listed == files, f"{len(listed)} rows for {len(files)} files"
    assert "Traceback" not in output, output
    assert SECRET not in output, output
    for path in out.rglob("*"):
        assert SECRET not in str(path.relative_to(out))
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    return Counter({"used": len(used)}) + Counter(row["reason"] for row in refused)


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
        status, output = clean(base / "src", base / "whole", jobs=2)
        took = time.monotonic() - start
        counts = check(base / "src", base / "whole", output)
        print(f"{sum(counts.values())} files in {took:.0f} s, exit status {status}: {dict(counts)}")
        assert status == 1, output
        rng = random.Random(args.seed)
        for turn in range(4):
            after = rng.uniform(0.3, 0.5 * took)
            status, _ = clean(base / "src", base / "killed", 1 + turn % 2, kill_after=after)
            print(f"killed after {after:.1f} s: exit status {status}")
        status, output = clean(base / "src", base / "killed", 2)
        check(base / "src", base / "killed", output)
        same = contents(base / "whole") == contents(base / "killed")
        print("killed four times and gone on:", "the same bytes" if same else "OTHER BYTES")
        assert same


if __name__ == "__main__":
    main()
