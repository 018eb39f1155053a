import concurrent.futures
import contextlib
import threading

import numpy as np
import pytest

from data_builder.errors import InputError
from dtvit_jax.data import loader
from dtvit_jax.data.augment import Augmentation
from dtvit_jax.data.examples import TrainingExamples
from dtvit_jax.data.loader import Prefetched, evaluation_batches, training_batches
from dtvit_jax.data.shards import Shards

PAPER = Augmentation(15.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0)
WILD = Augmentation(15.0, 2.0, 0.5, 0.5, 0.1, 0.1, 0.2, 0.05, 0.4)


def test_batches_resume_in_the_middle_with_the_same_bytes(shards):
    def batches():
        return training_batches(TrainingExamples(shards.source("train"), "replicate", PAPER, 5), 8)

    whole = batches()
    first = [next(whole) for _ in range(6)]
    half = batches()
    for _ in range(3):
        next(half)
    state = half.get_state()
    later = batches()
    later.set_state(state)
    for expected in first[3:]:
        found = next(later)
        assert all((found[name] == expected[name]).all() for name in expected)


def equal(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_batches_do_not_depend_on_the_number_of_threads(shards):
    def batches(threads):
        source = Shards(shards.folder).source("train")
        examples = TrainingExamples(source, "replicate", WILD, 5)
        return training_batches(examples, 8, threads=threads), examples

    (one, examples), (four, _) = batches(1), batches(4)
    n = 2 * examples.epoch_length // 8  # into the second epoch, and from memory
    for _ in range(n):
        batch = next(one)
        assert equal(batch, next(four))
    last = [examples[8 * (n - 1) + i] for i in range(8)]  # and by itself, in any order
    assert (batch["augmentation"] == [row["augmentation"] for row in last]).all()
    assert len(set(batch["augmentation"][:, 0])) == 8


def test_processes_read_their_parts_of_the_same_batches(shards):
    examples = TrainingExamples(shards.source("train"), "replicate", WILD, 5)
    whole = training_batches(examples, 8)
    parts = [training_batches(examples, 8, np.arange(start, start + 4)) for start in (0, 4)]
    for _ in range(3):
        first, second = map(next, parts)
        together = {name: np.concatenate([first[name], second[name]]) for name in first}
        assert equal(next(whole), together)


class Clock:
    """A replacement of the loader's `time`, at which 1 second passes while a batch is made."""

    def __init__(self):
        self.now, self.at_next_reading = 0.0, None

    def perf_counter(self):
        now, action, self.at_next_reading = self.now, self.at_next_reading, None
        if action is not None:
            action()
        return now


class Batches:
    """A source of batches 1, 2, ..., each of which is made once a permit is released."""

    def __init__(self, clock):
        self.place, self.clock, self.permits = 0, clock, threading.Semaphore(0)

    def __next__(self):
        self.permits.acquire()
        self.clock.now += 1
        self.place += 1
        return self.place

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


class Device:
    """Results that a device is computing until `batch` is made, which begins meanwhile."""

    def __init__(self, source, batch):
        self.source, self.batch = source, batch

    def block_until_ready(self):
        self.source.permits.release()
        concurrent.futures.wait([self.batch])


def test_the_state_is_that_of_the_batches_taken(shards):
    def batches():
        examples = TrainingExamples(shards.source("train"), "replicate", WILD, 5)
        return Prefetched(training_batches(examples, 8), lambda batch: batch)

    with contextlib.closing(batches()) as untouched:
        whole = [next(untouched) for _ in range(7)]
    for taken in (0, 1, 4):
        with contextlib.closing(batches()) as stopped, contextlib.closing(batches()) as resumed:
            for _ in range(taken):
                next(stopped)
            next(resumed)  # what it has made ahead is dropped
            resumed.set_state(stopped.get_state())
            assert all(equal(next(resumed), expected) for expected in whole[taken:])


def test_only_time_in_which_the_device_is_idle_counts_as_waited(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loader, "time", clock)
    source = Batches(clock)
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(contextlib.closing(Prefetched(source, lambda x: x)))
        stack.callback(source.permits.release, 10)  # or the thread would never end
        for n in (1, 2, 3):  # made only once `take` waits for it
            clock.at_next_reading = source.permits.release
            assert batches.take() == n
            assert batches.get_state() == {"place": n}
            assert batches.waited == n
        busy = Device(source, batches._pending[0])
        assert [batches.take(busy), clock.now, batches.waited] == [4, 4.0, 3.0]
        source.permits.release()
        concurrent.futures.wait([batches._pending[0]])
        assert [batches.take(), clock.now, batches.waited] == [5, 5.0, 3.0]  # it was ready


def test_an_error_in_the_thread_is_raised_by_take():
    def fail(batch):
        raise InputError("a shard holds a damaged slice")

    source = Batches(Clock())
    source.permits.release(10)
    batches = Prefetched(source, fail)
    with contextlib.closing(batches), pytest.raises(InputError, match="damaged"):
        batches.take()


@pytest.mark.parametrize("size", [1, 5, 7, 100])
def test_evaluation_counts_every_slice_once(shards, size):
    source = shards.source("validation")
    seen = [
        int(i)
        for batch in evaluation_batches(source, size)
        for i, counted in zip(batch["index"], batch["mask"], strict=True)
        if counted
    ]
    assert seen == list(range(len(source)))
    assert all(len(batch["image"]) == size for batch in evaluation_batches(source, size))
