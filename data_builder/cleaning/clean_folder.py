"""Cleans a folder of DICOM into slices and tables: in parallel, resumable, every file listed."""

import collections
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_builder.cleaning import clean
from data_builder.cleaning.clean_file import Task, clean_file, shows_a_person
from data_builder.cleaning.journal import Journal
from data_builder.cleaning.labels import NAME as LABELS
from data_builder.cleaning.labels import read_labels
from data_builder.cleaning.results import FileResult, refused
from data_builder.cleaning.tables import Tables, assemble, remove_strays, write_tables
from data_builder.dicom.refusal import Reason, Refusal
from data_builder.errors import InputError
from data_builder.parallel import processes
from data_builder.progress import track
from data_builder.pseudonyms import (
    PUBLIC_KEY,
    Lookup,
    Pseudonyms,
    check_key_place,
    load_key,
    lookup_path,
    public_key_refused,
)

PHANTOM = "phantom.json"
FORMATS = ("png", "jpg")

_WARNINGS_SHOWN = 5
_SECONDS_TO_IDENTIFY = 60.0


@dataclasses.dataclass(frozen=True)
class CleanSummary:
    """The contents of a cleaned folder, in slices and files.

    `used`, `refused` and `skipped` count files: those with slices in the manifest; those of
    refused.csv but labels.csv and phantom.json; those that an earlier run had finished. `reasons`
    counts the refused by reason, `notes` the rows of notes.csv. `unmatched_labels` are the lines
    of labels.csv that match no slice.
    """

    slices: int
    no_head: int
    studies: int
    used: int
    refused: int
    reasons: dict[str, int]
    notes: int
    skipped: int
    unmatched_labels: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.slices} slices of {self.studies} studies, out of {self.used} files"
        if self.no_head:
            text += f", {self.no_head} without a head"
        if self.notes:
            text += f"; {self.notes} gaps or doubles in series (notes.csv)"
        if self.refused:
            listed = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
            text += f"; {self.refused} files refused (refused.csv): {listed}"
        if self.skipped == self.used + self.refused:
            return text + "; nothing to do: all was done before"
        return text + (f"; {self.skipped} files were done before" if self.skipped else "")


def clean_folder(
    src: Path,
    out: Path,
    *,
    mode: clean.Mode = "robust",
    jobs: int | None = None,
    key: str | None = None,
    image_format: str = "png",
    seconds_a_file: float = 60.0,
) -> CleanSummary:
    """Cleans every CT slice under `src` into `out`; a run that was stopped is continued.

    Writes images/<study>/<key>.<format>, manifest.csv, refused.csv, notes.csv (gaps and doubles
    in series), cleaning.json, and `.journal.jsonl`, from which the next run continues. `key` names
    the site's key (`pseudonyms.load_key`), whose lookup gets the meanings; `jobs` is None for one
    process per core. A file may take `seconds_a_file`, plus one second for each megabyte.

    Raises InputError; a file that cannot be used is listed with its reason and raises nothing.
    """
    if mode not in clean.MODES or image_format not in FORMATS or (jobs is not None and jobs < 1):
        raise InputError(f"mode is of {clean.MODES}, format of {FORMATS}, and jobs at least 1")
    _check_folders(src, out)
    check_key_place(key, {"SRC": src, "--out": out})
    key_bytes, lookup_file = load_key(key), lookup_path(key)
    pseudonyms = Pseudonyms(key_bytes)
    files = {pseudonyms.file(str(path)): path for path in walk(src)}
    if not files:
        raise InputError("the source SRC is empty: give a folder with DICOM files")
    metadata = {name for name, path in files.items() if path.name in (LABELS, PHANTOM)}
    labels = read_labels(src, [p for p in files.values() if p.name == LABELS], pseudonyms)
    settings = {
        "mode": mode,
        "version": clean.VERSION,
        "window_hu": list(clean.WINDOW),
        "format": image_format,
        "source": pseudonyms.file(str(src.resolve())),
        "phantom": (src / PHANTOM).is_file(),
    }
    tasks = {
        name: Task(str(src), str(path), name, str(out), mode, image_format, key_bytes)
        for name, path in files.items()
        if name not in metadata
    }
    if key_bytes == PUBLIC_KEY:
        _check_phantoms(list(tasks.values()), jobs)
    lookup = Lookup(lookup_file) if lookup_file else None
    with (
        contextlib.closing(lookup) if lookup else contextlib.nullcontext(),
        Journal(out, settings, lookup) as journal,
    ):
        results = journal.load(src, files)
        new = [task for name, task in tasks.items() if name not in results]
        if new:
            for result in track(_run(new, jobs, seconds_a_file), len(new), "cleaning"):
                results[result.file] = result
                journal.add(result)
        journal.flush()
        listed = results | {name: _refused_metadata(name) for name in metadata}
        tables = assemble([listed[name] for name in files], files, labels, pseudonyms)
        if lookup:
            lookup.add(tables.meanings)
            lookup.add((name, str(src / files[name])) for name in metadata)
        if new or not journal.finished:
            torn = [tasks[name] for name in tables.torn]
            collections.deque(_run(torn, jobs, seconds_a_file), maxlen=0)
        remove_strays(out, tables)
        write_tables(out, tables, settings)
        journal.finish(results.values())
    unmatched = labels.unmatched()
    _warn(unmatched)
    if not tables.manifest:
        raise InputError(
            "the source SRC holds no CT slice that can be used: refused.csv has the reason for "
            f"each of {len(files)} files"
        )
    return _summary(tables, metadata, len(tasks) - len(new), unmatched)


def _warn(unmatched: list[str]) -> None:
    for where in unmatched[:_WARNINGS_SHOWN]:
        print(f"warning: {where} matches no slice that was used", file=sys.stderr)
    if len(unmatched) > _WARNINGS_SHOWN:
        print(f"warning: and {len(unmatched) - _WARNINGS_SHOWN} more lines", file=sys.stderr)


def _check_phantoms(tasks: list[Task], jobs: int | None) -> None:
    """Raises InputError where a DICOM file is not marked as a phantom's."""
    jobs = jobs or len(os.sched_getaffinity(0))
    checked = processes.as_completed(tasks, shows_a_person, jobs, lambda _: _SECONDS_TO_IDENTIFY)
    with contextlib.closing(checked):
        if any(answer is True for _, answer in checked):
            raise public_key_refused("a file of the source SRC")


def _check_folders(src: Path, out: Path) -> None:
    if not src.is_dir():
        raise InputError("the source SRC is not a folder: give one that exists")
    if out.resolve().is_relative_to(src.resolve()):
        raise InputError("--out is inside the source: give a folder outside of it")
    if out.exists() and not out.is_dir():
        raise InputError("--out is a file: give a folder")


def walk(source: Path) -> Iterator[PurePosixPath]:
    """Yields every file under `source` as a path inside it, sorted.

    Links to folders and folders that cannot be listed are yielded too, so that they are listed.
    """
    paths: list[Path] = []

    def add_unlistable(error: OSError) -> None:
        paths.append(Path(error.filename))

    for folder, subfolders, names in os.walk(source, onerror=add_unlistable):
        links = [path for name in subfolders if (path := Path(folder, name)).is_symlink()]
        paths += [Path(folder, name) for name in names] + links
    yield from sorted(PurePosixPath(path.relative_to(source)) for path in paths)


def _run(tasks: list[Task], jobs: int | None, seconds: float) -> Iterator[FileResult]:
    """Yields results as they come; a file that its worker dies of is refused.

    Raises InputError where the output cannot be written.
    """
    jobs = jobs or len(os.sched_getaffinity(0))

    def limit(task: Task) -> float:
        path = Path(task.source) / task.path
        return seconds + (path.stat().st_size / 1e6 if path.exists() else 0)

    for task, result in processes.as_completed(tasks, clean_file, jobs, limit):
        if isinstance(result, processes.Lost):
            path = Path(task.source) / task.path
            size = path.stat().st_size if path.exists() else -1
            detail = f"its decoder {result.cause} and was stopped"
            lost = refused(task.file, size, Refusal(Reason.DECODER_FAILED, detail))
            lost.meanings.append((task.file, str(path)))
            yield lost
        elif result.failure:
            raise InputError(
                f"--out can't be written ({result.failure}): mend it, and the same command "
                "continues"
            )
        else:
            yield result


def _refused_metadata(file: str) -> FileResult:
    detail = "no scan: labels.csv and phantom.json are metadata of the source"
    return refused(file, -1, Refusal(Reason.NOT_DICOM, detail))


def _summary(
    tables: Tables, metadata: set[str], skipped: int, unmatched: list[str]
) -> CleanSummary:
    failed = [row for row in tables.refused if row["file"] not in metadata]
    return CleanSummary(
        slices=len(tables.manifest),
        no_head=sum(not row.head for row in tables.manifest),
        studies=len({row.study for row in tables.manifest}),
        used=len({row.file for row in tables.manifest}),
        refused=len(failed),
        reasons=dict(sorted(collections.Counter(row["reason"] for row in failed).items())),
        notes=len(tables.notes),
        skipped=skipped,
        unmatched_labels=tuple(unmatched),
    )
