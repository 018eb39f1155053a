"""Measures slices a second into the step, against torchvision's DataLoader with two workers.

    python benchmarks/input_pipeline.py [--source SRC] [--rounds 15] [--torch PYTHON]

SRC is a folder in the published layout (512 x 512 JPG); without it, phantoms are cleaned to
such files first. PYTHON has torchvision (.venv-parity, by `./launch.sh parity`). Both sides
see each training slice once an epoch, shuffled, in batches of 32, and both are counted to the
float32 tensor, [32, 224, 224, 3] or [32, 3, 224, 224], that a model takes:

    this      shards at 256 pixels; crop, rotation, sharpness and normalisation compiled, on the CPU
    torch     Resize(256), CenterCrop(224), RandomRotation(15), RandomAdjustSharpness(2), ToTensor,
              Normalize of the JPGs; 2 workers that stay alive, in a process of its own
    torch256  the same of the shards' 256-pixel slices, as PNG files (not compressed)

They run in turn on the same two cores, each round once: this in its first epoch (nothing decoded
yet; opening the data set and reading its labels is timed by itself), this in its second epoch (from
memory), torch, torch256. Compiling and starting the workers come before the first round. What is
printed are medians over the rounds, with the least and the largest, and of the ratio in each round.
`--profile` prints where the time of a first epoch goes instead, one thread, without torch.
"""

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BATCH, SIDE = 32, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def serve_torch(folders: list[Path]) -> None:
    """Reads a folder's number from each line, and prints slices and seconds of an epoch of it."""
    import torch
    from PIL import Image

    from tests.helpers.make_references import import_torchvision

    transforms = import_torchvision().transforms

    class Slices(torch.utils.data.Dataset):
        def __init__(self, folder: Path) -> None:
            self.paths = sorted(folder.iterdir())
            self.transform = transforms.Compose(
                [
                    transforms.Resize(256),
                    transforms.CenterCrop(SIDE),
                    transforms.RandomRotation(15),
                    transforms.RandomAdjustSharpness(2),
                    transforms.ToTensor(),
                    transforms.Normalize(MEAN, STD),
                ]
            )

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> torch.Tensor:
            with Image.open(self.paths[i]) as image:
                return self.transform(image.convert("RGB"))

    options: dict[str, Any] = {"shuffle": True, "drop_last": True, "persistent_workers": True}
    loaders = [
        torch.utils.data.DataLoader(Slices(folder), BATCH, num_workers=2, **options)
        for folder in folders
    ]
    for line in sys.stdin:
        started, n = time.perf_counter(), 0
        for batch in loaders[int(line)]:
            n += len(batch)
        print(json.dumps([n, time.perf_counter() - started]), flush=True)


@contextlib.contextmanager
def torch_loaders(python: str, folders: list[Path]) -> Iterator[Callable[[int], float]]:
    """Yields a function from a folder's number to the slices a second of an epoch of it."""
    command = [python, __file__, "--serve", *map(str, folders)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def rate(folder: int) -> float:
            print(folder, file=stdin, flush=True)
            n, seconds = json.loads(stdout.readline())
            return n / seconds

        yield rate
        stdin.close()


def prepare(source: Path | None, place: Path) -> tuple[Path, list[Path]]:
    """Builds the data set, and folders of its training slices, 512-pixel JPG and 256-pixel PNG."""
    import cv2

    from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
    from data_builder.shards.build import build
    from data_builder.shards.sources import open_source
    from data_builder.shards.split_file import read_splits
    from data_builder.shards.splits import SplitPlan
    from dtvit_jax.data.shards import Shards

    if source is None:
        from data_builder.cleaning.clean_folder import clean_folder
        from data_builder.phantom import write_studies

        write_studies(place / "scans", 40, 0)
        source = place / "cleaned"
        clean_folder(place / "scans", source, key="public", image_format="jpg")
    opened = open_source(source, Pseudonyms(PUBLIC_KEY))
    data = build(opened, place / "data", SplitPlan())
    trains = {r["key"] for r in read_splits(data / "splits.csv") if r["split"] == "train"}
    folders = [place / "jpg", place / "png"]
    for folder in folders:
        folder.mkdir()
    for record in opened.records:
        if record.key in trains:
            (folders[0] / f"{record.key}.jpg").symlink_to(Path(record.image).resolve())
    source_of = Shards(data).source("train")
    plain = [cv2.IMWRITE_PNG_COMPRESSION, 0, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    for i in range(len(source_of)):
        cv2.imwrite(str(folders[1] / f"{i:06d}.png"), source_of[i]["image"], plain)
    return data, folders


def make_transform() -> Callable:
    """Returns the compiled transform of the paper's recipe."""
    import jax

    from dtvit_jax.data.augment import transform

    whole = ((0.0, 255.0),) * 3
    options: dict[str, Any] = {"windows": whole, "mean": MEAN, "std": STD}
    return jax.jit(functools.partial(transform, image_size=SIDE, channels=3, **options))


def make_examples(data: Path) -> Any:
    """Returns the training examples of a data set opened anew, with no slice decoded yet."""
    from dtvit_jax.data.augment import Augmentation
    from dtvit_jax.data.examples import TrainingExamples
    from dtvit_jax.data.shards import Shards

    paper = Augmentation(15.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0)
    return TrainingExamples(Shards(data).source("train"), "none", paper, seed=0)


def two_epochs(data: Path, transform: Callable) -> tuple[float, float, float]:
    """Returns the seconds of opening, and slices a second of the first and of the second epoch."""
    import jax

    from dtvit_jax.data.loader import Prefetched, training_batches

    started = time.perf_counter()
    examples = make_examples(data)
    times = [time.perf_counter() - started]
    batches_an_epoch = examples.epoch_length // BATCH
    batches = Prefetched(training_batches(examples, BATCH), jax.device_put)
    with contextlib.closing(batches):
        for _ in range(2):
            started, ready = time.perf_counter(), None
            for _ in range(batches_an_epoch):
                batch = batches.take(busy=ready)
                ready = transform(batch["image"], batch["augmentation"])
            jax.block_until_ready(ready)
            seconds = time.perf_counter() - started
            times.append(batches_an_epoch * BATCH / seconds)
    return times[0], times[1], times[2]


def profile(data: Path, transform: Callable) -> None:
    """Prints the processor milliseconds a slice of each part of a first epoch."""
    import jax
    import numpy as np

    from dtvit_jax.data.augment import Augmentation
    from dtvit_jax.data.loader import stacked
    from dtvit_jax.data.shards import stored_pixels

    examples = make_examples(data)
    source = examples._source
    n = len(source) // BATCH * BATCH
    paper = Augmentation(15.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0)
    records = [source._records[i] for i in range(n)]
    images = [stored_pixels(record, 256) for record in records]
    batch = np.stack(images[:BATCH]), paper.draw(0, 0, BATCH)
    parts: dict[str, Callable[[], Any]] = {
        "read a record": lambda: [source._records[i] for i in range(n)],
        "parse its pixels": lambda: [stored_pixels(record, 256) for record in records],
        "draw its parameters": lambda: paper.draw(0, 0, n),
        "stack a batch": lambda: [
            stacked([{"image": image} for image in images[i : i + BATCH]])
            for i in range(0, n, BATCH)
        ],
        "opening and all of that (a first epoch's batches)": lambda: [
            stacked([make[i] for i in range(start, start + BATCH)])
            for make in [make_examples(data)]
            for start in range(0, n, BATCH)
        ],
        "transform": lambda: [jax.block_until_ready(transform(*batch)) for _ in range(0, n, BATCH)],
    }
    print("| part | processor ms a slice, median of 7 (least to largest) |\n|---|---|")
    for name, part in parts.items():
        part()
        taken = []
        for _ in range(7):
            started = time.process_time()
            part()
            taken.append((time.process_time() - started) / n * 1e3)
        print(f"| {name} | {spread(taken, 3)} |")


def spread(values: list[float], digits: int = 0) -> str:
    ordered = sorted(values)
    median, least, most = ordered[len(ordered) // 2], ordered[0], ordered[-1]
    return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="slices in the published layout")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--torch", default=".venv-parity/bin/python", help="Python with torchvision"
    )
    parser.add_argument(
        "--keep", type=Path, help="folder for the shards and files; kept and used again"
    )
    parser.add_argument("--profile", action="store_true", help="where a first epoch's time goes")
    parser.add_argument("--serve", type=Path, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if args.serve:
        serve_torch(args.serve)
        return
    from dtvit_jax.runtime import keep_freed_memory

    keep_freed_memory()  # as dtvit_jax.main does
    with contextlib.ExitStack() as stack:
        place = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepared = place / "prepared.json"
        if prepared.exists():
            data, *folders = map(Path, json.loads(prepared.read_text()))
        else:
            place.mkdir(parents=True, exist_ok=True)
            data, folders = prepare(args.source, place)
            prepared.write_text(json.dumps([str(data), *map(str, folders)]))
        transform = make_transform()
        two_epochs(data, transform)
        if args.profile:
            profile(data, transform)
            return
        torch_rate = stack.enter_context(torch_loaders(args.torch, folders))
        print(f"{len(list(folders[0].iterdir()))} training slices", flush=True)
        torch_rate(0), torch_rate(1)
        rounds = []
        for _ in range(args.rounds):
            opening, first, cached = two_epochs(data, transform)
            rounds.append((opening, first, cached, torch_rate(0), torch_rate(1)))
    opening, first, cached, jpg, png = map(list, zip(*rounds, strict=True))
    print(f"| slices a second, {args.rounds} rounds | median (least to largest) |\n|---|---|")
    print(f"| this, first epoch | {spread(first)} |")
    print(f"| this, later epochs, from memory | {spread(cached)} |")
    print(f"| torchvision, 512-pixel JPG | {spread(jpg)} |")
    print(f"| torchvision, the shards' 256-pixel PNG | {spread(png)} |")
    for name, mine in (("first epoch", first), ("later epochs", cached)):
        for whose, theirs in (("512-pixel JPG", jpg), ("256-pixel PNG", png)):
            ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
            print(f"| {name}, times torchvision's from {whose} | {spread(ratios, 1)} |")
    print(f"| opening: checksums and labels, seconds | {spread(opening, 3)} |")


if __name__ == "__main__":
    main()
