"""Builds what a config describes for training: setup, augmentation and the first state."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from data_builder.errors import InputError
from dtvit_jax.data.augment import Augmentation
from dtvit_jax.models.variables import Tree, Variables, overlay, split_model
from dtvit_jax.training.losses import LossWeights
from dtvit_jax.training.memory import Estimate, estimate
from dtvit_jax.training.network import make_model, make_network
from dtvit_jax.training.optimizer import WHOLE_ENCODER, make_optimizer, trainable
from dtvit_jax.training.sharding import create, gather_for_use, shardings
from dtvit_jax.training.steps import Setup, TrainState


def make_setup(config: ml_collections.ConfigDict, steps: int) -> Setup:
    """The setup of a training of `steps` steps (the length of the learning rate's schedule)."""
    return Setup(
        network=make_network(config),
        optimizer=make_optimizer(config, steps),
        loss_weights=LossWeights(**config.loss),
        location_classes=config.model.location_classes,
        accumulation=config.accumulation,
        seed=config.seed,
        frozen_blocks=config.frozen_blocks,
        smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        mixes=config.augment.mixup > 0,
    )


def make_augmentation(config: ml_collections.ConfigDict) -> Augmentation:
    """The ranges of config.augment. Raises InputError for a value outside of its range."""
    augmentation = Augmentation(**config.augment)
    for name in ("sharpness_probability", "flip_probability"):
        if not 0 <= getattr(augmentation, name) <= 1:
            raise InputError(f"config.augment.{name}: a probability is 0 to 1")
    for name in ("zoom", "shift", "intensity", "noise"):
        if not 0 <= getattr(augmentation, name) < 1:
            raise InputError(f"config.augment.{name}: give 0 or more, below 1")
    part = config.batch_size // config.accumulation
    if augmentation.mixup < 0 or (augmentation.mixup and part % 2):
        raise InputError(
            f"config.augment.mixup={augmentation.mixup:g}: give 0 or more; it blends pairs, so "
            f"config.batch_size / config.accumulation = {part} must be even with it"
        )
    return augmentation


def abstract_state(setup: Setup) -> TrainState:
    """Shapes and types of the state that training changes; nothing is computed."""
    network = setup.network
    with_gradient = trainable(network.params, setup.frozen_blocks)
    moments = jax.eval_shape(setup.optimizer.init, with_gradient)
    ema = {"params": with_gradient, "stats": network.stats} if setup.ema_decay else {}
    step: Any = jax.ShapeDtypeStruct((), np.int32)
    return TrainState(step, network.params, network.stats, moments, ema)


def with_gathering(setup: Setup, placed: TrainState) -> Setup:
    """The setup with a model that gathers the parameters that `placed` divides over devices."""
    network = dataclasses.replace(setup.network, gather=gather_for_use(placed.params))
    return dataclasses.replace(setup, network=network)


def initial_state(
    config: ml_collections.ConfigDict,
    setup: Setup,
    placed: TrainState,
    loaded: Variables | None = None,
) -> TrainState:
    """The state at step 0, each array made in its place (`sharding.placed_on`).

    `loaded` are parameters and statistics from a file (`weights.load.load_into`). Leaves that are
    shapes only are drawn from config.seed; so are all without `loaded`.
    """

    def make() -> tuple[Tree, Tree]:
        _, params, stats = split_model(make_model(config))
        return params, stats

    params, stats = create(make, (placed.params, placed.stats), loaded)
    with_gradient = trainable(params, setup.frozen_blocks)
    moments = jax.jit(setup.optimizer.init, out_shardings=shardings(placed.moments))(with_gradient)
    ema = {"params": with_gradient, "stats": stats} if setup.ema_decay else {}
    # A copy: the step donates the state, and one buffer can't be both parameters and averages.
    copy = jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=shardings(placed.ema))
    step = jax.device_put(np.int32(0), placed.step.sharding)
    return TrainState(step, params, stats, moments, copy(ema))


def step_memory(config: ml_collections.ConfigDict, setup: Setup, state: int) -> Estimate:
    """Bytes that a training step needs on whole images, by the shapes of what it keeps.

    With config.model.tokens='tissue' it needs less. `state`: bytes of a device's part of the state.
    """
    size, network = config.model.image_size, setup.network

    def scalar_output(with_gradient: Tree, examples: int) -> jax.Array:
        params, stats = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (network.params, network.stats)
        )
        model = network.model(overlay(params, with_gradient), stats)
        images = jnp.zeros((examples, size, size, config.model.channels))
        whole = setup.frozen_blocks == WHOLE_ENCODER
        first, second = model(images, key=jax.random.key(0), train_encoder=not whole)
        return first.sum() + second.sum()  # any scalar: the backward pass keeps the same arrays

    return estimate(scalar_output, trainable(network.params, setup.frozen_blocks), state)
