"""The shards: a TFDS data set `ich_ct` in ArrayRecord, written and read without TensorFlow.

Building on many machines: Apache Beam's runner, from pipeline options.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import io
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import SplitBuilder

from data_builder.errors import InputError
from data_builder.records import Record
from data_builder.shards.audit import audit, confounds
from data_builder.shards.files import UNFINISHED, VERSION, earlier_division, write_checksums
from data_builder.shards.groups import shown_contents
from data_builder.shards.growth import ASIDE
from data_builder.shards.images import examples
from data_builder.shards.near_duplicates import Likeness, read_likeness
from data_builder.shards.sources import Source
from data_builder.shards.split_file import write_splits
from data_builder.shards.splits import SPLITS, Division, SplitPlan, counts, divide, leak

DEFAULT_SIZE = 256
SHARD_BYTES = 64 << 20
"""About what a shard holds at most; a build keeps one shard's examples in memory."""

NAMES = {
    "phantom": "made-up heads",
    "published": "slices in the published layout",
    "cleaned": "slices cleaned from DICOM",
}
_BYTES_OF_A_PIXEL = 0.5  # of a head, compressed, on the safe side


class IchCt(tfds.core.GeneratorBasedBuilder):
    """8-bit head-CT slices with the labels of two tasks, split by subject.

    A record holds `key`, `subject`, `study` (pseudonyms), `image` (uint8 [size, size, 1]),
    `hemorrhage` (0 or 1), `location` (index into records.LOCATIONS, -1 for a normal slice),
    `position_mm` (along the scan's normal; nan where unknown) and `digest` (of the source slice).
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        records: Sequence[Record],
        division: Division,
        shown: Sequence[bool],
        metadata: dict,
        name: str,
        data_dir: Path,
    ) -> None:
        # TFDS logs its configuration, so the records, which know paths, are not a part of that.
        self._records, self._division, self._shown = records, division, shown
        self._metadata = metadata
        config = tfds.core.BuilderConfig(name=name, version=VERSION)
        super().__init__(data_dir=str(data_dir), config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._metadata["size"]
        text, integer = tfds.features.Text(), tfds.features.Scalar(np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=IchCt.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "key": text,
                    "image": tfds.features.Tensor(
                        # ArrayRecord compresses the record, to a compressed PNG's size.
                        shape=(size, size, 1),
                        dtype=np.uint8,
                        encoding="bytes",
                    ),
                    "hemorrhage": integer,
                    "location": integer,
                    "subject": text,
                    "study": text,
                    "position_mm": tfds.features.Scalar(np.float32),
                    "digest": text,
                }
            ),
            metadata=tfds.core.MetadataDict(self._metadata),
        )

    def _split_generators(self, dl_manager) -> dict[str, list[Callable[[], Iterator]]]:
        """Of each side, what gives each shard's examples; the order is that of hashed keys."""
        del dl_manager
        return {side: self._shards(side) for side in SPLITS}

    def _shards(self, side: str) -> list[Callable[[], Iterator]]:
        side_of, size = self._division.side_of, self._metadata["size"]
        records = [record for record in self._records if side_of[record.key] == side]
        records.sort(key=lambda record: hashlib.sha256(record.key.encode()).digest())
        n = max(math.ceil(len(records) * size * size * _BYTES_OF_A_PIXEL / SHARD_BYTES), 1)
        bounds = [round(len(records) * i / n) for i in range(n + 1)]
        return [
            functools.partial(
                examples, records[bounds[i] : bounds[i + 1]], size, f"{side}, shard {i + 1} of {n}"
            )
            for i in range(n)
        ]

    def _generate_examples(self, records: Sequence[Record], what: str) -> Iterator:
        yield from examples(records, self._metadata["size"], what)

    def _generate_splits(self, dl_manager, download_config) -> list:
        # TFDS's own way holds a split in memory, and needs TensorFlow from a gigabyte on. Shard by
        # shard neither happens, and Beam's workers write the same files as this process.
        infos = []
        for side, shards in self._split_generators(dl_manager).items():
            writer = SplitBuilder(
                split_dict=self.info.splits,
                features=self.info.features,
                dataset_size=self.info.dataset_size,
                beam_options=download_config.beam_options,
                beam_runner=download_config.beam_runner,
                max_examples_per_split=None,
                example_writer=self._example_writer(),
            )
            template = self._get_filename_template(split_name=side)
            infos.append(writer.submit_shard_based_generation(side, template, shards).result())
        return infos

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        # All of it in TFDS's unfinished folder, which gets its name when it is whole.
        super()._download_and_prepare(dl_manager, download_config)
        folder = Path(self.data_dir)
        for left_by_beam in folder.glob("*.shard_infos.json"):
            left_by_beam.unlink()
        write_splits(folder / "splits.csv", self._records, self._division, self._shown)
        write_checksums(folder)


def name_of(source: Source, plan: SplitPlan, size: int) -> str:
    """A data set's name: whatever changes its records changes it."""
    return f"size{size}_{plan.name}_{source.fingerprint}"


def build(
    source: Source,
    data_dir: Path,
    plan: SplitPlan,
    size: int = DEFAULT_SIZE,
    beam_options: Sequence[str] | None = None,
) -> Path:
    """Builds the shards of `source` once and returns their folder; returns at once if they exist.

    The folder's name tells size, split and the source's fingerprint, so that a changed source or
    option makes a new data set beside the old one. `beam_options`: build through Apache Beam with
    these pipeline options; None: here.

    Raises:
      InputError: an unreadable image, a class that cannot be split, a split by subject that leaks,
        an unwritable `data_dir`, no Beam.
    """
    if not 16 <= size <= 1024:
        raise InputError(f"size is {size}: give 16 to 1024 pixels")
    name = name_of(source, plan, size)
    folder = data_dir / "ich_ct" / name / VERSION
    if folder.is_dir():
        return folder
    through = {} if beam_options is None else settings(beam_options)
    divide(source.records, plan)  # its refusals come before anything is read or made
    alike = read_likeness(source.records)
    earlier = earlier_division(data_dir, plan, source.records)
    shown = shown_contents(source.records, alike)
    division = divide(source.records, plan, shown, earlier)
    metadata = describe(source, plan, size, division, alike)
    _tell_of_growth(metadata, earlier is not None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder.parent / ".lock"):
            if folder.is_dir():
                return folder
            for stale in folder.parent.glob(f"{UNFINISHED}*"):
                shutil.rmtree(stale)
            tfds.disable_progress_bar()
            builder = IchCt(
                records=source.records,
                division=division,
                shown=alike.counts.tolist(),
                metadata=metadata,
                name=name,
                data_dir=data_dir,
            )
            config = tfds.download.DownloadConfig(**through)
            quiet = contextlib.redirect_stdout(io.StringIO())  # in_order shows the progress
            with quiet, tempfile.TemporaryDirectory() as nothing_is_downloaded:
                builder.download_and_prepare(
                    download_dir=nothing_is_downloaded, download_config=config
                )
    except OSError as error:
        raise InputError(f"cannot write the shards to {data_dir}: {error.strerror}") from error
    return folder


def describe(
    source: Source, plan: SplitPlan, size: int, division: Division, alike: Likeness
) -> dict:
    """What every later report says of the data: counts, leaks, confounds, settings.

    Raises InputError where a split by subject leaks.
    """
    records, side_of = source.records, division.side_of
    found = audit(records, side_of, alike)
    if plan.by == "subject" and found.leaks:
        raise InputError(
            f"this split by subject leaks: {'; '.join(found.leaks)}: build into a new --data_dir, "
            "where no earlier data set binds the sides"
        )
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
        "counts": counts(records, side_of),
        "set_aside": sorted({r.subject for r in records if side_of[r.key] == ASIDE}),
        "leak": leak(records, side_of),
        "audit": found.summary(),
        "confounds": confounds(records),
    }


def _tell_of_growth(metadata: dict, grown: bool) -> None:
    if grown:
        print("an earlier data set here binds its subjects to their sides", file=sys.stderr)
    for subject in metadata["set_aside"]:
        print(
            f"set aside: {subject}: its slices are copies from subjects of two sides",
            file=sys.stderr,
        )


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Waits for another process that builds the same; a killed one lets go by itself."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def settings(options: Sequence[str]) -> dict[str, Any]:
    """`beam_runner` and `beam_options` for TFDS, from options such as --runner=FlinkRunner.

    Without a runner it is Beam's DirectRunner, on this machine. Raises InputError without Beam, or
    for options that it does not take.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise InputError(
            "--runner beam needs Apache Beam: install the extra 'beam' in an environment of its "
            "own (docs/shards.md says how)"
        )
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    try:
        parsed = PipelineOptions(list(options))
        runner = parsed.view_as(StandardOptions).runner or "DirectRunner"
    except SystemExit as error:  # of its argument parser, which has said why
        raise InputError(f"Beam does not take the options {' '.join(options)!r}") from error
    return {"beam_runner": runner, "beam_options": parsed}
