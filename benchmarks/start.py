"""Seconds from a process's start to the end of training step 1: no program kept yet, and kept.

    python benchmarks/start.py --out OUT [--model vit_l16] [--batch 4] [--scan] [--rounds 3]

Runs `python -m dtvit_jax.main` from random weights on phantoms (made once, in OUT), in each
round with an empty folder of compiled programs and then with what that run left there. Step 1 ends
when its loss is written to TensorBoard's file. Prints both medians with their range, and the peak
of resident memory.
"""

import argparse
import dataclasses
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

ROOT = Path(__file__).resolve().parents[1]


def make_data(out: Path) -> tuple[Path, int]:
    """Builds shards of 24 phantoms at 256 pixels, once; returns the training slices too."""
    from data_builder.cleaning.clean_folder import clean_folder
    from data_builder.phantom import write_studies
    from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
    from data_builder.shards.build import build
    from data_builder.shards.sources import open_source
    from data_builder.shards.splits import SplitPlan
    from dtvit_jax.data.shards import Shards

    made = out / "data" / "folder.txt"
    if not made.exists():
        write_studies(out / "scans", 24, 1)
        clean_folder(out / "scans", out / "cleaned", key="public", jobs=2)
        source = open_source(out / "cleaned", Pseudonyms(PUBLIC_KEY))
        source = dataclasses.replace(source, records=source.records[::6])
        made.write_text(str(build(source, out / "data", SplitPlan(), size=256).resolve()))
    shards = Shards(Path(made.read_text()))
    return shards.folder, len(shards.source("train"))


def events(folder: Path) -> Iterator[Event]:
    """The events in TensorBoard's files: records of length, checksum, bytes, checksum."""
    for path in sorted(folder.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16


def run(out: Path, data: Path, args: argparse.Namespace) -> float:
    """Seconds from the start of the command to the end of step 1."""
    workdir = out / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    fields = {
        "data.dir": data,
        "data.key": "public",
        "init_from": "scratch",
        "model.name": args.model,
        "model.scan": args.scan,
        "batch_size": args.batch,
        "eval_batch_size": args.batch,
        "num_epochs": 0,
        "num_steps": 1,
    }
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    recipe = f"--config={ROOT / 'configs' / 'vit_l.py'}"
    command = [sys.executable, "-m", "dtvit_jax.main", recipe, f"--workdir={workdir}", *words]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(out / "programs")}
    start = time.time()
    subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return next(e for e in events(workdir / "tensorboard") if e.step == 1).wall_time - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="vit_l16")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--scan", action="store_true", help="one compiled block for all")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    data, train = make_data(args.out)
    print(f"{args.model}, batch {args.batch}: {train} slices to train on")
    seconds: dict[str, list[float]] = {"no program kept": [], "programs kept": []}
    for _ in range(args.rounds):
        shutil.rmtree(args.out / "programs", ignore_errors=True)
        for times in seconds.values():
            times.append(run(args.out, data, args))
            print(f"{times[-1]:.1f} s", flush=True)
    for kind, times in seconds.items():
        middle, low, high = statistics.median(times), min(times), max(times)
        print(f"{kind}: {middle:.1f} s ({low:.1f} to {high:.1f}) to the end of step 1")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
