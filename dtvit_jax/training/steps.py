"""One training step and one evaluation step, as pure functions for `jax.jit`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dtvit_jax.data.augment import mix, partner, shares
from dtvit_jax.models.variables import Tree, Variables, overlay, split_model
from dtvit_jax.training.losses import LossWeights, cross_entropy, example_weights, location_target
from dtvit_jax.training.network import Network
from dtvit_jax.training.optimizer import WHOLE_ENCODER, trainable

Batch = dict[str, Any]
"""Examples, the first axis of each array.

`image` uint8 [batch, size, size]: slices as stored. `hemorrhage` int32 [batch], 0 or 1; `location`
int32 [batch], an index into LOCATIONS, -1 for none. Training adds `augmentation` float32
[batch, parameters] and with config.data.balance='weights' `class_weight` float32 [batch, 2];
evaluation adds `mask` bool [batch], False where a row only fills the batch. With
config.model.tokens='tissue' `packing` says where each patch goes (`models.packed.Packing`).
"""

SUMS = ("n", "n_location", "loss_hemorrhage", "loss_location", "right", "right_location")
"""Sums over examples that a step returns: counts, losses and right answers of both tasks."""


class TrainState(NamedTuple):
    """All that training changes. Nothing random is in it: keys come from the seed and the step.

    Leaves are arrays; the same tuple also carries their shapes, or where each is placed.
    """

    step: jax.Array  # int32: steps done
    params: Tree
    stats: Tree  # batch statistics; empty for a ViT
    moments: optax.OptState  # of the trained parameters alone
    ema: Tree = {}  # noqa: RUF012  moving averages {'params', 'stats'}; {}: config.ema_decay is 0


@dataclasses.dataclass(frozen=True)
class Setup:
    """What every step reads and none changes."""

    network: Network
    optimizer: optax.GradientTransformation
    loss_weights: LossWeights
    location_classes: int
    accumulation: int  # number of equal parts of a batch, computed one after the other
    seed: int
    frozen_blocks: int = 0  # of the encoder; see optimizer.trainable
    smoothing: float = 0.0  # of the labels, in the training loss
    ema_decay: float = 0.0  # 0: no averages
    mixes: bool = False  # blends examples in pairs (mixup, arXiv 1710.09412)


def train_step(
    state: TrainState, batch: Batch, *, setup: Setup
) -> tuple[TrainState, dict[str, Array]]:
    """One AdamW step on `batch`; returns the next state and what is logged of the step.

    Logged, all float32 or int32 scalars: SUMS over the batch before the step, `loss` (Eq. 5, with
    class weights, label smoothing and mixup where the config has them) and `gradient_norm`.
    """
    key = jax.random.fold_in(jax.random.key(setup.seed), state.step)
    batch = weighted(batch, setup.location_classes)
    with_gradient = trainable(state.params, setup.frozen_blocks)
    loss_and_gradient = functools.partial(
        jax.value_and_grad(_loss, has_aux=True), with_gradient, state.params, setup=setup
    )
    if setup.accumulation > 1:
        loss_and_gradient = functools.partial(_accumulated, loss_and_gradient, setup.accumulation)
    (loss, (stats, sums)), gradient = loss_and_gradient(state.stats, batch, key)
    updates, moments = setup.optimizer.update(gradient, state.moments, with_gradient)
    with_gradient = optax.apply_updates(with_gradient, updates)
    ema = state.ema
    if setup.ema_decay:
        now = {"params": with_gradient, "stats": stats}
        ema = averaged(ema, now, state.step, setup.ema_decay)
    logged = {**sums, "loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    params = overlay(state.params, with_gradient)
    return TrainState(state.step + 1, params, stats, moments, ema), logged


def weighted(batch: Batch, location_classes: int) -> Batch:
    """Adds `mask`, all True, and each example's weights in the two losses to a training batch.

    The weights `weight` and `weight_location`, float32 [batch], make a sum over examples the mean
    over the batch. They are fixed here, before the batch is divided, so that the sum of the parts'
    gradients is the batch's gradient, whatever the number of parts.
    """
    mask = jnp.ones(len(batch["image"]), bool)
    _, has_location = location_target(batch["hemorrhage"], batch["location"], location_classes)
    of_class = batch.get("class_weight")
    hemorrhage, location = (None, None) if of_class is None else (of_class[:, 0], of_class[:, 1])
    return {
        **batch,
        "mask": mask,
        "weight": example_weights(mask, mask, hemorrhage),
        "weight_location": example_weights(has_location, mask, location),
    }


LossAndGradient = Callable[
    [Tree, Batch, Key[Array, ""]], tuple[tuple[Array, tuple[Tree, dict[str, Array]]], Tree]
]
"""(statistics, batch, key) to ((loss, (new statistics, SUMS)), gradient)."""


def _accumulated(
    loss_and_gradient: LossAndGradient,
    parts: int,
    stats: Tree,
    batch: Batch,
    key: Key[Array, ""],
) -> tuple[tuple[Array, tuple[Tree, dict[str, Array]]], Tree]:
    """What `loss_and_gradient` returns of the whole batch, computed part by part.

    Example i is in part i mod `parts`, so that each device's examples are spread over all parts;
    so are the rows of `packing` (`packing.in_groups`). Batch statistics pass from part to part.
    """
    batches = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add_part(carry: tuple, xs: tuple) -> tuple[tuple, None]:
        total, stats = carry
        part, part_key = xs
        (loss, (stats, sums)), gradient = loss_and_gradient(stats, part, part_key)
        return (jax.tree.map(jnp.add, total, (loss, sums, gradient)), stats), None

    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(lambda part: loss_and_gradient(stats, part, key), first)
    (loss_shape, (_, sums_shape)), gradient_shape = shapes
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), (loss_shape, sums_shape, gradient_shape)
    )
    keys = jax.random.split(key, parts)
    ((loss, sums, gradient), stats), _ = jax.lax.scan(add_part, (zeros, stats), (batches, keys))
    return (loss, (stats, sums)), gradient


def _loss(
    with_gradient: Tree, params: Tree, stats: Tree, part: Batch, key: Key[Array, ""], setup: Setup
) -> tuple[Array, tuple[Tree, dict[str, Array]]]:
    """Both tasks' weighted loss over one part of a batch; then the new statistics, and SUMS.

    `with_gradient` are the trained parameters; they replace their namesakes in `params`.
    """
    model = setup.network.model(overlay(params, with_gradient), stats)
    images = setup.network.transform(part["image"], part["augmentation"])
    share: Array | float = 1.0
    if setup.mixes:
        share = shares(part["augmentation"])
        images = mix(images, share)
    train_encoder = setup.frozen_blocks != WHOLE_ENCODER
    logits = model(images, **packing_of(part), key=key, train_encoder=train_encoder)
    loss, sums = _labelled_loss(logits, part, share, setup)
    if setup.mixes:
        partners = {k: partner(v) for k, v in part.items() if k != "packing"}
        loss += _labelled_loss(logits, partners, 1 - share, setup)[0]
    _, _, stats = split_model(model)  # BatchNorm has updated its running statistics
    return loss, (stats, sums)


def _labelled_loss(
    logits: tuple[Array, Array], part: Batch, share: Array | float, setup: Setup
) -> tuple[Array, dict[str, Array]]:
    """The loss where `share` of each example has the labels of `part`, and SUMS by these labels."""
    sums, (hemorrhage, location) = sums_and_losses(logits, part, setup.smoothing)
    loss_1 = (hemorrhage * part["weight"] * share).sum()
    loss_2 = (location * part["weight_location"] * share).sum()
    weights = setup.loss_weights
    return weights.hemorrhage * loss_1 + weights.location * loss_2, sums  # Eq. 5


def sums_and_losses(
    logits: tuple[Array, Array], batch: Batch, smoothing: float = 0.0
) -> tuple[dict[str, Array], tuple[Float[Array, " batch"], Float[Array, " batch"]]]:
    """SUMS over a batch, rows with a False mask left out, and each example's loss in both tasks.

    logits: [batch, 2] and [batch, 3 or 4]. `smoothing` of the labels is in the losses, not in SUMS.
    """
    mask = batch["mask"]
    target, has_location = location_target(
        batch["hemorrhage"], batch["location"], logits[1].shape[-1]
    )
    counted = mask & has_location
    each_1 = cross_entropy(logits[0], batch["hemorrhage"])
    each_2 = cross_entropy(logits[1], target)
    right_1 = logits[0].argmax(-1) == batch["hemorrhage"]
    right_2 = logits[1].argmax(-1) == target
    sums = {
        "n": mask.sum(),
        "n_location": counted.sum(),
        "loss_hemorrhage": jnp.where(mask, each_1, 0).sum(),
        "loss_location": jnp.where(counted, each_2, 0).sum(),
        "right": (mask & right_1).sum(),
        "right_location": (counted & right_2).sum(),
    }
    smoothed = cross_entropy(logits[0], batch["hemorrhage"], smoothing)
    return sums, (smoothed, cross_entropy(logits[1], target, smoothing))


def packing_of(batch: Batch) -> dict[str, Any]:
    """The model's argument `packing`, where the batch has one."""
    return {"packing": batch["packing"]} if "packing" in batch else {}


def averaged(ema: Tree, now: Tree, step: Array, decay: float) -> Tree:
    """The exponential moving average after one more step; `step` counts from 0.

    The decay begins at 1/10 and rises to `decay` as (1 + step) / (10 + step), so that the random
    start is soon forgotten.
    """
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, x: mean + (1 - kept) * (x - mean), ema, now)


def validated_variables(state: TrainState) -> Variables:
    """Parameters and statistics that are validated: their averages where there are some."""
    both = overlay({"params": state.params, "stats": state.stats}, state.ema)
    return both["params"], both["stats"]


def evaluate_step(
    params: Tree, stats: Tree, batch: Batch, *, network: Network
) -> tuple[dict[str, Array], Float[Array, " batch"], Float[Array, "batch 3"]]:
    """SUMS of the batch, and each example's probabilities as `probabilities` returns them."""
    model = network.model(params, stats)
    logits = model(network.transform(batch["image"], None), **packing_of(batch))
    sums, _ = sums_and_losses(logits, batch)
    return sums, *probabilities(logits)


def probabilities(
    logits: tuple[Array, Array],
) -> tuple[Float[Array, " batch"], Float[Array, "batch 3"]]:
    """Probability of a hemorrhage, and of the three locations given one; these sum to 1.

    A fourth class of the location head, 'normal', is left out and the rest is scaled.
    """
    return jax.nn.softmax(logits[0])[:, 1], jax.nn.softmax(logits[1][:, :3])


def validation_step(
    params: Tree, stats: Tree, batch: Batch, *, network: Network
) -> tuple[dict[str, Array], dict[str, Array]]:
    """SUMS of the batch, and a row for each example: mask, labels and probabilities."""
    sums, p_hemorrhage, p_location = evaluate_step(params, stats, batch, network=network)
    rows = {name: batch[name] for name in ("mask", "hemorrhage", "location")}
    return sums, {**rows, "p_hemorrhage": p_hemorrhage, "p_location": p_location}


def mean_figures(sums: dict[str, Any], weights: LossWeights) -> dict[str, float]:
    """Mean losses and accuracies of both tasks from SUMS over any number of batches."""
    n, n_location = max(float(sums["n"]), 1), max(float(sums["n_location"]), 1)
    loss_1 = float(sums["loss_hemorrhage"]) / n
    loss_2 = float(sums["loss_location"]) / n_location
    return {
        "loss": weights.hemorrhage * loss_1 + weights.location * loss_2,
        "loss_hemorrhage": loss_1,
        "loss_location": loss_2,
        "accuracy_hemorrhage": float(sums["right"]) / n,
        "accuracy_location": float(sums["right_location"]) / n_location,
    }
