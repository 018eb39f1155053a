"""A config's checks, and the model, task and shards that it describes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from data_builder.errors import InputError
from dtvit_jax import calibration, models, parameter_groups, validation_metrics
from dtvit_jax.aggregation import Aggregation
from dtvit_jax.augment import Augmentation, transform
from dtvit_jax.crop import Crop
from dtvit_jax.losses import LossWeights
from dtvit_jax.memory import Estimate, estimate
from dtvit_jax.optimizer import make_optimizer
from dtvit_jax.parameter_groups import WHOLE_ENCODER, overlay
from dtvit_jax.sharding import create
from dtvit_jax.steps import Task, TrainState, merge_model, split_model
from dtvit_jax.tissue import Tissue


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a value that can't work, before anything is built or written."""
    if bool(config.num_epochs) == bool(config.num_steps):
        raise InputError(
            f"config.num_epochs={config.num_epochs} and config.num_steps={config.num_steps}: "
            "give exactly one of them, and 0 for the other"
        )
    for name in ("batch_size", "eval_batch_size", "accumulation", "keep", "log_every_steps"):
        if config[name] < 1:
            raise InputError(f"config.{name}={config[name]}: give 1 or more")
    if config.batch_size % config.accumulation:
        raise InputError(
            f"config.batch_size={config.batch_size} is not a multiple of "
            f"config.accumulation={config.accumulation}"
        )
    for name in ("num_epochs", "num_steps", "seed", "early_stopping"):
        if config[name] < 0:
            raise InputError(f"config.{name}={config[name]}: give 0 or more")
    if config.eval_every_epochs <= 0:
        raise InputError(f"config.eval_every_epochs={config.eval_every_epochs}: give more than 0")
    if config.init_heads and config.init_from == "scratch":
        raise InputError("config.init_heads=True: set --config.init_from to a run's folder")
    if config.best not in (known := validation_metrics.names()):
        raise InputError(f"config.best={config.best!r}: it is one of {', '.join(known)}")
    for name in ("label_smoothing", "ema_decay"):
        if not 0 <= config[name] < 1:
            raise InputError(f"config.{name}={config[name]}: give 0 or more, below 1")
    if not 0 < config.layer_decay <= 1:
        raise InputError(f"config.layer_decay={config.layer_decay}: give above 0, up to 1")
    if config.layer_decay != 1 and not config.model.name.startswith("vit"):
        raise InputError(
            f"config.layer_decay={config.layer_decay}: a CNN has no numbered blocks: leave it at 1"
        )
    if config.frozen_blocks < WHOLE_ENCODER:
        raise InputError(
            f"config.frozen_blocks={config.frozen_blocks}: give 0 or more, "
            f"or {WHOLE_ENCODER} for the whole encoder"
        )
    if config.calibration not in calibration.METHODS:
        raise InputError(
            f"config.calibration={config.calibration!r}: it is one of "
            f"{', '.join(calibration.METHODS)}"
        )
    if config.aggregation.method != "auto":
        Aggregation(config.aggregation.method, config.aggregation.k)
    if config.dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"config.dtype={config.dtype!r}: it is auto, float32 or bfloat16")
    for name in ("windows", "mean", "std"):
        if len(config[name]) < config.model.channels:
            raise InputError(
                f"config.{name} has {len(config[name])} parts for "
                f"config.model.channels={config.model.channels}: give one for each channel"
            )
    for low, high in config.windows:
        if not low < high:
            raise InputError(f"config.windows: ({low}, {high}) must run from low to high")
    make_crop(config)
    if (tissue := make_tissue(config)) is not None:
        tissue.level(tuple(config.windows)[: config.model.channels], config.mean, config.std)
    if config.model.image_size > config.data.size:
        raise InputError(
            f"config.model.image_size={config.model.image_size} is above the shards' "
            f"config.data.size={config.data.size}: build them larger (--config.data.size)"
        )


def compute_dtype(config: ml_collections.ConfigDict) -> Any:
    """The type that the model computes in: bfloat16 on an accelerator unless config.dtype says."""
    if config.dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(config.dtype).type


def make_model(config: ml_collections.ConfigDict) -> nnx.Module:
    """The dual-task model of config.model, with parameters from config.seed."""
    options = config.model.to_dict()
    options.pop("tokens", None)
    if (tissue := make_tissue(config)) is not None:
        windows = tuple(config.windows)[: config.model.channels]
        options["tissue"] = tissue.level(windows, tuple(config.mean), tuple(config.std))
    dtype = compute_dtype(config)
    if options["name"].startswith("vit"):
        on_gpu = jax.default_backend() == "gpu" and dtype == jnp.bfloat16
        options["attention"] = "cudnn" if on_gpu else "xla"
    key = jax.random.key(config.seed)
    return models.create(options.pop("name"), key=key, dtype=dtype, **options)


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


def make_task(config: ml_collections.ConfigDict, steps: int) -> tuple[Task, TrainState]:
    """What the steps need, and the abstract state (shapes only) of training for `steps`."""
    model = nnx.eval_shape(lambda: make_model(config))
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


def check_batch(
    config: ml_collections.ConfigDict, devices: int, epoch_length: int, steps: int
) -> None:
    """Raises InputError where the batch does not suit the devices or the data."""
    part = config.batch_size // config.accumulation
    if part % devices or config.eval_batch_size % devices:
        raise InputError(
            f"config.batch_size / config.accumulation = {part} and config.eval_batch_size = "
            f"{config.eval_batch_size} must be multiples of the {devices} devices"
        )
    if steps < 1:
        raise InputError(
            f"config.batch_size={config.batch_size} is more than all {epoch_length} training "
            "examples of the run: take a smaller batch or more epochs"
        )


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
