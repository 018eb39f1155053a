"""Opens data sets (TFDS ArrayRecord shards) and reads their slices, decoded and kept in memory.

`open_shards` builds the data set that config.data describes, or finds it with `find_shards`;
`Shards.source` gives random access to the slices of one side of its split.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import psutil
import tensorflow_datasets as tfds
from jaxtyping import Int, Int32, UInt8
from tensorflow_datasets.proto import tf_example_pb2

from data_builder.errors import InputError
from data_builder.shards.build import prepare
from data_builder.shards.files import VERSION, data_sets, is_data_set, open_data_set
from data_builder.shards.splits import SPLITS, SplitPlan

CACHE_FRACTION = 0.25
"""Decoded slices stay in memory if all of a side need at most this fraction of the machine's."""


class SliceNames(TypedDict):
    """Pseudonyms of a slice, its subject and its study."""

    key: str
    subject: str
    study: str


class Shards:
    """One data set: `folder`, `metadata` (data_builder's metadata.json) and a source for each side.

    Raises InputError where `folder` holds no data set of this version, or a damaged shard
    (`open_data_set` of data_builder.shards.files).
    """

    def __init__(self, folder: Path) -> None:
        self._builder = open_data_set(folder)
        self.metadata: dict[str, Any] = dict(self._builder.info.metadata or {})
        self.folder = folder
        self._sources: dict[str, SliceSource] = {}

    def source(self, side: str) -> "SliceSource":
        """Returns the slices of 'train', 'validation' or 'test'.

        Raises InputError for any other side.
        """
        if side not in SPLITS:
            raise InputError(f"split {side!r}: it is one of {', '.join(SPLITS)}")
        if side not in self._sources:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            records = self._builder.as_data_source(side, deserialize_method=raw)
            features = self._builder.info.features
            self._sources[side] = SliceSource(records, features, self.metadata["size"])
        return self._sources[side]


class SliceSource:
    """Random access to the slices of one side, which stay in memory once decoded, if all fit.

    `[i]` is a dict of `image` (uint8 [size, size]; a view of the kept pixels, not to be written to)
    and, as int32, `hemorrhage`, `location` (-1: none) and `index` (i).

    Args:
      records: serialised examples, as stored.
      features: of the data set.
      size: pixels a side.
    """

    def __init__(
        self, records: Sequence[bytes], features: tfds.features.FeaturesDict, size: int
    ) -> None:
        self._records = records
        self._names = _subset(features, "key", "subject", "study")
        self._classes = _subset(features, "hemorrhage", "location")
        self._size = size
        needed = len(records) * size * size
        fits = needed <= CACHE_FRACTION * psutil.virtual_memory().total
        self._pixels = np.empty((len(records), size, size), np.uint8) if fits else None
        self._decoded = np.zeros(len(records), bool)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        hemorrhage, location = self._labels[index]
        return {
            "image": self._slice(index),
            "hemorrhage": hemorrhage,
            "location": location,
            "index": np.int32(index),
        }

    def _slice(self, index: int) -> UInt8[np.ndarray, "size size"]:
        if self._pixels is not None and self._decoded[index]:
            return self._pixels[index]
        image = stored_pixels(self._records[index], self._size)
        if self._pixels is not None:
            self._pixels[index] = image
            self._decoded[index] = True  # after the pixels, since other threads read without a lock
        return image

    def describe(self, index: int) -> SliceNames:
        """Returns the pseudonyms of a slice."""
        record = self._names.deserialize_example_np(self._records[index])
        return {
            "key": record["key"].decode(),
            "subject": record["subject"].decode(),
            "study": record["study"].decode(),
        }

    @functools.cached_property
    def _labels(self) -> Int32[np.ndarray, "slices 2"]:
        """`hemorrhage` and `location` of every slice, from one pass over the records."""
        rows = map(self._classes.deserialize_example_np, self._records)
        return np.array([(row["hemorrhage"], row["location"]) for row in rows], np.int32)

    @property
    def strata(self) -> Int[np.ndarray, " slices"]:
        """The class of every slice: an index into data_builder.records.CLASSES."""
        return self._labels[:, 1] + 1


def _subset(features: tfds.features.FeaturesDict, *names: str) -> tfds.features.FeaturesDict:
    # tfds.decode.PartialDecoding would do this, but needs TensorFlow.
    return tfds.features.FeaturesDict({name: features[name] for name in names})


def stored_pixels(record: bytes, size: int) -> UInt8[np.ndarray, "size size"]:
    """Decodes a record's slice. Raises InputError where the shard is damaged.

    Only the image is parsed: TFDS's own deserialisation of a record takes twice the time.
    """
    values = tf_example_pb2.Example.FromString(record).features.feature["image"].bytes_list.value
    if len(values) != 1 or len(values[0]) != size * size:
        raise InputError("a shard holds a damaged slice: build the data set again")
    return np.frombuffer(values[0], np.uint8).reshape(size, size)


def open_shards(data: Any) -> Shards:
    """Opens the data set that config.data describes.

    With `data.source` it is built first, unless `data.dir` has it already; without, it must exist.

    Raises:
      InputError: the source can't be read, or as `find_shards`.
    """
    if not data.source:
        return find_shards(data)
    source = Path(data.source)
    return Shards(prepare(source, Path(data.dir), _split_plan(data), data.size, data.key or None))


def find_shards(data: Any, digest: str = "*") -> Shards:
    """Opens the one data set in `data.dir` that has config.data's size and split, and `digest`.

    If `data.dir` is itself a data set, its size alone must be that of the config.

    Raises:
      InputError: no data set matches, or more than one.
    """
    folder = Path(data.dir)
    if is_data_set(folder):
        shards = Shards(folder)
        if shards.metadata["size"] != data.size:
            raise InputError(
                f"the slices in {folder} have {shards.metadata['size']} pixels a side, "
                f"config.data.size is {data.size}: make them the same"
            )
        return shards
    name = name_of(data, digest)
    matches = data_sets(folder, name)
    # Data sets of earlier versions may be in the same folders.
    matches = [path for path in matches if path.name == VERSION] or matches
    if len(matches) == 1:
        return Shards(matches[0])
    if matches:
        raise InputError(
            f"{len(matches)} data sets in {folder} match {name}: give the folder of one as the "
            f"data folder (--config.data.dir, or --data_dir in evaluate), such as {matches[-1]}"
        )
    existing = ", ".join(sorted(path.name for path in folder.glob("ich_ct/*"))) or "none"
    raise InputError(
        f"no shards in {folder} match {name} (existing: {existing}): give "
        "--config.data.source=SRC to build them, or the folder that holds them as the data folder "
        "(--config.data.dir, or --data_dir in evaluate)"
    )


def name_of(data: Any, digest: str) -> str:
    """The name of the data set with config.data's size and split, and the digest of its source."""
    return f"size{data.size}_{_split_plan(data).name}_{digest}"


def _split_plan(data: Any) -> SplitPlan:
    return SplitPlan(data.split, data.folds, data.fold, data.seed)
