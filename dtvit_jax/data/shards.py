"""Reads the slices of a data set: TFDS ArrayRecord shards, decoded and kept in memory."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tensorflow_datasets as tfds
from jaxtyping import Int, Int32, UInt8
from tensorflow_datasets.proto import tf_example_pb2

from data_builder.errors import InputError
from data_builder.shards.build import prepare
from data_builder.shards.files import VERSION, data_sets, is_data_set, open_data_set
from data_builder.shards.splits import SPLITS, SplitPlan

CACHE_PART_OF_MEMORY = 0.25
"""Decoded slices stay in memory while they need at most this part of it."""


class Shards:
    """The data set in one folder: `metadata` and a slice source for each side.

    Raises InputError for what is no data set, or has a damaged shard (`shards.open_data_set`).
    """

    def __init__(self, folder: Path) -> None:
        self._builder = open_data_set(folder)
        self.metadata: dict[str, Any] = dict(self._builder.info.metadata or {})
        self.folder = folder
        self._sources: dict[str, SliceSource] = {}

    def source(self, side: str) -> "SliceSource":
        """Slices of 'train', 'validation' or 'test'. Raises InputError for any other side."""
        if side not in SPLITS:
            raise InputError(f"split {side!r}: it is one of {', '.join(SPLITS)}")
        if side not in self._sources:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            records = self._builder.as_data_source(side, deserialize_method=raw)
            features = self._builder.info.features
            self._sources[side] = SliceSource(records, features, self.metadata["size"])
        return self._sources[side]


class SliceSource:
    """Random access to decoded slices, kept in memory where they fit.

    `[i]` gives `image` (uint8 [size, size]), `hemorrhage`, `location` (-1: none) and `index`.
    """

    def __init__(
        self, records: Sequence[bytes], features: tfds.features.FeaturesDict, size: int
    ) -> None:
        self._records = records  # as they are stored
        self._names = _part(features, "key", "subject", "study")
        self._classes = _part(features, "hemorrhage", "location")
        self._size = size
        needed = len(records) * size * size
        fits = needed <= CACHE_PART_OF_MEMORY * psutil.virtual_memory().total
        self._pixels = np.empty((len(records), size, size), np.uint8) if fits else None
        self._kept = np.zeros(len(records), bool)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        hemorrhage, location = self._labels[index]
        return {
            "image": self._slice(index),
            "hemorrhage": hemorrhage,
            "location": location,
            "index": np.int32(index),
        }

    def _slice(self, index: int) -> UInt8[np.ndarray, "size size"]:
        if self._pixels is not None and self._kept[index]:
            return self._pixels[index]
        image = stored_pixels(self._records[index], self._size)
        if self._pixels is not None:
            self._pixels[index] = image
            self._kept[index] = True  # after the pixels: another thread may look
        return image

    def describe(self, index: int) -> dict[str, str]:
        """`key`, `subject` and `study` of a slice."""
        record = self._names.deserialize_example_np(self._records[index])
        return {name: record[name].decode() for name in ("key", "subject", "study")}

    @functools.cached_property
    def _labels(self) -> Int32[np.ndarray, "slices 2"]:
        """`hemorrhage` and `location` of every slice, from one pass over the records."""
        rows = map(self._classes.deserialize_example_np, self._records)
        return np.array([(row["hemorrhage"], row["location"]) for row in rows], np.int32)

    @property
    def strata(self) -> Int[np.ndarray, " slices"]:
        """Index into CLASSES of every slice."""
        return self._labels[:, 1] + 1


def _part(features: tfds.features.FeaturesDict, *names: str) -> tfds.features.FeaturesDict:
    # tfds.decode.PartialDecoding would do this, but needs TensorFlow.
    return tfds.features.FeaturesDict({name: features[name] for name in names})


def stored_pixels(record: bytes, size: int) -> UInt8[np.ndarray, "size size"]:
    """A record's slice. Raises InputError where the shard is damaged.

    The other features are left alone: TFDS's own reading of a record takes twice the time.
    """
    values = tf_example_pb2.Example.FromString(record).features.feature["image"].bytes_list.value
    if len(values) != 1 or len(values[0]) != size * size:
        raise InputError("a shard holds a damaged slice: build the data set again")
    return np.frombuffer(values[0], np.uint8).reshape(size, size)


def open_shards(data: Any) -> Shards:
    """The shards that config.data names: built from `data.source` first, or found.

    Raises InputError where the source can't be read, or as `find_shards`.
    """
    if not data.source:
        return find_shards(data)
    plan = SplitPlan(data.split, data.folds, data.fold, data.seed)
    source = Path(data.source)
    return Shards(prepare(source, Path(data.dir), plan, data.size, data.key or None))


def find_shards(data: Any, digest: str = "*") -> Shards:
    """The one data set in `data.dir` (or that it is) with config.data's size, split and `digest`.

    Raises:
      InputError: none fits, or more than one.
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
    plan = SplitPlan(data.split, data.folds, data.fold, data.seed)
    name = f"size{data.size}_{plan.name}_{digest}"
    found = data_sets(folder, name)
    found = [path for path in found if path.name == VERSION] or found  # those of old lie beside
    if len(found) == 1:
        return Shards(found[0])
    if found:
        raise InputError(
            f"{len(found)} data sets in {folder} fit {name}: give the folder of one as the data "
            f"folder (--config.data.dir, or --data_dir in evaluate), such as {found[-1]}"
        )
    others = ", ".join(sorted(path.name for path in folder.glob("ich_ct/*"))) or "none"
    raise InputError(
        f"no shards in {folder} fit {name} (there: {others}): give --config.data.source=SRC to "
        "build them, or the folder where they lie"
    )
