"""The model, task and initial state that a config describes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from data_builder.errors import InputError
from dtvit_jax import models
from dtvit_jax.data.augment import Augmentation, transform
from dtvit_jax.data.crop import Crop
from dtvit_jax.data.tissue import Tissue
from dtvit_jax.training import optimizer as parameter_groups
from dtvit_jax.training.losses import LossWeights
from dtvit_jax.training.memory import Estimate, estimate
from dtvit_jax.training.optimizer import WHOLE_ENCODER, make_optimizer, overlay
from dtvit_jax.training.sharding import create
from dtvit_jax.training.steps import Task, TrainState, merge_model, split_model


def compute_dtype(config: ml_collections.ConfigDict) -> Any:
    """The type that the model computes in: bfloat16 on an accelerator unless config.dtype says."""
    if config.dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(config.dtype).type


def make_model(
    config: ml_collections.ConfigDict, kernels: models.KernelForm = "auto"
) -> nnx.Module:
    """The dual-task model of config.model, with parameters from config.seed."""
    options = config.model.to_dict()
    options.pop("tokens", None)
    if (tissue := make_tissue(config)) is not None:
        windows = tuple(config.windows)[: config.model.channels]
        options["tissue"] = tissue.level(windows, tuple(config.mean), tuple(config.std))
    dtype = compute_dtype(config)
    if options["name"].startswith("vit"):
        on_gpu = jax.default_backend() == "gpu" and dtype == jnp.bfloat16 and kernels == "auto"
        options["attention"] = "cudnn" if on_gpu else "xla"
    key = jax.random.key(config.seed)
    name = options.pop("name")
    return models.create(name, key=key, kernels=kernels, dtype=dtype, **options)


def make_tissue(config: ml_collections.ConfigDict) -> Tissue | None:
    """The rule of config.model.tokens: None where all patches count.

    Raises InputError for a rule that the model can't follow.
    """
    tokens = config.model.get("tokens", "all")  # runs made before there was a choice have none
    if tokens not in ("all", "tissue"):
        raise InputError(f"config.model.tokens={tokens!r}: it is 'all' or 'tissue'")
    if tokens == "all":
        return None
    patch = models.patch_size(config.model.name)
    if patch is None:
        raise InputError(
            f"config.model.tokens='tissue': {config.model.name} needs whole images; take 'all'"
        )
    head = make_crop(config).head is not None
    rule = config.tissue
    return Tissue(config.model.image_size, patch, rule.threshold, rule.margin, head)


def make_crop(config: ml_collections.ConfigDict) -> Crop:
    """What the model sees of a stored slice, by config.crop. Raises InputError for other values."""
    kind = config.get("crop", "centre")  # runs made before there was a choice have none
    if kind not in ("centre", "head"):
        raise InputError(f"config.crop={kind!r}: it is 'centre' or 'head'")
    return Crop(config.model.image_size, config.tissue.threshold if kind == "head" else None)


def make_task(
    config: ml_collections.ConfigDict, steps: int, kernels: models.KernelForm = "auto"
) -> tuple[Task, TrainState]:
    """What the steps need, and the abstract state (shapes only) of training for `steps`."""
    model = nnx.eval_shape(lambda: make_model(config, kernels))
    graph, params, stats = split_model(model)
    optimizer = make_optimizer(config, steps)
    trained = parameter_groups.trained(params, config.frozen_blocks)
    moments = jax.eval_shape(optimizer.init, trained)
    ema = {"params": trained, "stats": stats} if config.ema_decay else {}
    abstract = TrainState(jax.ShapeDtypeStruct((), np.int32), params, stats, moments, ema)
    task = Task(
        graph=graph,
        optimizer=optimizer,
        weights=LossWeights(**config.loss),
        location_classes=config.model.location_classes,
        transform=functools.partial(
            transform,
            image_size=config.model.image_size,
            channels=config.model.channels,
            windows=tuple((float(low), float(high)) for low, high in config.windows),
            mean=tuple(config.mean),
            std=tuple(config.std),
            noise=config.augment.noise > 0,
            head=make_crop(config).head,
        ),
        accumulation=config.accumulation,
        seed=config.seed,
        frozen_blocks=config.frozen_blocks,
        smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        mixes=config.augment.mixup > 0,
    )
    return task, abstract


def make_augmentation(config: ml_collections.ConfigDict) -> Augmentation:
    """The ranges of config.augment. Raises InputError for one that makes no sense."""
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


def step_memory(config: ml_collections.ConfigDict, task: Task, abstract: TrainState) -> Estimate:
    """What a training step of this model needs, by its shapes."""
    size = config.model.image_size

    def loss(trained: Any, examples: int) -> jax.Array:
        params, stats = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (abstract.params, abstract.stats)
        )
        model = merge_model(task.graph, overlay(params, trained), stats)
        images = jnp.zeros((examples, size, size, config.model.channels))
        whole = task.frozen_blocks == WHOLE_ENCODER
        first, second = model(images, key=jax.random.key(0), train_encoder=not whole)
        return first.sum() + second.sum()

    trained = parameter_groups.trained(abstract.params, task.frozen_blocks)
    return estimate(loss, trained, abstract)


def initial_state(
    config: ml_collections.ConfigDict, task: Task, placed: TrainState, loaded: Any = None
) -> TrainState:
    """The state at step 0, made where `placed` says.

    `loaded` is what `pretrained.load_into` gave, if anything: parameters and statistics, of which
    those that are shapes only are made too.
    """

    def make() -> tuple[Any, Any]:
        return split_model(make_model(config))[1:]

    params, stats = create(make, (placed.params, placed.stats), loaded)
    trained = parameter_groups.trained(params, task.frozen_blocks)
    moments = jax.jit(task.optimizer.init, out_shardings=placed.moments)(trained)
    ema = {"params": trained, "stats": stats} if task.ema_decay else {}
    copy = jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=placed.ema)
    ema = copy(ema)  # each step gives away the memory of what it gets
    return TrainState(jax.device_put(np.int32(0), placed.step), params, stats, moments, ema)
