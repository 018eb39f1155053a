"""The shards: a TFDS data set `ich_ct` in ArrayRecord, written and read without TensorFlow."""

import collections
import concurrent.futures
import contextlib
import csv
import io
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError

from data_builder.errors import InputError
from data_builder.progress import track
from data_builder.records import FACTS, LOCATIONS, Record
from data_builder.sources import Source
from data_builder.splits import SPLITS, SplitPlan, confounds, counts, divide, leak

VERSION = "1.0.0"
DEFAULT_SIZE = 256
NAMES = {
    "phantom": "made-up heads",
    "published": "slices in the published layout",
    "cleaned": "slices cleaned from DICOM",
}
_AHEAD = 64


class IchCt(tfds.core.GeneratorBasedBuilder):
    """8-bit head-CT slices with the labels of two tasks, split by subject.

    A record holds `key`, `subject`, `study` (pseudonyms), `image` (uint8 [size, size, 1], PNG),
    `hemorrhage` (0 or 1), `location` (index into records.LOCATIONS, -1 for a normal slice),
    `position_mm` (along the scan's normal; nan where unknown) and `digest` (of the source slice).
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, source: Source, plan: SplitPlan, size: int, data_dir: Path) -> None:
        # TFDS logs its configuration, so the source, which knows paths, is not a part of that.
        self._source, self._plan, self._size = source, plan, size
        name = f"size{size}_{plan.name}_{source.fingerprint}"
        config = tfds.core.BuilderConfig(name=name, version=VERSION)
        super().__init__(data_dir=str(data_dir), config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._size
        text, integer = tfds.features.Text(), tfds.features.Scalar(np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=IchCt.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "key": text,
                    "image": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
                    "hemorrhage": integer,
                    "location": integer,
                    "subject": text,
                    "study": text,
                    "position_mm": tfds.features.Scalar(np.float32),
                    "digest": text,
                }
            ),
            metadata=tfds.core.MetadataDict(describe(self._source, self._plan, size)),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        records = self._source.records
        side_of = divide(records, self._plan)
        return {
            side: self._generate_examples(
                [record for record in records if side_of[record.key] == side], side
            )
            for side in SPLITS
        }

    def _generate_examples(self, records: Sequence[Record], side: str):
        encoded = _encode_ahead(records, self._size)
        yield from track(encoded, len(records), f"shards, {side}")


def describe(source: Source, plan: SplitPlan, size: int) -> dict:
    """What every later report says of the data: counts, the leak's size, confounds, settings."""
    side_of = divide(source.records, plan)
    kind = "phantom" if source.phantom else source.kind
    return {
        "name": NAMES[kind],
        "source_kind": kind,
        "phantom": source.phantom,
        "split": plan.by,
        "folds": plan.folds,
        "fold": plan.fold,
        "seed": plan.seed,
        "size": size,
        "digest": source.fingerprint,
        "cleaning": source.cleaning,
        "counts": counts(source.records, side_of),
        "leak": leak(source.records, side_of),
        "confounds": confounds(source.records),
    }


def build(source: Source, data_dir: Path, plan: SplitPlan, size: int = DEFAULT_SIZE) -> Path:
    """Builds the shards of `source` once and returns their folder; returns at once if they exist.

    The folder's name tells size, split and the source's fingerprint, so that a changed source or
    option makes a new data set beside the old one.

    Raises:
      InputError: an unreadable image, a class that cannot be split, an unwritable `data_dir`.
    """
    if not 16 <= size <= 1024:
        raise InputError(f"size is {size}: give 16 to 1024 pixels")
    divide(source.records, plan)  # its refusals come before a folder is made
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        builder = IchCt(source=source, plan=plan, size=size, data_dir=data_dir)
        folder = Path(builder.data_dir)
        if folder.is_dir():
            write_splits(folder, source.records, plan)
            return folder
        for stale in folder.parent.glob(f"{VERSION}.incomplete*"):
            shutil.rmtree(stale)
        tfds.disable_progress_bar()
        quiet = contextlib.redirect_stdout(io.StringIO())  # track() shows the progress
        with quiet, tempfile.TemporaryDirectory() as nothing_is_downloaded:
            builder.download_and_prepare(download_dir=nothing_is_downloaded)
        shutil.rmtree(data_dir / "downloads", ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write the shards to {data_dir}: {error.strerror}") from error
    write_splits(folder, source.records, plan)
    return folder


def write_splits(folder: Path, records: Sequence[Record], plan: SplitPlan) -> None:
    """Writes splits.csv, where it is not there yet: key, subject, side and FACTS of every slice."""
    if (folder / "splits.csv").exists():
        return
    side_of = divide(records, plan)
    draft = folder / "splits.csv.draft"
    with draft.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("key", "subject", "split", *FACTS))
        for r in records:
            known = dict(r.facts)
            rows.writerow((r.key, r.subject, side_of[r.key], *(known.get(f, "") for f in FACTS)))
    draft.replace(folder / "splits.csv")


def _encode_ahead(records: Iterable[Record], size: int) -> Iterator[tuple[str, dict]]:
    """Examples in order, read by threads (Pillow lets go of the lock) a bounded way ahead."""
    left = iter(records)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = collections.deque(
            pool.submit(_example, record, size) for record in itertools.islice(left, _AHEAD)
        )
        try:
            while waiting:
                example = waiting.popleft().result()
                for record in itertools.islice(left, 1):
                    waiting.append(pool.submit(_example, record, size))
                yield example["key"], example
        finally:
            pool.shutdown(cancel_futures=True)


def _example(record: Record, size: int) -> dict:
    return {
        "key": record.key,
        "image": encode(record, size),
        "hemorrhage": record.hemorrhage,
        "location": LOCATIONS.index(record.location) if record.hemorrhage else -1,
        "subject": record.subject,
        "study": record.study,
        "position_mm": record.position_mm,
        "digest": record.digest,
    }


def encode(record: Record, size: int) -> bytes:
    """PNG of the slice at size x size: gray, longest side fitted, black around (the air of CT)."""
    try:
        with Image.open(record.image) as image:
            gray = image.convert("L")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(
            f"slice {record.key} is not a readable image: mend or remove the file "
            f"(python -m data_builder lookup {record.key} names it)"
        ) from error
    buffer = io.BytesIO()
    resize(gray, size).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def resize(image: Image.Image, size: int) -> Image.Image:
    """Bilinear and antialiased to size x size; a slice that is not square is padded with 0."""
    longest = max(image.size)
    if image.size != (longest, longest):
        square = Image.new("L", (longest, longest))
        square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
        image = square
    return image.resize((size, size), Image.Resampling.BILINEAR)
