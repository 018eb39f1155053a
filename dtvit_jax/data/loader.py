"""Batches of examples, made by threads ahead of the step that takes them.

Training: `training_batches` is an endless iterator over batches of a sequence of examples, whose
position can be saved and restored; batch n has examples n * batch_size onwards, whatever the
number of threads or processes. `Prefetched` takes such an iterator, moves batches to the device
before the step asks for them, and measures how long the device had to wait.

Evaluation: `evaluation_batches` gives every slice of a source once, in stored order.

Both make a `Batch`. With several processes each puts only its own `rows` into the batch. With
config.model.tokens='tissue' a `packer` adds which patches hold tissue, and how they are laid out;
it also reads the other rows, so that all processes choose the same shape.
"""

import collections
import concurrent.futures
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
import psutil
from jaxtyping import Int

from dtvit_jax.data.packing import Packer
from dtvit_jax.data.shards import SliceSource
from dtvit_jax.runtime import aligned

Batch = dict[str, Any]
"""As `training.steps.Batch`, on the host.

Arrays with the batch on their first axis: `image` (uint8 [batch, size, size]), `hemorrhage` and
`location` (-1: none) and `index` (int32 [batch]). In training also `augmentation` (rows of
augment.PARAMETERS) and, with config.data.balance='weights', `class_weight` (float32 [batch, 2]); in
evaluation `mask` (False: padding). With a packer `packing` (models.packed.Packing)."""

PREFETCHED = 2
"""Batches on the device, or being made, besides the one that the step computes."""


@runtime_checkable
class Examples(Protocol):
    """A sequence of examples, each a dict of arrays, such as `examples.TrainingExamples`."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> dict[str, Any]: ...


def training_batches(
    examples: Examples,
    batch_size: int,
    rows: Int[np.ndarray, " rows"] | None = None,
    threads: int | None = None,
    packer: Packer | None = None,
) -> grain.DatasetIterator:
    """Returns an endless iterator of batches, whose position can be saved and restored.

    Args:
      examples: a sequence without an end.
      rows: those that this process's batches hold; None: all.
      threads: each makes whole batches, so that grain's own cost arises once a batch. None: half
        as many as cores, since the step needs cores too and Python runs one thread at a time.
        The batches do not depend on their number.
      packer: adds `packing`.
    """
    rows = np.arange(batch_size) if rows is None else rows
    dataset = grain.MapDataset.source(_TrainingBatches(examples, batch_size, rows, packer))
    threads = threads or max((psutil.cpu_count() or 1) // 2, 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 4))
    return iter(dataset.to_iter_dataset(options))


class _TrainingBatches:
    """The sequence of batches that grain reads: `[n]` is `rows` of batch n."""

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        rows: Int[np.ndarray, " rows"],
        packer: Packer | None,
    ) -> None:
        self._examples, self._batch_size, self._rows = examples, batch_size, rows
        self._packer = packer

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size

    def __getitem__(self, n: int) -> Batch:
        start = int(n) * self._batch_size
        return _batch(lambda row: self._examples[start + row], self._rows, self._packer)


def evaluation_batches(
    source: SliceSource,
    batch_size: int,
    rows: Int[np.ndarray, " rows"] | None = None,
    packer: Packer | None = None,
) -> Iterator[Batch]:
    """Yields every slice once, in stored order; the last batch is padded with the last slice.

    Args:
      rows: those that this process's batches hold; None: all.
      packer: adds `packing`.
    """
    rows = np.arange(batch_size) if rows is None else rows

    def example(start: int, row: int) -> dict[str, Any]:
        return source[min(start + row, len(source) - 1)]

    for start in range(0, len(source), batch_size):
        batch = _batch(functools.partial(example, start), rows, packer)
        yield {**batch, "mask": start + rows < len(source)}


def _batch(
    example: Callable[[int], dict[str, Any]], rows: Int[np.ndarray, " rows"], packer: Packer | None
) -> Batch:
    """The batch of `rows`; `example` returns any row of the batch of all processes."""
    batch = stacked([example(int(row)) for row in rows])
    return packer(batch, rows, example) if packer else batch


def stacked(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stacks examples into a batch; images are aligned, so that JAX on a CPU need not copy them."""
    first = examples[0]
    out = {"image": aligned((len(examples), *first["image"].shape))}
    return {name: np.stack([e[name] for e in examples], out=out.get(name)) for name in first}


@runtime_checkable
class Resumable(Protocol):
    """An iterator whose position can be saved and restored, such as grain's."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


class Prefetched(Iterator):
    """Takes batches from an iterator and moves them to the device ahead of use, by one thread.

    Its state is the position after the last batch that was taken, not after those made ahead: a
    run that restores it continues with the next batch.

    Args:
      batches: an iterator of batches on the host.
      put: moves a batch to the device.
      ahead: batches made before the step asks for them.

    Attributes:
      waited: seconds for which the device was idle because no batch was ready.
    """

    def __init__(
        self, batches: Resumable, put: Callable[[Any], Any], ahead: int = PREFETCHED
    ) -> None:
        self._batches, self._put, self._ahead = batches, put, ahead
        self._state = batches.get_state()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._pending: collections.deque[concurrent.futures.Future] = collections.deque()
        self.waited = 0.0

    def __next__(self) -> Any:
        return self.take()

    def take(self, busy: Any = None) -> Any:
        """Returns the next batch. Raises what its making raised, and StopIteration at the end.

        Args:
          busy: arrays that the device is still computing. If no batch is ready, these are waited
            for first, since a device at work is not idle; only the time after that counts as
            `waited`.
        """
        self._fill()
        pending = self._pending.popleft()
        if not pending.done():
            jax.block_until_ready(busy)
            started = time.perf_counter()
            concurrent.futures.wait([pending])
            self.waited += time.perf_counter() - started
        batch, self._state = pending.result()
        self._fill()
        return batch

    def peek(self) -> Any:
        """Returns the batch that the next `take` returns. Raises what its making raised."""
        self._fill()
        return self._pending[0].result()[0]

    def get_state(self) -> Any:
        """Returns the position after the last batch that was taken."""
        return self._state

    def set_state(self, state: Any) -> None:
        """Continues from a saved position; batches made ahead are dropped."""
        while self._pending:
            concurrent.futures.wait([self._pending.popleft()])
        self._batches.set_state(state)
        self._state = state

    def close(self) -> None:
        """Ends the thread, after the batch that it is making."""
        self._thread.shutdown(cancel_futures=True)

    def _fill(self) -> None:
        while len(self._pending) < self._ahead:
            self._pending.append(self._thread.submit(self._make))

    def _make(self) -> tuple[Any, Any]:
        batch = next(self._batches)
        return self._put(batch), self._batches.get_state()
