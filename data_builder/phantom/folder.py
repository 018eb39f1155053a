"""Writes a folder of synthetic studies as DICOM, with labels.csv; a stopped run is continued."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import cv2
import numpy as np

from data_builder.errors import InputError
from data_builder.files import DRAFT, csv_text, write_json, write_whole
from data_builder.phantom.dicom import NOTICE, patient_id, slice_uid, to_dicom
from data_builder.phantom.head import DIFFICULTY
from data_builder.phantom.scan import make_study
from data_builder.progress import track
from data_builder.records import LOCATIONS

VERSION = 1
"""Raised with every change to the voxels or headers: older folders are then not continued."""

LABEL_COLUMNS = ("study", "subject", "slice", "keep", "hemorrhage", "location")
_UNFINISHED = ".partial-"
"""How the name of the folder of an unfinished study begins."""


class Visit(NamedTuple):
    """One study: a subject's first (0) or second (1) scan, with a bleed at `location` or none."""

    subject: int
    visit: int
    location: str | None

    @property
    def folder(self) -> str:
        """The name of the study's folder."""
        return f"phantom-{self.subject:04d}-{self.visit + 1}"


@dataclasses.dataclass(frozen=True)
class PhantomCounts:
    """The contents of a folder of phantoms; `made` counts the studies that this run wrote."""

    subjects: int
    studies: int
    slices: int
    hemorrhage_slices: int
    made: int


class _Record(TypedDict):
    """The contents of phantom.json; `studies` has the marks of each study's slices by its folder.

    Marks go from the skull base to the crown: '1' for a slice with hemorrhage, else '0'.
    """

    phantom: bool
    notice: str
    version: int
    seed: int
    difficulty: dict[str, Any]
    studies: dict[str, str]


def plan(subjects: int, seed: int) -> list[Visit]:
    """The studies of subjects 1 to `subjects`; a longer plan begins with a shorter one.

    Of every ten subjects four are normal and two have a hemorrhage at each location, in a shuffled
    order. Every fourth subject with a hemorrhage has a second study.
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
    one per core). A study is renamed when it is whole, then recorded in `phantom.json`; a second
    run makes only what is not recorded.

    Raises InputError for a bad number, or where `out` is no folder, cannot be written, or holds
    anything but phantoms of this seed and version.
    """
    if subjects < 1 or seed < 0 or (jobs is not None and jobs < 1):
        raise InputError(
            f"phantom: {subjects} subjects, seed {seed}, {jobs} jobs: give at least 1 subject, "
            "a seed of at least 0 and at least 1 job"
        )
    visits = plan(subjects, seed)
    try:
        record = _open_folder(out, visits, seed)
        todo = [visit for visit in visits if not _is_whole(out, visit, record["studies"])]
        if todo:
            (out / "labels.csv").unlink(missing_ok=True)
            _write_record(out, record)
        made = _make_all(out, todo, seed, min(jobs or os.cpu_count() or 1, len(todo)))
        for visit, marks in track(made, len(todo), "phantom studies"):
            record["studies"][visit.folder] = marks
            _write_record(out, record)
        if not (out / "labels.csv").is_file():
            rows = _labels(visits, seed, record["studies"])
            write_whole(out / "labels.csv", csv_text(LABEL_COLUMNS, rows))
    except OSError as error:
        raise InputError(
            f"phantom: cannot write to {out} ({error.strerror}): choose another --out"
        ) from error
    slices = "".join(record["studies"][visit.folder] for visit in visits)
    return PhantomCounts(subjects, len(visits), len(slices), slices.count("1"), len(todo))


def _open_folder(out: Path, visits: list[Visit], seed: int) -> _Record:
    """The folder's record, a new one for a new or empty folder; removes drafts of a killed run."""
    fresh = _Record(
        phantom=True,
        notice=NOTICE,
        version=VERSION,
        seed=seed,
        difficulty=json.loads(json.dumps(dataclasses.asdict(DIFFICULTY))),  # tuples become lists
        studies={},
    )
    if out.exists() and not out.is_dir():
        raise InputError(f"phantom: {out} is a file: choose a folder for --out")
    out.mkdir(parents=True, exist_ok=True)
    for draft in [
        *out.glob(f"{_UNFINISHED}*"),
        *out.glob(f"{DRAFT}*-phantom.json"),
        *out.glob(f"{DRAFT}*-labels.csv"),
    ]:
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return fresh
    try:
        record: _Record = json.loads((out / "phantom.json").read_text())
        earlier: dict[str, Any] = {**record}
        same = all(earlier[key] == value for key, value in fresh.items() if key != "studies")
        planned = {visit.folder for visit in visits}
        ours = same and set(record["studies"]) <= planned
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        ours, planned = False, set()
    if not ours or not names <= {"phantom.json", "labels.csv", *planned}:
        raise InputError(
            f"phantom: {out} holds something else than phantoms of seed {seed}, this version and "
            "no more subjects: choose an empty folder for --out"
        )
    return record


def _is_whole(out: Path, visit: Visit, studies: dict[str, str]) -> bool:
    """Whether the study is recorded and all its files exist."""
    if visit.folder not in studies:
        return False
    return len(list((out / visit.folder).glob("*.dcm"))) == len(studies[visit.folder])


def _make_all(out: Path, visits: list[Visit], seed: int, jobs: int) -> Iterator[tuple[Visit, str]]:
    """Makes the studies in `jobs` processes; yields each with its marks, as they come."""
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
    """Limits a worker to one thread, leaves Ctrl-C to the parent, and ends with the parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _write_study(out: Path, visit: Visit, seed: int) -> str:
    """Makes one study, renames its folder when it is whole, and returns its marks."""
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


def _labels(
    visits: list[Visit], seed: int, studies: dict[str, str]
) -> Iterator[tuple[object, ...]]:
    """Rows of labels.csv: one for each slice, from the skull base to the crown."""
    for visit in visits:
        for index, mark in enumerate(studies[visit.folder]):
            uid = slice_uid(seed, visit.subject, visit.visit, index)
            location = visit.location if mark == "1" else ""
            yield visit.folder, patient_id(visit.subject), uid, 1, mark, location


def _write_record(out: Path, record: _Record) -> None:
    studies = dict(sorted(record["studies"].items()))
    write_json(out / "phantom.json", {**record, "studies": studies})
