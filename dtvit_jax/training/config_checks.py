"""Checks of a config, before anything is built or written."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections

from data_builder.errors import InputError
from dtvit_jax.decision import calibration
from dtvit_jax.decision.aggregation import Aggregation
from dtvit_jax.training import validation
from dtvit_jax.training.network import has_cudnn_attention, make_crop, make_tissue
from dtvit_jax.training.optimizer import WHOLE_ENCODER


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a value that can't work, before anything is built or written."""
    _check_finite(config)
    _check_length(config)
    _check_optimization(config)
    _check_evaluation(config)
    _check_input(config)


def _check_each(
    config: ml_collections.ConfigDict, names: Iterable[str], holds: Callable[[Any], bool], mend: str
) -> None:
    """Raises InputError for the first of the fields that does not hold."""
    for name in names:
        if not holds(config[name]):
            raise InputError(f"config.{name}={config[name]}: {mend}")


def _check_finite(config: ml_collections.ConfigDict, parents: str = "config") -> None:
    """No field is nan or infinite: config.json can't hold it, and comparisons let it pass."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            _check_finite(value, f"{parents}.{name}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{parents}.{name}={value}: give a finite number")


def _check_length(config: ml_collections.ConfigDict) -> None:
    """How much is trained at a time, and for how long."""
    if bool(config.num_epochs) == bool(config.num_steps):
        raise InputError(
            f"config.num_epochs={config.num_epochs} and config.num_steps={config.num_steps}: "
            "give exactly one of them, and 0 for the other"
        )
    counts = ("batch_size", "eval_batch_size", "accumulation", "keep", "log_every_steps")
    _check_each(config, counts, lambda n: n >= 1, "give 1 or more")
    if config.batch_size % config.accumulation:
        raise InputError(
            f"config.batch_size={config.batch_size} is not a multiple of "
            f"config.accumulation={config.accumulation}"
        )
    may_be_zero = ("num_epochs", "num_steps", "seed", "early_stopping")
    _check_each(config, may_be_zero, lambda n: n >= 0, "give 0 or more")
    _check_each(config, ("eval_every_epochs",), lambda n: n > 0, "give more than 0")


def _check_optimization(config: ml_collections.ConfigDict) -> None:
    """Where training begins, what it changes and in which type it computes."""
    if config.init_heads and config.init_from == "scratch":
        raise InputError("config.init_heads=True: set --config.init_from to a run's folder")
    rates = ("label_smoothing", "ema_decay")
    _check_each(config, rates, lambda rate: 0 <= rate < 1, "give 0 or more, below 1")
    _check_each(config, ("layer_decay",), lambda rate: 0 < rate <= 1, "give above 0, up to 1")
    if config.layer_decay != 1 and not config.model.name.startswith("vit"):
        raise InputError(
            f"config.layer_decay={config.layer_decay}: a CNN has no numbered blocks: leave it at 1"
        )
    mend = f"give 0 or more, or {WHOLE_ENCODER} for the whole encoder"
    _check_each(config, ("frozen_blocks",), lambda n: n >= WHOLE_ENCODER, mend)
    if config.dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"config.dtype={config.dtype!r}: it is auto, float32 or bfloat16")
    attention = config.model.get("attention", "auto")
    if attention not in ("auto", "xla", "cudnn"):
        raise InputError(f"config.model.attention={attention!r}: it is auto, xla or cudnn")
    if attention == "cudnn" and not has_cudnn_attention(config):
        raise InputError(
            "config.model.attention='cudnn' needs a ViT in bfloat16 on an NVIDIA GPU of compute "
            "capability 8.0 or more: take 'auto'"
        )


def _check_evaluation(config: ml_collections.ConfigDict) -> None:
    """Which checkpoint is the best, and what evaluation fits on the validation side."""
    if config.best not in (names := validation.names()):
        raise InputError(f"config.best={config.best!r}: it is one of {', '.join(names)}")
    if config.calibration not in calibration.METHODS:
        raise InputError(
            f"config.calibration={config.calibration!r}: it is one of "
            f"{', '.join(calibration.METHODS)}"
        )
    if config.aggregation.method != "auto":
        Aggregation(config.aggregation.method, config.aggregation.k)


def _check_input(config: ml_collections.ConfigDict) -> None:
    """How a stored slice becomes the model's input."""
    for name in ("channels", "image_size"):
        if config.model[name] < 1:
            raise InputError(f"config.model.{name}={config.model[name]}: give 1 or more")
    _check_each(config, ("mean",), _are_numbers, "give numbers, one for each channel")
    positive = "give numbers above 0, one for each channel"
    _check_each(
        config, ("std",), lambda std: _are_numbers(std) and min(std, default=1) > 0, positive
    )
    for name in ("windows", "mean", "std"):
        if len(config[name]) < config.model.channels:
            raise InputError(
                f"config.{name} has {len(config[name])} parts for "
                f"config.model.channels={config.model.channels}: give one for each channel"
            )
    for window in config.windows:
        if not (isinstance(window, Sequence) and len(window) == 2 and _are_numbers(window)):
            raise InputError(f"config.windows: {window} must be two gray values, low and high")
        low, high = window
        if not low < high:
            raise InputError(f"config.windows: ({low}, {high}) must run from low to high")
    make_crop(config)
    if (tissue := make_tissue(config)) is not None:
        tissue.of_input(tuple(config.windows)[: config.model.channels], config.mean, config.std)
    if config.model.image_size > config.data.size:
        raise InputError(
            f"config.model.image_size={config.model.image_size} is above the shards' "
            f"config.data.size={config.data.size}: build them larger (--config.data.size)"
        )


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


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
