"""Batches of examples through grain, prepared ahead of the step that takes them.

Batches on the device before the step asks for them, and how long a step had to wait.
"""

import collections
import concurrent.futures
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
import psutil

from dtvit_jax.data.packing import Packer
from dtvit_jax.data.shards import SliceSource
from dtvit_jax.runtime import aligned

Batch = dict[str, np.ndarray]


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


AHEAD = 2
"""Batches that lie ready, or are being made, beside the one that the step computes."""


@runtime_checkable
class Resumable(Protocol):
    """An iterator that can go on from a saved place, such as grain's."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


class Prefetched(Iterator):
    """`batches`, each handed to `put` (host arrays to device arrays) by a thread, AHEAD of use.

    `get_state` is that of the batches taken so far, not of those made ahead: a run that sets it
    goes on with the next batch, whatever lay ready. `waited` counts the seconds in which the
    device had nothing to do for want of data.
    """

    def __init__(self, batches: Resumable, put: Callable[[Any], Any], ahead: int = AHEAD) -> None:
        self._batches, self._put, self._ahead = batches, put, ahead
        self._state = batches.get_state()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: collections.deque[concurrent.futures.Future] = collections.deque()
        self.waited = 0.0

    def __next__(self) -> Any:
        return self.take()

    def take(self, busy: Any = None) -> Any:
        """The next batch. Raises what making it raised, and StopIteration at the end.

        `busy`: what the device still computes. Where no batch is ready, that is waited for first,
        since a device at work does not starve; only the wait after it is counted.
        """
        self._fill()
        coming = self._coming.popleft()
        if not coming.done():
            jax.block_until_ready(busy)
            started = time.perf_counter()
            concurrent.futures.wait([coming])
            self.waited += time.perf_counter() - started
        batch, self._state = coming.result()
        self._fill()
        return batch

    def peek(self) -> Any:
        """The next batch, which `take` will give. Raises what making it raised."""
        self._fill()
        return self._coming[0].result()[0]

    def get_state(self) -> Any:
        """The place after the last batch that was taken."""
        return self._state

    def set_state(self, state: Any) -> None:
        """Goes on from a saved place; what lay ready is dropped."""
        while self._coming:
            concurrent.futures.wait([self._coming.popleft()])
        self._batches.set_state(state)
        self._state = state

    def close(self) -> None:
        """Ends the thread; a batch that it is making is waited for."""
        self._thread.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        while len(self._coming) < self._ahead:
            self._coming.append(self._thread.submit(self._make))

    def _make(self) -> tuple[Any, Any]:
        batch = next(self._batches)
        return self._put(batch), self._batches.get_state()
