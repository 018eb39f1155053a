import concurrent.futures
import contextlib
import gc
import shutil
import threading
import weakref
from collections import Counter

import ml_collections
import numpy as np
import pytest

from data_builder.errors import InputError
from dtvit_jax.data import loader
from dtvit_jax.data.augment import Augmentation
from dtvit_jax.data.examples import TrainingExamples, class_weights, replication
from dtvit_jax.data.loader import Prefetched, evaluation_batches, training_batches
from dtvit_jax.data.shards import Shards, find_shards, stored_pixels

PAPER = Augmentation(15.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0)


def test_replication_gives_the_papers_table():
    """Section 2.2.3 of the paper: 13,221 normal, 6,093 Deep, 4,968 Lobar, 5,940 Subtentorial."""
    published = np.repeat([0, 1, 2, 3], [4407, 6093, 1656, 495])
    factors = replication(published)
    assert (factors * [4407, 6093, 1656, 495]).tolist() == [13221, 6093, 4968, 5940]


@pytest.mark.parametrize(
    ("slices", "factors"),
    [
        ((100, 10, 5, 2), (1, 3, 6, 15)),  # locations x1, x2, x5, then ICH x3 up to normal
        ((10, 10, 0, 10), (2, 1, 1, 1)),
        ((7, 10, 10, 10), (4, 1, 1, 1)),
    ],
)
def test_replication_by_hand(slices, factors):
    assert tuple(replication(np.repeat([0, 1, 2, 3], slices))) == factors


def test_an_epoch_sees_each_slice_as_often_as_its_class_says(shards):
    source = shards.source("train")
    examples = TrainingExamples(source, "replicate", PAPER, seed=0)
    factors = replication(source.strata)
    for epoch in (0, 1):
        start = epoch * examples.epoch_length
        seen = Counter(int(examples[start + i]["index"]) for i in range(examples.epoch_length))
        assert seen == {i: factors[source.strata[i]] for i in range(len(source))}


def test_epochs_are_shuffled_differently_and_seeds_too(shards):
    source = shards.source("train")

    def order(seed, epoch):
        examples = TrainingExamples(source, "none", PAPER, seed)
        n = examples.epoch_length
        return [int(examples[epoch * n + i]["index"]) for i in range(n)]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_examples_leave_memory_with_their_last_use(shards):
    examples = TrainingExamples(shards.source("train"), "none", PAPER, 0)
    _ = examples[0], examples[examples.epoch_length]
    left = weakref.ref(examples)
    gc.disable()
    try:
        del examples
        assert left() is None
    finally:
        gc.enable()


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


WILD = Augmentation(15.0, 2.0, 0.5, 0.5, 0.1, 0.1, 0.2, 0.05, 0.4)


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


def test_decoded_slices_are_the_same_from_memory(shards):
    source = Shards(shards.folder).source("train")
    cold, warm = source[3], source[3]
    assert (cold["image"] == warm["image"]).all()
    assert cold["hemorrhage"] == warm["hemorrhage"] and cold["index"] == warm["index"] == 3


def test_labels_are_the_records(shards):
    source = shards.source("train")
    stored = shards._builder.as_data_source("train")
    for i, record in enumerate(stored):
        row = source[i]
        assert (row["hemorrhage"], row["location"]) == (record["hemorrhage"], record["location"])
        assert (row["image"] == record["image"][..., 0]).all()
        assert source.describe(i)["key"] == record["key"].decode()


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


def test_class_weights_by_hand():
    """4 normal, 3 deep, 2 lobar, 1 subtentorial: n / (k n_c) in each task."""
    weights = class_weights(np.repeat([0, 1, 2, 3], [4, 3, 2, 1]))
    assert weights[:, 0] == pytest.approx([10 / 8, 10 / 12, 10 / 12, 10 / 12])
    assert weights[1:, 1] == pytest.approx([6 / 9, 6 / 6, 6 / 3])
    assert weights[0, 1] == pytest.approx(6 / 12)  # the fourth class weighs as a third of all ICH


def test_weights_come_with_each_slice_and_none_is_repeated(shards):
    source = shards.source("train")
    examples = TrainingExamples(source, "weights", PAPER, 0)
    weights = class_weights(source.strata)
    assert examples.epoch_length == len(source)
    for i in range(examples.epoch_length):
        row = examples[i]
        assert (row["class_weight"] == weights[source.strata[row["index"]]]).all()
    batch = next(training_batches(examples, 8))
    assert batch["class_weight"].shape == (8, 2)


def test_shards_of_another_size_are_refused(shards):
    with pytest.raises(InputError, match=r"36 pixels a side, config\.data\.size is 64"):
        find_shards(data_config(shards.folder, size=64))


def test_bad_balance_split_and_pixels(shards):
    with pytest.raises(InputError, match=r"config\.data\.balance"):
        TrainingExamples(shards.source("train"), "copies", PAPER, 0)
    with pytest.raises(InputError, match="split 'training'"):
        shards.source("training")
    with pytest.raises(InputError, match="damaged"):
        stored_pixels(b"", 36)
    with pytest.raises(InputError, match="damaged"):
        stored_pixels(shards.source("train")._records[0], 37)


def data_config(folder, **changes):
    values = {"source": "", "key": "", "size": 36, "split": "subject"}
    values |= {"dir": str(folder), "folds": 0, "fold": 0, "seed": 0}
    return ml_collections.ConfigDict(values | changes)


def test_shards_are_found_by_what_they_are(shards):
    data_dir = shards.folder.parents[2]
    assert find_shards(data_config(shards.folder)).folder == shards.folder
    digest = shards.metadata["digest"]
    assert find_shards(data_config(data_dir), digest).folder == shards.folder
    with pytest.raises(InputError, match="no shards in"):
        find_shards(data_config(data_dir, size=64))
    with pytest.raises(InputError, match="no shards in"):
        find_shards(data_config(data_dir), "0" * 16)


def test_shards_built_again_are_found_beside_those_of_an_older_version(shards, tmp_path):
    named = tmp_path / "ich_ct" / shards.folder.parent.name
    for version in ("1.1.0", "1.2.0"):
        folder = shutil.copytree(shards.folder, named / version)
        info = folder / "dataset_info.json"
        info.write_text(info.read_text().replace('"1.2.0"', f'"{version}"'))
    assert find_shards(data_config(tmp_path)).folder == named / "1.2.0"
    shutil.rmtree(named / "1.2.0")
    with pytest.raises(InputError, match=r"version 1\.1\.0, .*build them again"):
        find_shards(data_config(tmp_path))


def test_shards_of_another_version_or_none(shards, tmp_path):
    text = (shards.folder / "dataset_info.json").read_text()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match="no readable data set"):
        Shards(other)
    for path in shards.folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "dataset_info.json").write_text(text.replace('"1.2.0"', '"0.9.0"'))
    with pytest.raises(InputError, match=r"version 0\.9\.0"):
        Shards(other)
