"""Pure functions of the training loop: one step, one evaluation batch."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Key

from dtvit_jax import mixup
from dtvit_jax.losses import LossWeights, cross_entropy, example_weights, location_target

Batch = dict[str, Array]
SUMS = ("n", "n_location", "loss_hemorrhage", "loss_location", "right", "right_location")


class TrainState(NamedTuple):
    """All that training changes. Nothing random is in it: keys come from the seed and the step."""

    step: Any
    params: Any
    stats: Any
    moments: Any


@dataclasses.dataclass(frozen=True)
class Task:
    """What a step needs and never changes: the model's graph, the loss, the input transform."""

    graph: nnx.GraphDef
    optimizer: optax.GradientTransformation
    weights: LossWeights
    location_classes: int
    transform: Any  # (images, parameters or None) -> model input
    accumulation: int
    seed: int
    mixes: bool = False  # examples of a batch in pairs (mixup.py)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """The model's graph, its parameters and its batch statistics, both as plain dicts."""
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    return graph, params, stats


def merge_model(graph: nnx.GraphDef, params: Any, stats: Any) -> Any:
    """The model again; inside a plain jax.jit this costs next to nothing."""
    return nnx.merge(graph, nnx.State(params), nnx.State(stats))


def _loss(
    params: Any, stats: Any, part: Batch, key: Key[Array, ""], task: Task
) -> tuple[Array, tuple[Any, dict[str, Array]]]:
    """Weighted sum of both tasks' losses over one part of a batch, and what is logged of it."""
    model = merge_model(task.graph, params, stats)
    images = task.transform(part["image"], part["augmentation"])
    if not task.mixes:
        logits = model(images, key=key)
        loss, sums = _labelled_loss(logits, part, 1.0, task)
    else:
        share = mixup.shares(part["augmentation"])
        logits = model(mixup.mix(images, share), key=key)
        loss, sums = _labelled_loss(logits, part, share, task)
        loss += _labelled_loss(logits, jax.tree.map(mixup.partner, part), 1 - share, task)[0]
    return loss, (split_model(model)[2], sums)


def _labelled_loss(
    logits: tuple[Array, Array], part: Batch, share: Array | float, task: Task
) -> tuple[Array, dict[str, Array]]:
    """The loss where `share` of each example has the labels of `part`, and the sums of these."""
    sums = task_sums(logits, part)
    loss_1 = (sums.pop("each_hemorrhage") * part["weight"] * share).sum()
    loss_2 = (sums.pop("each_location") * part["weight_location"] * share).sum()
    return task.weights.hemorrhage * loss_1 + task.weights.location * loss_2, sums  # Eq. 5


def task_sums(logits: tuple[Array, Array], batch: Batch) -> dict[str, Array]:
    """Sums over a batch of what SUMS names, padding left out, and each example's two losses."""
    mask = batch["mask"]
    target, has_location = location_target(
        batch["hemorrhage"], batch["location"], logits[1].shape[-1]
    )
    counted = mask & has_location
    each_1 = cross_entropy(logits[0], batch["hemorrhage"])
    each_2 = cross_entropy(logits[1], target)
    right_1 = logits[0].argmax(-1) == batch["hemorrhage"]
    right_2 = logits[1].argmax(-1) == target
    return {
        "n": mask.sum(),
        "n_location": counted.sum(),
        "loss_hemorrhage": jnp.where(mask, each_1, 0).sum(),
        "loss_location": jnp.where(counted, each_2, 0).sum(),
        "right": (mask & right_1).sum(),
        "right_location": (counted & right_2).sum(),
        "each_hemorrhage": each_1,
        "each_location": each_2,
    }


def train_step(
    state: TrainState, batch: Batch, *, task: Task
) -> tuple[TrainState, dict[str, Array]]:
    """One AdamW step on `batch`, in `task.accumulation` equal parts.

    Each example's weight is fixed over the whole batch first, so that the sum of the parts'
    gradients is the batch's gradient, whatever their number.
    """
    key = jax.random.fold_in(jax.random.key(task.seed), state.step)
    size = len(batch["image"])
    mask = jnp.ones(size, bool)
    _, has_location = location_target(batch["hemorrhage"], batch["location"], task.location_classes)
    of_class = batch.get("class_weight")  # [batch, 2], with config.data.balance=weights
    first, second = (None, None) if of_class is None else (of_class[:, 0], of_class[:, 1])
    batch = {
        **batch,
        "mask": mask,
        "weight": example_weights(mask, mask, first),
        "weight_location": example_weights(has_location, mask, second),
    }
    gradient = jax.value_and_grad(_loss, has_aux=True)
    if task.accumulation == 1:
        (loss, (stats, sums)), grads = gradient(state.params, state.stats, batch, key, task)
    else:
        parts = jax.tree.map(
            lambda x: x.reshape(-1, task.accumulation, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def one(carry: tuple, xs: tuple) -> tuple[tuple, None]:
            total, stats = carry
            part, part_key = xs
            (loss, (stats, sums)), grads = gradient(state.params, stats, part, part_key, task)
            return (jax.tree.map(jnp.add, total, (loss, sums, grads)), stats), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(lambda p: gradient(state.params, state.stats, p, key, task), first)
        (loss_shape, (_, sums_shape)), grads_shape = shapes
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (loss_shape, sums_shape, grads_shape)
        )
        keys = jax.random.split(key, task.accumulation)
        ((loss, sums, grads), stats), _ = jax.lax.scan(one, (zeros, state.stats), (parts, keys))
    updates, moments = task.optimizer.update(grads, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    logged = {**sums, "loss": loss, "gradient_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, stats, moments), logged


def evaluate_step(
    params: Any, stats: Any, batch: Batch, *, task: Task
) -> tuple[dict[str, Array], Array, Array]:
    """Sums of the batch (SUMS), and the probabilities of both tasks, float32.

    Probabilities: hemorrhage [batch]; locations [batch, 3], given ICH, summing to 1 (a fourth
    class 'normal' is left out and the rest scaled).
    """
    model = merge_model(task.graph, params, stats)
    logits = model(task.transform(batch["image"], None))
    sums = task_sums(logits, batch)
    sums = {name: sums[name] for name in SUMS}
    p_hemorrhage = jax.nn.softmax(logits[0])[:, 1]
    p_location = jax.nn.softmax(logits[1][:, :3])
    return sums, p_hemorrhage, p_location


def figures(sums: dict[str, Any], weights: LossWeights) -> dict[str, float]:
    """Losses and accuracies of both tasks out of sums over any number of batches."""
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
