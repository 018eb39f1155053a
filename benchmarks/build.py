"""Times the build of shards at the published data's size: seconds, memory, cost of the checks.

    python benchmarks/build.py --source SRC [--times 1] [--out DIR]

SRC is a folder in the published layout. Its slices are turned, scaled and mirrored into
12,651 x TIMES others (512 x 512 JPG, quality 95) in the published proportions and 30 slices a
subject, each subject changed in its own way, so that hardly any is a copy; that is not timed. Then
`data_builder build` runs in a process of its own (size 256, split by subject), once for the build
and once more to see that it returns at once; the check of every shard's bytes, as at each opening,
is timed too. Memory is the most that the build's process held (ru_maxrss).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.records import CLASSES
from data_builder.shards.files import damaged_shards, data_sets
from data_builder.shards.sources import open_source

PUBLISHED = {"normal": 4407, "deep": 6093, "lobar": 1656, "subtentorial": 495}
SLICES_A_SUBJECT = 30


def transformed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotates a slice, scales it along both axes and mirrors it with probability 0.5."""
    turn = cv2.getRotationMatrix2D((256, 256), rng.uniform(-25, 25), 1.0)
    scale = np.diag([*rng.uniform(0.85, 1.05, 2), 1.0])
    scale[:2, 2] = 256 * (1 - np.diag(scale)[:2]) + rng.uniform(-15, 15, 2)
    changed = cv2.warpAffine(image, turn @ scale, (512, 512))
    return changed[:, ::-1] if rng.random() < 0.5 else changed


def write_source(source: Path, out: Path, times: int) -> int:
    """Writes TIMES times the published numbers of slices; returns how many."""
    records = open_source(source, Pseudonyms(PUBLIC_KEY)).records
    total = 0
    for name in CLASSES:
        images = [cv2.imread(r.image, cv2.IMREAD_GRAYSCALE) for r in records if r.stratum == name]
        place = out / ("no" if name == "normal" else f"yes/{name.capitalize()}")
        place.mkdir(parents=True)
        for i in range(times * PUBLISHED[name]):
            subject, number = divmod(i, SLICES_A_SUBJECT)
            person = np.random.default_rng([CLASSES.index(name), subject])
            image = images[int(person.integers(len(images)) + number) % len(images)]
            stem = f"{number:04d}-1{subject}x"
            if name != "normal":
                stem = f"{number:04d}-2020_filtered-1x-{CLASSES.index(name)}{subject:05d}"
            ok = cv2.imwrite(str(place / f"{stem}.jpg"), transformed(image, person))
            assert ok
            total += 1
    return total


def build(source: Path, data: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and MiB of one call of the build command."""
    command = [sys.executable, "-m", "data_builder", "build", str(source)]
    before, started = os.times(), time.monotonic()
    subprocess.run(
        [*command, "--data_dir", str(data), "--key", str(data.parent / "key")], check=True
    )
    seconds, after = time.monotonic() - started, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return seconds, cpu, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where to work (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        work = Path(folder)
        slices = write_source(args.source, work / "source", args.times)
        seconds, cpu, memory = build(work / "source", work / "data")
        again, _, _ = build(work / "source", work / "data")
        (made,) = data_sets(work / "data")
        started = time.monotonic()
        assert damaged_shards(made) == []
        check = time.monotonic() - started
        metadata = json.loads((made / "metadata.json").read_text())
        size = sum(path.stat().st_size for path in made.glob("*.array_record*"))
    near = metadata["audit"]["near_pairs_across_subjects"]
    print(f"slices: {slices}, near pairs across subjects: {near}")
    print(f"build: {seconds:.1f} s ({cpu:.1f} CPU s), {memory:.0f} MiB, {os.cpu_count()} cores")
    print(f"second call: {again:.1f} s")
    print(f"checksums of {size / 2**20:.0f} MiB of shards: {check:.2f} s")


if __name__ == "__main__":
    main()
