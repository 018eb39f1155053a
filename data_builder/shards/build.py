"""Builds shards from any source: cleans DICOM first, divides the slices, writes the data set."""

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data_builder.cleaning.clean_folder import clean_folder
from data_builder.errors import InputError
from data_builder.files import is_folder, lock
from data_builder.pseudonyms import Lookup, Pseudonyms, check_key_place, load_key, lookup_path
from data_builder.shards.audit import Leak
from data_builder.shards.beam import download_options
from data_builder.shards.files import UNFINISHED, VERSION, earlier_division
from data_builder.shards.groups import shown_contents
from data_builder.shards.ich_ct import IchCt
from data_builder.shards.images import with_other_pixels
from data_builder.shards.metadata import Metadata, describe, read_metadata
from data_builder.shards.near_duplicates import read_near_duplicates
from data_builder.shards.sources import (
    Source,
    kind_of,
    load_source_key,
    open_source,
    published_meanings,
)
from data_builder.shards.splits import SplitPlan, divide
from data_builder.shards.subjects import subjects_read

DEFAULT_SIZE = 256
_NO_ROOM = ("No space left", "Disk quota exceeded")


def prepare(
    source: Path,
    data_dir: Path,
    plan: SplitPlan,
    size: int,
    key: str | None,
    beam_options: Sequence[str] | None = None,
) -> Path:
    """Builds the shards of a source folder unless they exist; returns their folder.

    A folder of DICOM is cleaned first (`cleaned_first`). `key` is the file with the site's key for
    pseudonyms (`pseudonyms.load_key`); `size` and `beam_options` are as in `build`.

    Raises InputError.
    """
    source, _ = cleaned_first(source, data_dir, key)
    opened = open_source(source, Pseudonyms(load_source_key(key, source)))
    if opened.companions:
        print(f"passed over {opened.companions} companions of macOS (._*)", file=sys.stderr)
    lookup = lookup_path(key)
    if opened.kind == "published" and lookup:
        database = Lookup(lookup)
        database.add(published_meanings(opened))
        database.close()
    folder = build(opened, data_dir, plan, size, beam_options)
    if plan.by == "slice":
        _warn_of_leak(read_metadata(folder)["leak"])
    return folder


def cleaned_first(source: Path, data_dir: Path, key: str | None) -> tuple[Path, int]:
    """Cleans a folder of DICOM (robust mode) into `data_dir/cleaned/<pseudonym of its path>`.

    Returns the cleaned folder, or `source` where it is no DICOM, and how many rows of its
    labels.csv match no slice. Raises InputError, also for a key in one of the two folders.
    """
    check_key_place(key, {"SRC": source, "--data_dir": data_dir})
    if kind_of(source) != "dicom":
        return source, 0
    cleaned = data_dir / "cleaned" / Pseudonyms(load_key(key)).file(str(source.resolve()))
    summary = clean_folder(source, cleaned, mode="robust", jobs=None, key=key, image_format="png")
    return cleaned, len(summary.unmatched_labels)


def build(
    source: Source,
    data_dir: Path,
    plan: SplitPlan,
    size: int = DEFAULT_SIZE,
    beam_options: Sequence[str] | None = None,
) -> Path:
    """Builds the shards of `source`, `size` pixels a side, unless they exist; returns their folder.

    The folder's name contains size, split and the source's fingerprint, so a changed source or
    option gives a new data set next to the old one. The fingerprint of a cleaned folder is over the
    digests in its manifest, so its images are compared with them: all for a new data set, for one
    that exists those that were changed since. `beam_options`: Apache Beam builds, with these
    pipeline options; None: this process builds.

    Raises:
      InputError: an unreadable image, one that is not as `clean` wrote it, a class that cannot be
        split, a split by subject that leaks or whose subjects are in doubt, an unwritable
        `data_dir`, no Beam.
    """
    if not 16 <= size <= 1024:
        raise InputError(f"size is {size}: give 16 to 1024 pixels")
    _check_subjects(source, plan)
    name = name_of(source, plan, size)
    folder = data_dir / "ich_ct" / name / VERSION
    if is_folder(folder):
        _check_images(source, since=min(path.stat().st_mtime for path in folder.iterdir()))
        return folder
    options = {} if beam_options is None else download_options(beam_options)
    divide(source.records, plan)  # fails, if it must, before images are read or folders made
    _check_images(source)
    duplicates = read_near_duplicates(source.records)
    earlier = earlier_division(data_dir, plan, source.records)
    division = divide(source.records, plan, shown_contents(source.records, duplicates), earlier)
    metadata = describe(source, plan, size, division, duplicates)
    _report_growth(metadata, earlier is not None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder.parent / ".lock"):
            if not folder.is_dir():
                for stale in folder.parent.glob(f"{UNFINISHED}*"):
                    shutil.rmtree(stale)
                builder = IchCt(
                    records=source.records,
                    division=division,
                    comparable=duplicates.comparable.tolist(),
                    metadata=metadata,
                    name=name,
                    data_dir=data_dir,
                )
                _write(builder, options)
    except (OSError, RuntimeError) as error:  # ArrayRecord raises the latter
        full = any(words in str(error) for words in _NO_ROOM)
        if isinstance(error, RuntimeError) and not full:
            raise
        # TFDS leaves out the error's number.
        reason = "no room is left" if full else getattr(error, "strerror", "") or "it is refused"
        raise InputError(
            f"cannot write the shards to --data_dir ({reason}): mend that, or give another"
        ) from error
    return folder


def _check_images(source: Source, since: float = 0.0) -> None:
    """Raises InputError where a cleaned image has other pixels than its manifest says.

    Only images whose status changed after `since` (seconds) are read. A JPEG can't be compared: its
    digest is of the pixels before they were encoded.
    """
    if source.kind != "cleaned":
        return
    images = [record for record in source.records if record.image.endswith(".png")]
    other = with_other_pixels([r for r in images if Path(r.image).stat().st_ctime > since])
    if other:
        raise InputError(
            f"{len(other)} of {len(images)} images of the source SRC, the first that of slice "
            f"{other[0].key}, have other pixels than their digest in manifest.csv: run clean again "
            "into the same folder, which writes them anew"
        )


def _check_subjects(source: Source, plan: SplitPlan) -> None:
    """Raises InputError where a split by subject has no subjects to go by; by slice it warns."""
    read = subjects_read(source)
    if not read["doubts"]:
        return
    why = f"{'; '.join(read['doubts'])} (read from {read['read_from']})"
    if plan.by == "subject":
        raise InputError(f"the subjects of the source are in doubt: {why}: {read['way_out']}")
    print(f"warning: the subjects of the source are in doubt: {why}", file=sys.stderr)


def name_of(source: Source, plan: SplitPlan, size: int) -> str:
    """A data set's name, which changes with everything that changes its records."""
    return f"size{size}_{plan.name}_{source.fingerprint}"


def _write(builder: IchCt, options: dict[str, Any]) -> None:
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(**options)
    quiet = contextlib.redirect_stdout(io.StringIO())  # threads.in_order shows the progress
    with quiet, tempfile.TemporaryDirectory() as no_downloads:
        builder.download_and_prepare(download_dir=no_downloads, download_config=config)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Waits for another process that builds the same data set; a killed one frees its lock."""
    with path.open("w") as file:
        if not lock(file, wait=True):
            raise InputError(f"{path} cannot be locked: give a --data_dir on a disk with locks")
        yield


def _report_growth(metadata: Metadata, grown: bool) -> None:
    if grown:
        print(
            "subjects of an earlier data set in this --data_dir keep their sides", file=sys.stderr
        )
    for subject in metadata["set_aside"]:
        print(f"set aside: {subject}: it shares slices with subjects of two sides", file=sys.stderr)


def _warn_of_leak(leak: Leak) -> None:
    print(
        f"warning: split by slice: {leak['with_sibling_in_training']} of {leak['test_slices']} "
        "test slices have a sibling of the same subject in training; the metrics are too good",
        file=sys.stderr,
    )
