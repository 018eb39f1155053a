"""Times cleaning against the paper's steps as a user would write them.

Each round does the same files in every way, in turn, so that a busy machine slows all alike; what
is printed are medians over rounds, and for ratios the median and range of each round's own ratio.
Processor seconds (user and system, of all processes) tell a busy machine from more work.

    python benchmarks/clean.py [--slices 120] [--rounds 7] [--subjects 24] [--src FOLDER_OF_DICOM]
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing import forkserver
from pathlib import Path

import cv2
import numpy as np
import pydicom
from skimage.morphology import dilation, disk, erosion

from data_builder.cleaning.clean_file import Task, clean_file
from data_builder.cleaning.clean_folder import clean_folder
from data_builder.files import walk
from data_builder.phantom import write_studies
from data_builder.pseudonyms import PUBLIC_KEY


def paper_steps(path: Path, out: Path) -> None:
    """The published notebook's way with OpenCV and scikit-image: read, clean, save as JPG."""
    dataset = pydicom.dcmread(path)
    hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    hu = np.clip(hu, 0, 80)
    low, high = hu.min(), hu.max()
    gray = ((hu - low) / max(high - low, 1) * 255).astype(np.uint8)
    mask = erosion(gray > 3, disk(3)).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if contours:
        largest = max(range(len(contours)), key=lambda i: cv2.contourArea(contours[i]))
        for index in range(len(contours)):
            if index != largest:
                cv2.drawContours(mask, contours, index, 0, -1)
    mask = dilation(mask, disk(3))
    mask[:, 0] = mask[:, -1] = 0
    cv2.floodFill(mask, None, (1, 1), 255)
    gray[mask == 255] = 0
    cv2.imwrite(str(out / f"{path.stem}.jpg"), gray)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time of one call."""
    start, used = time.perf_counter(), processor()
    work()
    return time.perf_counter() - start, processor() - used


def one_by_one(src: Path, paths: list[Path], mode: str, image_format: str) -> None:
    """Cleans files in this process."""
    with tempfile.TemporaryDirectory() as out:
        for index, path in enumerate(paths):
            name = str(path.relative_to(src))
            task = Task(str(src), name, f"fil-{index}", out, mode, image_format, PUBLIC_KEY)
            assert not clean_file(task).refused


def reference(paths: list[Path]) -> None:
    """Cleans files by the paper's steps, in this process."""
    with tempfile.TemporaryDirectory() as out:
        for path in paths:
            paper_steps(path, Path(out))


def folder(src: Path, jobs: int) -> None:
    """Cleans a folder with so many processes, their start and the tables included."""
    with tempfile.TemporaryDirectory() as out:
        clean_folder(src, Path(out), jobs=jobs, key="public")
        forkserver._forkserver._stop()  # its children's time counts once it has ended


def processor() -> float:
    """User and system seconds of this process and of all that it started and that ended."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def spread(values: list[float], digits: int) -> str:
    """Median and range."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=120, help="that each way does in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--subjects", type=int, default=24, help="of the phantoms in the folder")
    parser.add_argument("--src", type=Path, help="folder of DICOM (default: phantoms are made)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as made:
        src = args.src
        if src is None:
            src = Path(made)
            write_studies(src, subjects=args.subjects, seed=3, jobs=None)
        paths = [src / path for path in walk(src) if path.suffix == ".dcm"]
        some = paths[:: max(1, len(paths) // args.slices)][: args.slices]
        ways: dict[str, Callable[[], object]] = {
            "paper's steps, OpenCV and scikit-image, JPG": lambda: reference(some),
            "clean --mode paper, JPG": lambda: one_by_one(src, some, "paper", "jpg"),
            "clean --mode robust, JPG": lambda: one_by_one(src, some, "robust", "jpg"),
            "clean --mode robust, PNG (default)": lambda: one_by_one(src, some, "robust", "png"),
        }
        folders: dict[str, Callable[[], object]] = {
            "clean, 1 job": lambda: folder(src, 1),
            "clean, 2 jobs": lambda: folder(src, 2),
        }
        times: dict[str, list[float]] = {name: [] for name in ways | folders}
        used: dict[str, list[float]] = {name: [] for name in ways | folders}
        for turn in range(args.rounds + 1):
            for name, work in (ways | folders).items():
                took, worked = seconds(work)
                if turn:  # the first round warms caches
                    times[name].append(took)
                    used[name].append(worked)
        print(f"load average {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores")
        print(f"{len(some)} slices, {args.rounds} rounds; median (lowest to highest)\n")
        print("| way | ms a slice | processor ms a slice | times as fast as the first |")
        print("|---|---|---|---|")
        show(ways, times, used, 1000 / len(some), 1)
        print(f"\n| {len(paths)} slices as a folder | s | processor s | times as fast as 1 job |")
        print("|---|---|---|---|")
        show(folders, times, used, 1.0, 2)


def show(names: Iterable[str], times: dict, used: dict, scale: float, digits: int) -> None:
    """A row for each way; ratios are of wall times, to the first way."""
    first = times[next(iter(names))]
    for name in names:
        ratios = [a / b for a, b in zip(first, times[name], strict=True)]
        wall, cpu = ([scale * value for value in kind[name]] for kind in (times, used))
        print(f"| {name} | {spread(wall, digits)} | {spread(cpu, digits)} | {spread(ratios, 2)} |")


if __name__ == "__main__":
    main()
