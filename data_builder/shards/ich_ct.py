"""Writes the data set `ich_ct` through TFDS: ArrayRecord shards, without TensorFlow."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.split_builder import SplitBuilder

from data_builder.records import Record
from data_builder.shards.examples import Example, examples
from data_builder.shards.files import VERSION, write_checksums
from data_builder.shards.metadata import Metadata
from data_builder.shards.split_file import write_splits
from data_builder.shards.splits import SPLITS, Division

SHARD_BYTES = 64 << 20
"""The largest size of a shard, roughly; a build keeps the examples of one shard in memory."""

_BYTES_OF_A_PIXEL = 0.5  # of a head slice, compressed; an upper estimate

_Shard = Callable[[], Iterator[tuple[str, Example]]]


class IchCt(tfds.core.GeneratorBasedBuilder):
    """8-bit head-CT slices with the labels of two tasks, split by subject.

    A record holds `key`, `subject`, `study` (pseudonyms), `image` (uint8 [size, size, 1]),
    `hemorrhage` (0 or 1), `location` (index into records.LOCATIONS, -1 for a normal slice),
    `position_mm` (along the scan's normal; nan where unknown) and `digest` (of the source slice).
    """  # TFDS writes this text into dataset_info.json

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        records: Sequence[Record],
        division: Division,
        comparable: Sequence[bool],
        metadata: Metadata,
        name: str,
        data_dir: Path,
    ) -> None:
        """Prepares to write `records`; `comparable` is which of them show enough tissue."""
        # TFDS logs its configuration; records, which contain paths, must not be a part of it.
        self._records, self._division, self._comparable = records, division, comparable
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

    def _split_generators(self, dl_manager: Any) -> dict[str, list[_Shard]]:
        """Side -> the examples of each of its shards, in the order of hashed keys."""
        del dl_manager
        return {side: self._shards(side) for side in SPLITS}

    def _shards(self, side: str) -> list[_Shard]:
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
        """Abstract in TFDS, so it must be there; `_generate_splits` does not use it."""
        yield from examples(records, self._metadata["size"], what)

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list:
        # TFDS's own method holds a whole split in memory, and from a gigabyte on needs TensorFlow.
        # Shard by shard it does neither, and Beam's workers write the same files as this process.
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

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        # TFDS calls this in its unfinished folder, which it renames at the end: all files at once.
        super()._download_and_prepare(dl_manager, download_config)
        folder = Path(self.data_dir)
        for left_by_beam in folder.glob("*.shard_infos.json"):
            left_by_beam.unlink()
        write_splits(folder / "splits.csv", self._records, self._division, self._comparable)
        write_checksums(folder)
