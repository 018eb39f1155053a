"""Tests of mixup by hand: images, and the loss of both tasks with two labels an example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_builder.errors import InputError
from dtvit_jax.data import augment
from dtvit_jax.data.augment import IDENTITY, PARAMETERS, Augmentation
from dtvit_jax.training.setup import make_augmentation, make_setup
from dtvit_jax.training.steps import train_step
from tests.helpers import tiny
from tests.helpers.batches import batch_of, fresh

SIZE, HALF = 8, 4


def drawn_rows():
    """Returns the rows of 8 examples with a drawn share only, and the share of each example."""
    draws = Augmentation(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, mixup=0.8)
    rows = draws.draw(0, 0, SIZE)
    assert (rows[:, :7] == IDENTITY[:7]).all()
    first = rows[:HALF, PARAMETERS.index("share")]
    return rows, np.concatenate([first, first])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_pair_is_blended_by_one_share(accumulation):
    images = np.random.default_rng(0).normal(size=(SIZE, 4, 4, 1)).astype(np.float32)
    rows, share = drawn_rows()
    found = np.empty_like(images)
    for part in range(accumulation):  # the parts that steps.train_step makes
        of = slice(part, None, accumulation)
        found[of] = augment.mix(jnp.asarray(images[of]), augment.shares(jnp.asarray(rows[of])))
    for i, kept in enumerate(share):
        assert np.allclose(
            found[i], kept * images[i] + (1 - kept) * images[(i + HALF) % SIZE], atol=1e-6
        )


def test_the_loss_of_mixed_labels():
    """Cross-entropy with soft labels; a normal slice adds nothing to the location task."""
    config = tiny.get_config()
    config.model.head_dropout = 0.0
    config.augment.mixup = 0.8
    rows, share = drawn_rows()
    batch = {k: jnp.asarray(v) for k, v in {**batch_of(SIZE), "augmentation": rows}.items()}
    assert 0 < batch["hemorrhage"].sum() < SIZE
    other = (np.arange(SIZE) + HALF) % SIZE
    setup, state = fresh(config)

    @jax.jit
    def logits_of(params):
        model = setup.network.model(params, {})
        images = setup.network.transform(batch["image"], batch["augmentation"])
        kept = share[:, None, None, None]
        return model(kept * images + (1 - kept) * images[other])

    logits = logits_of(state.params)

    def soft(labels, counted, classes):
        one_hot = np.eye(classes)[np.maximum(labels, 0)] * counted[:, None]
        return share[:, None] * one_hot + (1 - share)[:, None] * one_hot[other]

    target_1 = soft(batch["hemorrhage"], np.ones(SIZE), 2)
    target_2 = soft(batch["location"], batch["hemorrhage"], 3)
    assert target_2.sum() == pytest.approx(batch["hemorrhage"].sum())  # each ICH counts as 1
    loss_1 = optax.softmax_cross_entropy(logits[0], target_1).sum() / target_1.sum()
    loss_2 = optax.softmax_cross_entropy(logits[1], target_2).sum() / target_2.sum()
    for parts in (1, 2):
        config.accumulation = parts
        setup = make_setup(config, steps=10)
        _, logged = jax.jit(functools.partial(train_step, setup=setup))(state, batch)
        assert float(logged["loss"]) == pytest.approx(float(0.5 * loss_1 + 0.5 * loss_2), rel=1e-5)


def test_an_odd_part_cannot_be_paired():
    config = tiny.get_config()
    config.augment.mixup = 0.2
    make_augmentation(config)
    config.accumulation = config.batch_size
    with pytest.raises(InputError, match=r"config\.augment\.mixup=0\.2: .* = 1 must be even"):
        make_augmentation(config)
