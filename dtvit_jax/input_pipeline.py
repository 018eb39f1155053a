"""Shards to batches: TFDS ArrayRecord through grain, each example a function of its place."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
import psutil
import tensorflow_datasets as tfds
from jaxtyping import Float32, Int, Int32, UInt8
from tensorflow_datasets.proto import tf_example_pb2

from data_builder.errors import InputError
from data_builder.prepare import prepare
from data_builder.records import CLASSES
from data_builder.shards import VERSION, data_sets, is_data_set, open_data_set
from data_builder.splits import SPLITS, SplitPlan
from dtvit_jax.allocator import aligned
from dtvit_jax.augment import Augmentation, stream
from dtvit_jax.packing import Packer

CACHE_PART_OF_MEMORY = 0.25
"""Decoded slices stay in memory while they need at most this part of it."""

BALANCES = ("replicate", "weights", "none")
"""How training slices are balanced: seen more often, weighed in the loss, or not at all."""

Batch = dict[str, np.ndarray]


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


def replication(strata: np.ndarray) -> np.ndarray:
    """How often each class of CLASSES is seen in an epoch (section 2.2.3 of the paper).

    Integer factors: first the locations up to the largest of them, floor(largest / class); then
    the smaller of ICH and normal up to the larger. Published counts give 3, 1, 3, 12.
    """
    slices = np.bincount(strata, minlength=len(CLASSES))
    factors = np.ones(len(CLASSES), int)
    largest = slices[1:].max()
    for i, n in enumerate(slices[1:], start=1):
        factors[i] = largest // n if n else 1
    normal, hemorrhage = slices[0], int((factors * slices)[1:].sum())
    if 0 < normal < hemorrhage:
        factors[0] = hemorrhage // normal
    elif hemorrhage:
        factors[1:] *= max(normal // hemorrhage, 1)
    return factors


def class_weights(strata: np.ndarray) -> Float32[np.ndarray, "4 2"]:
    """Weights of each class of CLASSES in the two tasks' losses, from the training slices.

    In each task every class weighs the same in total, and the mean weight is 1: n / (k n_c). The
    location task counts ICH slices; its fourth class, where a model has one, weighs as the others.
    """
    slices = np.bincount(strata, minlength=len(CLASSES)).astype(np.float32)
    hemorrhage, places = slices[1:].sum(), np.count_nonzero(slices[1:])
    weights = np.zeros((len(CLASSES), 2), np.float32)
    seen = np.maximum(slices, 1)
    weights[0, 0] = slices.sum() / (2 * seen[0])
    weights[1:, 0] = slices.sum() / (2 * max(hemorrhage, 1))
    weights[:, 1] = hemorrhage / (max(places, 1) * seen)
    return weights


class TrainingExamples:
    """All epochs as one long sequence: `[i]` is a function of seed and i alone."""

    def __init__(
        self, source: SliceSource, balance: str, augmentation: Augmentation, seed: int
    ) -> None:
        if balance not in BALANCES:
            raise InputError(
                f"config.data.balance={balance!r}: it is one of {', '.join(map(repr, BALANCES))}"
            )
        self._source, self._augmentation, self._seed = source, augmentation, seed
        self._weights = class_weights(source.strata) if balance == "weights" else None
        factors = replication(source.strata) if balance == "replicate" else np.ones(4, int)
        self._epoch = np.repeat(np.arange(len(source)), factors[source.strata])
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def epoch_length(self) -> int:
        """Examples an epoch, replicas counted."""
        return len(self._epoch)

    def __len__(self) -> int:
        return np.iinfo(np.int32).max

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order, and the parameters of its examples."""
        # Not functools.lru_cache of a method, whose cycle would keep a source's decoded slices in
        # memory after its use, until Python collects cycles.
        if epoch not in self._epochs:
            n = len(self._epoch)
            order = stream(self._seed, epoch, "order").permutation(n)
            drawn = order, self._augmentation.draw(self._seed, epoch, n)
            self._epochs = {epoch: drawn, **dict(list(self._epochs.items())[:1])}
        return self._epochs[epoch]

    def __getitem__(self, i: int) -> dict:
        epoch, place = divmod(int(i), len(self._epoch))
        order, parameters = self._drawn(epoch)
        which = order[place]
        row = self._source[int(self._epoch[which])]
        row["augmentation"] = parameters[which]
        if self._weights is not None:
            row["class_weight"] = self._weights[row["location"] + 1]
        return row


class _TrainingBatches:
    """`[n]` is `rows` of batch n of the endless sequence of examples."""

    def __init__(
        self,
        examples: Any,
        batch_size: int,
        rows: np.ndarray,
        packer: Packer | None,
    ) -> None:
        self._examples, self._batch_size, self._rows = examples, batch_size, rows
        self._packer = packer

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size

    def __getitem__(self, n: int) -> Batch:
        start = int(n) * self._batch_size
        batch = stacked([self._examples[start + int(row)] for row in self._rows])
        if self._packer is None:
            return batch
        return self._packer(batch, self._rows, lambda row: self._examples[start + row])


def training_batches(
    examples: Any,
    batch_size: int,
    rows: np.ndarray | None = None,
    threads: int | None = None,
    packer: Packer | None = None,
) -> grain.DatasetIterator:
    """An endless iterator of batches; its state can be saved and set.

    Args:
      examples: an endless sequence, such as TrainingExamples.
      rows: those of each batch that this process reads; all, if None.
      threads: each makes a whole batch, so that grain's own cost is paid once for it; None: half
        as many as cores, since the step wants cores too and Python runs one thread at a time.
        The batches do not depend on their number.
      packer: adds `packing` to each batch (config.model.tokens='tissue').
    """
    rows = np.arange(batch_size) if rows is None else rows
    dataset = grain.MapDataset.source(_TrainingBatches(examples, batch_size, rows, packer))
    threads = threads or max((psutil.cpu_count() or 1) // 2, 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 4))
    return iter(dataset.to_iter_dataset(options))


def stacked(rows: Sequence[dict]) -> Batch:
    """Examples as one batch."""
    batch = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "image"}
    images = aligned((len(rows), *rows[0]["image"].shape))
    return {**batch, "image": np.stack([row["image"] for row in rows], out=images)}


def _at(source: SliceSource, indices: np.ndarray, row: int) -> dict:
    return source[int(indices[row])]


def evaluation_batches(
    source: SliceSource,
    batch_size: int,
    rows: np.ndarray | None = None,
    packer: Packer | None = None,
) -> Iterator[Batch]:
    """Every slice once, in stored order; the last batch is padded where `mask` is False.

    `rows` of each batch are given, where this process loads those alone; all of them, if None.
    `packer` adds `packing` to each batch (config.model.tokens='tissue').
    """
    rows = np.arange(batch_size) if rows is None else rows
    for start in range(0, len(source), batch_size):
        wanted = start + rows
        batch = stacked([source[int(i)] for i in np.minimum(wanted, len(source) - 1)])
        batch["mask"] = wanted < len(source)
        if packer is not None:
            of_row = np.minimum(start + np.arange(batch_size), len(source) - 1)
            batch = packer(batch, rows, functools.partial(_at, source, of_row))
        yield batch


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
