"""Cleans a folder of DICOM into slices and tables: in parallel, resumable, every file listed."""

import collections
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_builder.cleaning import clean
from data_builder.cleaning.clean_file import Task, clean_file, shows_a_person
from data_builder.cleaning.journal import Journal
from data_builder.cleaning.label_rows import NAME as LABELS
from data_builder.cleaning.labels import read_labels
from data_builder.cleaning.results import FileResult, refused
from data_builder.cleaning.subjects import STATE_SUBJECTS, count_subjects
from data_builder.cleaning.tables import Tables, assemble, remove_strays, write_tables
from data_builder.cleaning.unmatched import NAME as UNMATCHED
from data_builder.dicom.refusal import Reason, Refusal
from data_builder.errors import InputError
from data_builder.files import is_folder, sha256_of, size_of, walk
from data_builder.parallel import processes
from data_builder.parallel.threads import in_order
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

_SECONDS_TO_IDENTIFY = 60.0


@dataclasses.dataclass(frozen=True)
class CleanSummary:
    """The contents of a cleaned folder, in slices and files.

    `used`, `refused` and `skipped` count files: those with slices in the manifest; those of
    refused.csv but labels.csv and phantom.json; those that an earlier run had finished. `reasons`
    counts the refused by reason, `notes` the rows of notes.csv. `unmatched_labels` are the places
    of the rows in unmatched_labels.csv. `unchanged`: the run changed nothing in the folder.
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
    unchanged: bool

    def __str__(self) -> str:
        text = f"{self.slices} slices of {self.studies} studies, out of {self.used} files"
        if self.no_head:
            text += f", {self.no_head} without a head"
        if self.notes:
            text += f"; {self.notes} gaps or doubles in series (notes.csv)"
        if self.refused:
            listed = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
            text += f"; {self.refused} files refused (refused.csv): {listed}"
        if self.unchanged:
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
    in series), unmatched_labels.csv (rows of labels.csv that match no slice), cleaning.json, and
    `.journal.jsonl`, from which the next run continues: it reads all files and images, and cleans a
    file again where its bytes or those of its images are other ones. `key` names the site's key
    (`pseudonyms.load_key`), whose lookup gets the meanings; `jobs` is None for one process per
    core. A file may take `seconds_a_file`, plus one second for each megabyte.

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
        "phantom": size_of(src / PHANTOM) >= 0,
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
        results = journal.load(src, files, pseudonyms)
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
        damaged = [tasks[name] for name in _with_other_images(out, tables, results)]
        for result in _run(damaged, jobs, seconds_a_file):
            results[result.file] = result
        removed = remove_strays(out, tables)
        written = write_tables(out, tables, settings)
        journal.finish(results.values())
    for warning in _warnings(tables):
        print(f"warning: {warning}", file=sys.stderr)
    if not tables.manifest:
        raise InputError(
            "the source SRC holds no CT slice that can be used: refused.csv has the reason for "
            f"each of {len(files)} files"
        )
    cleaned = {task.file for task in new + damaged}
    unchanged = not (cleaned or removed or written)
    return _summary(tables, metadata, len(tasks) - len(cleaned), unchanged)


def _warnings(tables: Tables) -> Iterator[str]:
    subjects = count_subjects(tables.manifest)
    if subjects["without_id"]:
        yield (
            f"{len(subjects['without_id'])} subject(s) are studies without a Patient ID: if a "
            f"person has several, {STATE_SUBJECTS}"
        )
    if subjects["issuer_in_part"]:
        yield (
            f"{subjects['issuer_in_part']} Patient ID(s) stand with and without an issuer, as two "
            f"subjects each: if that is one person, {STATE_SUBJECTS}"
        )
    if tables.of_several_folders:
        yield (
            f"{len(tables.of_several_folders)} row(s) of labels.csv, the first is "
            f"{tables.of_several_folders[0]}, match several folders of one name: where one is "
            "meant, give its path inside SRC"
        )
    if tables.unmatched:
        yield (
            f"{len(tables.unmatched)} row(s) of labels.csv match no slice that was used, the first "
            f"is {tables.unmatched[0].where}: {UNMATCHED} has each with its likely cause"
        )


def _check_phantoms(tasks: list[Task], jobs: int | None) -> None:
    """Raises InputError where a DICOM file is not marked as a phantom's."""
    jobs = jobs or len(os.sched_getaffinity(0))
    checked = processes.as_completed(tasks, shows_a_person, jobs, lambda _: _SECONDS_TO_IDENTIFY)
    with contextlib.closing(checked):
        if any(answer is True for _, answer in checked):
            raise public_key_refused("a file of the source SRC")


def _check_folders(src: Path, out: Path) -> None:
    if not is_folder(src):
        raise InputError("the source SRC is not a folder: give one that exists")
    if out.resolve().is_relative_to(src.resolve()):
        raise InputError("--out is inside the source: give a folder outside of it")
    if size_of(out) >= 0:
        raise InputError("--out is a file: give a folder")


def _run(tasks: list[Task], jobs: int | None, seconds: float) -> Iterator[FileResult]:
    """Yields results as they come; a file that its worker dies of is refused.

    Raises InputError where the output cannot be written.
    """
    jobs = jobs or len(os.sched_getaffinity(0))

    def limit(task: Task) -> float:
        path = Path(task.source) / task.path
        return seconds + max(size_of(path), 0) / 1e6

    for task, result in processes.as_completed(tasks, clean_file, jobs, limit):
        if isinstance(result, processes.Lost):
            path = Path(task.source) / task.path
            detail = f"its decoder {result.cause} and was stopped"
            content = Pseudonyms(task.key).content(path)
            refusal = Refusal(Reason.DECODER_FAILED, detail)
            lost = refused(task.file, size_of(path), refusal, content)
            lost.meanings.append((task.file, str(path)))
            yield lost
        elif result.failure:
            raise InputError(
                f"--out can't be written ({result.failure}): mend it, and the same command "
                "continues"
            )
        else:
            yield result


def _with_other_images(out: Path, tables: Tables, results: Mapping[str, FileResult]) -> list[str]:
    """The files in the manifest of which an image is not as it was written.

    It is missing or changed, or a duplicate with other pixels has overwritten it.
    """
    files = list(dict.fromkeys(row.file for row in tables.manifest))

    def differs(file: str) -> bool:
        return any(
            not (path := out / image).is_file() or sha256_of(path) != sha256
            for image, sha256 in results[file].images.items()
        )

    checked = in_order(differs, files, "checking images")
    return [file for file, other in zip(files, checked, strict=True) if other]


def _refused_metadata(file: str) -> FileResult:
    detail = "no scan: labels.csv and phantom.json are metadata of the source"
    return refused(file, -1, Refusal(Reason.NOT_DICOM, detail))


def _summary(tables: Tables, metadata: set[str], skipped: int, unchanged: bool) -> CleanSummary:
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
        unmatched_labels=tuple(row.where for row in tables.unmatched),
        unchanged=unchanged,
    )
