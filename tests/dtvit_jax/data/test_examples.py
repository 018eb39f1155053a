import gc
import weakref
from collections import Counter

import numpy as np
import pytest

from data_builder.errors import InputError
from dtvit_jax.data.augment import Augmentation
from dtvit_jax.data.examples import TrainingExamples, class_weights, replication
from dtvit_jax.data.loader import training_batches

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


def test_another_balance_is_refused(shards):
    with pytest.raises(InputError, match=r"config\.data\.balance"):
        TrainingExamples(shards.source("train"), "copies", PAPER, 0)
