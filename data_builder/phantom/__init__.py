"""Made-up head-CT studies, written as real DICOM with their labels.

**Phantom results say nothing about patients.** Phantoms ask of the pipeline what a scanner would
(geometry, holder, noise, artefacts, pixel padding) and let cleaning be tested against truth; a
model that does well on them has learnt to see drawn blobs. How hard they are is fixed in
`data_builder.phantom.head.DIFFICULTY`.
"""

import csv
import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from data_builder.errors import InputError
from data_builder.phantom.dicom import NOTICE, patient_id, slice_uid, to_dicom
from data_builder.phantom.head import DIFFICULTY, HEAD_CLASSES, Difficulty, Tissue
from data_builder.phantom.scan import PhantomStudy, make_study
from data_builder.progress import track
from data_builder.records import LOCATIONS

__all__ = [
    "DIFFICULTY",
    "HEAD_CLASSES",
    "NOTICE",
    "Difficulty",
    "PhantomCounts",
    "PhantomStudy",
    "Tissue",
    "Visit",
    "make_study",
    "plan",
    "write_studies",
]

VERSION = 1
"""Raised by every change to the voxels or headers: an old folder is then not continued."""

LABEL_COLUMNS = ("study", "subject", "slice", "keep", "hemorrhage", "location")
_UNFINISHED = ".partial-"


class Visit(NamedTuple):
    """One study to make: a subject's first (0) or second (1) scan."""

    subject: int
    visit: int
    location: str | None

    @property
    def folder(self) -> str:
        """Name of the study's folder."""
        return f"phantom-{self.subject:04d}-{self.visit + 1}"


@dataclasses.dataclass(frozen=True)
class PhantomCounts:
    """What a folder of phantoms holds, and how many of its studies this run made."""

    subjects: int
    studies: int
    slices: int
    hemorrhage_slices: int
    made: int


def plan(subjects: int, seed: int) -> list[Visit]:
    """The studies of subjects 1 to `subjects`; a longer plan begins with a shorter one.

    Every ten subjects hold four normal ones and two of each location, in a shuffled order. Every
    fourth subject with a hemorrhage has a second study.
    """
    rng = np.random.default_rng((seed, 3))
    strata = [None] * 4 + [location for location in LOCATIONS for _ in range(2)]
    visits, bled = [], 0
    for subject in range(1, subjects + 1):
        if (subject - 1) % len(strata) == 0:
            order = rng.permutation(len(strata))
        location = strata[order[(subject - 1) % len(strata)]]
        visits.append(Visit(subject, 0, location))
        bled += location is not None
        if location is not None and bled % 4 == 0:
            visits.append(Visit(subject, 1, location))
    return visits


def write_studies(out: Path, subjects: int, seed: int, jobs: int | None = None) -> PhantomCounts:
    """Writes `out/<study>/<nnnn>.dcm`, `out/phantom.json` and, at the end, `out/labels.csv`.

    File names are in no order. The same arguments give the same bytes whatever `jobs` is (None:
    one for each core). A study is written aside and renamed when it is whole, then recorded in
    `phantom.json`; a second run makes only what is not recorded.

    Raises:
      InputError: a bad number; `out` is no folder, cannot be written, or holds anything else
        than phantoms of this seed and version.
    """
    if subjects < 1 or seed < 0 or (jobs is not None and jobs < 1):
        raise InputError(
            f"phantom: {subjects} subjects, seed {seed}, {jobs} jobs: give at least 1 subject, "
            "a seed of at least 0 and at least 1 job"
        )
    visits = plan(subjects, seed)
    try:
        record = _open_folder(out, visits, seed)
        todo = [v for v in visits if not _is_whole(out, v, record["studies"])]
        if todo:
            (out / "labels.csv").unlink(missing_ok=True)
            _write_whole(out / "phantom.json", _as_json(record))
        made = _make_all(out, todo, seed, min(jobs or os.cpu_count() or 1, len(todo)))
        for visit, hemorrhage in track(made, len(todo), "phantom studies"):
            record["studies"][visit.folder] = hemorrhage
            _write_whole(out / "phantom.json", _as_json(record))
        if not (out / "labels.csv").is_file():
            _write_whole(out / "labels.csv", _labels(visits, seed, record["studies"]))
    except OSError as error:
        raise InputError(
            f"phantom: cannot write to {out} ({error.strerror}): choose another --out"
        ) from error
    marks = "".join(record["studies"][v.folder] for v in visits)
    return PhantomCounts(subjects, len(visits), len(marks), marks.count("1"), len(todo))


def _open_folder(out: Path, visits: list[Visit], seed: int) -> dict[str, Any]:
    """The folder's record; a new one for a new or empty folder. Removes what a kill left."""
    fresh = {
        "phantom": True,
        "notice": NOTICE,
        "version": VERSION,
        "seed": seed,
        "difficulty": json.loads(json.dumps(dataclasses.asdict(DIFFICULTY))),
        "studies": {},
    }
    if out.exists() and not out.is_dir():
        raise InputError(f"phantom: {out} is a file: choose a folder for --out")
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return fresh
    try:
        record = json.loads((out / "phantom.json").read_text())
        same = all(record[key] == fresh[key] for key in fresh if key != "studies")
        known = {v.folder for v in visits}
        ours = same and set(record["studies"]) <= known
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        ours, known = False, set()
    if not ours or not names <= {"phantom.json", "labels.csv", *known}:
        raise InputError(
            f"phantom: {out} holds something else than phantoms of seed {seed}, this version and "
            "no more subjects: choose an empty folder for --out"
        )
    return record


def _is_whole(out: Path, visit: Visit, studies: dict[str, str]) -> bool:
    """Whether the study is recorded and all its files are there."""
    if visit.folder not in studies:
        return False
    return len(list((out / visit.folder).glob("*.dcm"))) == len(studies[visit.folder])


def _make_all(out: Path, visits: list[Visit], seed: int, jobs: int) -> Iterator[tuple[Visit, str]]:
    """Makes the studies in `jobs` processes; yields each with its slices' marks as it is done."""
    if jobs <= 1:
        for visit in visits:
            yield visit, _write_study(out, visit, seed)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
        futures = {pool.submit(_write_study, out, visit, seed): visit for visit in visits}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    """One thread a process; the parent alone answers Ctrl-C, and its death ends the worker."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _write_study(out: Path, visit: Visit, seed: int) -> str:
    """Makes one study and moves it into place; its slices' marks, '1' for a hemorrhage."""
    study = make_study(seed, visit.subject, visit.location, visit.visit)
    folder = out / f"{_UNFINISHED}{visit.folder}"
    folder.mkdir()
    order = np.random.default_rng((seed, visit.subject, 5, visit.visit)).permutation(len(study.hu))
    slices = to_dicom(study, seed, visit.subject, visit.visit)
    for number, image in zip(order, slices, strict=True):
        image.save_as(folder / f"{number + 1:04d}.dcm", enforce_file_format=True)
    shutil.rmtree(out / visit.folder, ignore_errors=True)
    folder.rename(out / visit.folder)
    return "".join("1" if mark else "0" for mark in study.hemorrhage)


def _labels(visits: list[Visit], seed: int, studies: dict[str, str]) -> str:
    """labels.csv: a row a slice, from the skull base up."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(LABEL_COLUMNS)
    for v in visits:
        for index, mark in enumerate(studies[v.folder]):
            uid = slice_uid(seed, v.subject, v.visit, index)
            location = v.location if mark == "1" else ""
            rows.writerow((v.folder, patient_id(v.subject), uid, 1, mark, location))
    return text.getvalue()


def _as_json(record: dict[str, Any]) -> str:
    studies = dict(sorted(record["studies"].items()))
    return json.dumps(record | {"studies": studies}, indent=1) + "\n"


def _write_whole(path: Path, text: str) -> None:
    """Writes beside the file and renames, so that a kill leaves the old file or the new one."""
    aside = path.with_name(f"{_UNFINISHED}{path.name}")
    aside.write_text(text)
    aside.replace(path)
