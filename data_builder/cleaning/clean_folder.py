"""A folder of DICOM -> cleaned slices and their tables: parallel, resumable, all accounted for."""

import collections
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_builder.cleaning import clean
from data_builder.cleaning.clean_file import FileResult, Task, clean_file, refused
from data_builder.cleaning.journal import Journal
from data_builder.cleaning.labels import NAME as LABELS
from data_builder.cleaning.labels import read_labels
from data_builder.cleaning.tables import Tables, assemble, remove_strays, write_tables
from data_builder.dicom.header import Reason, Refusal
from data_builder.errors import InputError
from data_builder.parallel import processes
from data_builder.progress import track
from data_builder.pseudonyms import Lookup, Pseudonyms, load_key, lookup_path

PHANTOM = "phantom.json"
FORMATS = ("png", "jpg")

WARNINGS_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class CleanSummary:
    """What `clean_folder` left in its folder, in slices and files.

    `refused` counts files, without labels.csv and phantom.json, which are listed but no failure;
    `skipped` are files that an earlier run had done.
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
    """Cleans every CT slice under `src` into `out`; a run that was cut short goes on.

    Writes images/<study>/<key>.<format>, manifest.csv, refused.csv, notes.csv (gaps and doubles
    in series), cleaning.json, and `.journal.jsonl`, from which the next run goes on. `key` names
    the site's key (`subjects.load_key`), whose lookup gets the way back; `jobs` is None for one
    process a core. A file may take `seconds_a_file`, and a second more a megabyte.

    Raises InputError; a file that can't be used is listed with its reason and raises nothing.
    """
    if mode not in clean.MODES or image_format not in FORMATS or (jobs is not None and jobs < 1):
        raise InputError(f"mode is of {clean.MODES}, format of {FORMATS}, and jobs at least 1")
    key_bytes, lookup_at = load_key(key), lookup_path(key)
    _check_places(src, out, lookup_at)
    pseudonyms = Pseudonyms(key_bytes)
    files = {pseudonyms.file(str(path)): path for path in walk(src)}
    if not files:
        raise InputError("the source SRC is empty: give a folder with DICOM files")
    labels = read_labels(src, [p for p in files.values() if p.name == LABELS], pseudonyms)
    settings = {
        "mode": mode,
        "version": clean.VERSION,
        "window_hu": list(clean.WINDOW),
        "format": image_format,
        "source": pseudonyms.file(str(src.resolve())),
        "phantom": (src / PHANTOM).is_file(),
    }
    tasks = [
        Task(str(src), str(path), name, str(out), mode, image_format, key_bytes)
        for name, path in files.items()
    ]
    own = {task.file for task in tasks if files[task.file].name in (LABELS, PHANTOM)}
    lookup = Lookup(lookup_at) if lookup_at else None
    with (
        contextlib.closing(lookup) if lookup else contextlib.nullcontext(),
        Journal(out, settings, lookup) as journal,
    ):
        done = journal.load(src, files)
        new = [task for task in tasks if task.file not in own and task.file not in done]
        if new:
            for result in track(_run(new, jobs, seconds_a_file), len(new), "cleaning"):
                done[result.file] = result
                journal.add(result)
        journal.flush()
        listed = done | {name: _own_words(name) for name in own}
        tables = assemble([listed[name] for name in files], files, labels, pseudonyms)
        if lookup:
            lookup.add(tables.meanings)
            lookup.add((name, str(src / files[name])) for name in own)
        if new or not journal.finished:
            torn = [task for task in tasks if task.file in tables.torn]
            collections.deque(_run(torn, jobs, seconds_a_file), maxlen=0)
        remove_strays(out, tables)
        write_tables(out, tables, settings)
        journal.finish(done.values())
    unmatched = labels.unmatched()
    for where in unmatched[:WARNINGS_SHOWN]:
        print(f"warning: {where} matches no slice that was used", file=sys.stderr)
    if len(unmatched) > WARNINGS_SHOWN:
        print(f"warning: and {len(unmatched) - WARNINGS_SHOWN} more lines", file=sys.stderr)
    if not tables.manifest:
        raise InputError(
            "the source SRC holds no CT slice that can be used: refused.csv tells the reason for "
            f"each of {len(files)} files"
        )
    return _summary(tables, own, len(tasks) - len(own) - len(new), unmatched)


def _check_places(src: Path, out: Path, lookup: Path | None) -> None:
    if not src.is_dir():
        raise InputError("the source SRC is not a folder: give one that exists")
    if out.resolve().is_relative_to(src.resolve()):
        raise InputError("--out lies inside the source: give a folder apart from it")
    if out.exists() and not out.is_dir():
        raise InputError("--out is a file: give a folder")
    if lookup and lookup.resolve().is_relative_to(out.resolve()):
        raise InputError("the key lies inside --out, which is to be shared: keep it elsewhere")


def walk(source: Path) -> Iterator[PurePosixPath]:
    """Every file under `source`, as a path inside it, in order of path.

    Links to folders and folders that can't be listed are given too, for the accounts.
    """
    found: list[Path] = []

    def unlistable(error: OSError) -> None:
        found.append(Path(error.filename))

    for folder, inner, names in os.walk(source, onerror=unlistable):
        paths = [Path(folder, name) for name in names]
        links = [path for name in inner if (path := Path(folder, name)).is_symlink()]
        found += paths + links
    yield from sorted(PurePosixPath(path.relative_to(source)) for path in found)


def _run(tasks: list[Task], jobs: int | None, seconds: float) -> Iterator[FileResult]:
    """Results as they come. A file that costs its worker is refused; a full disk is an error."""
    jobs = jobs or len(os.sched_getaffinity(0))

    def patience(task: Task) -> float:
        path = Path(task.source) / task.path
        return seconds + (path.stat().st_size / 1e6 if path.exists() else 0)

    for task, result in processes.as_completed(tasks, clean_file, jobs, patience):
        if isinstance(result, processes.Lost):
            path = Path(task.source) / task.path
            size = path.stat().st_size if path.exists() else -1
            detail = f"its decoder {result.cause} and was stopped"
            lost = refused(task.file, size, Refusal(Reason.DECODER_FAILED, detail))
            lost.meanings.append((task.file, str(path)))
            yield lost
        elif result.failure:
            raise InputError(
                f"--out can't be written ({result.failure}): mend it, and the same command goes on"
            )
        else:
            yield result


def _own_words(file: str) -> FileResult:
    detail = "no scan: labels.csv and phantom.json are read as the source's own words"
    return refused(file, -1, Refusal(Reason.NOT_DICOM, detail))


def _summary(tables: Tables, own: set[str], skipped: int, unmatched: list[str]) -> CleanSummary:
    failed = [row for row in tables.refused if row["file"] not in own]
    return CleanSummary(
        slices=len(tables.manifest),
        no_head=sum(not row["head"] for row in tables.manifest),
        studies=len({row["study"] for row in tables.manifest}),
        used=len({row["file"] for row in tables.manifest}),
        refused=len(failed),
        reasons=dict(sorted(collections.Counter(row["reason"] for row in failed).items())),
        notes=len(tables.notes),
        skipped=skipped,
        unmatched_labels=tuple(unmatched),
    )
