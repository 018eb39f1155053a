"""Pure functions of the training loop: one step, one evaluation batch."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Key

from dtvit_jax.data import augment
from dtvit_jax.training import optimizer as parameter_groups
from dtvit_jax.training.losses import LossWeights, cross_entropy, example_weights, location_target
from dtvit_jax.training.optimizer import WHOLE_ENCODER, overlay

Batch = dict[str, Array]
SUMS = ("n", "n_location", "loss_hemorrhage", "loss_location", "right", "right_location")


class TrainState(NamedTuple):
    """All that training changes. Nothing random is in it: keys come from the seed and the step."""

    step: Any
    params: Any
    stats: Any
    moments: Any  # of the trained parameters
    ema: Any = {}  # noqa: RUF012  averages of 'params' (the trained) and 'stats'; or empty


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
    frozen_blocks: int = 0  # of the encoder; see parameter_groups.trained
    smoothing: float = 0.0  # of the labels, in the training loss
    ema_decay: float = 0.0  # of the averages; 0: there are none
    mixes: bool = False  # examples of a batch in pairs (mixup.py)
    gather: Any = None  # params -> params as the model reads them, where they lie in parts

    def model(self, params: Any, stats: Any) -> Any:
        """The model, to be called inside a jax.jit."""
        return merge_model(self.graph, self.gather(params) if self.gather else params, stats)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """The model's graph, its parameters and its batch statistics, both as plain dicts."""
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    return graph, params, stats


def merge_model(graph: nnx.GraphDef, params: Any, stats: Any) -> Any:
    """The model again; inside a plain jax.jit this costs next to nothing."""
    return nnx.merge(graph, nnx.State(params), nnx.State(stats))


def evaluated_model(state: TrainState) -> tuple[Any, Any]:
    """The parameters and statistics that are validated: the averages where there are some."""
    both = {"params": state.params, "stats": state.stats}
    both = overlay(both, state.ema)
    return both["params"], both["stats"]


def _loss(
    trained: Any, params: Any, stats: Any, part: Batch, key: Key[Array, ""], task: Task
) -> tuple[Array, tuple[Any, dict[str, Array]]]:
    """Weighted sum of both tasks' losses over one part of a batch, and what is logged of it.

    `trained` are the parameters with a gradient; they stand in for those in `params`.
    """
    model = task.model(overlay(params, trained), stats)
    images = task.transform(part["image"], part["augmentation"])
    share: Array | float = 1.0
    if task.mixes:
        share = augment.shares(part["augmentation"])
        images = augment.mix(images, share)
    train_encoder = task.frozen_blocks != WHOLE_ENCODER
    logits = model(images, **packed(part), key=key, train_encoder=train_encoder)
    loss, sums = _labelled_loss(logits, part, share, task)
    if task.mixes:
        others = {k: augment.partner(v) for k, v in part.items() if k != "packing"}
        loss += _labelled_loss(logits, others, 1 - share, task)[0]
    return loss, (split_model(model)[2], sums)


def packed(batch: Batch) -> dict[str, Any]:
    """What the model is told of a batch that `packing.Packer` laid out."""
    return {"packing": batch["packing"]} if "packing" in batch else {}


def _labelled_loss(
    logits: tuple[Array, Array], part: Batch, share: Array | float, task: Task
) -> tuple[Array, dict[str, Array]]:
    """The loss where `share` of each example has the labels of `part`, and the sums of these."""
    sums = task_sums(logits, part, task.smoothing)
    loss_1 = (sums.pop("each_hemorrhage") * part["weight"] * share).sum()
    loss_2 = (sums.pop("each_location") * part["weight_location"] * share).sum()
    return task.weights.hemorrhage * loss_1 + task.weights.location * loss_2, sums  # Eq. 5


def task_sums(
    logits: tuple[Array, Array], batch: Batch, smoothing: float = 0.0
) -> dict[str, Array]:
    """Sums over a batch of what SUMS names, padding left out, and each example's two losses.

    `smoothing` of the labels goes into each example's losses, not into the sums.
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
    return {
        "n": mask.sum(),
        "n_location": counted.sum(),
        "loss_hemorrhage": jnp.where(mask, each_1, 0).sum(),
        "loss_location": jnp.where(counted, each_2, 0).sum(),
        "right": (mask & right_1).sum(),
        "right_location": (counted & right_2).sum(),
        "each_hemorrhage": cross_entropy(logits[0], batch["hemorrhage"], smoothing),
        "each_location": cross_entropy(logits[1], target, smoothing),
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
    trained = parameter_groups.trained(state.params, task.frozen_blocks)
    gradient = functools.partial(
        jax.value_and_grad(_loss, has_aux=True), trained, state.params, task=task
    )
    if task.accumulation == 1:
        (loss, (stats, sums)), grads = gradient(state.stats, batch, key)
    else:
        parts = jax.tree.map(
            lambda x: x.reshape(-1, task.accumulation, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def one(carry: tuple, xs: tuple) -> tuple[tuple, None]:
            total, stats = carry
            part, part_key = xs
            (loss, (stats, sums)), grads = gradient(stats, part, part_key)
            return (jax.tree.map(jnp.add, total, (loss, sums, grads)), stats), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(lambda p: gradient(state.stats, p, key), first)
        (loss_shape, (_, sums_shape)), grads_shape = shapes
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (loss_shape, sums_shape, grads_shape)
        )
        keys = jax.random.split(key, task.accumulation)
        ((loss, sums, grads), stats), _ = jax.lax.scan(one, (zeros, state.stats), (parts, keys))
    updates, moments = task.optimizer.update(grads, state.moments, trained)
    trained = optax.apply_updates(trained, updates)
    ema = state.ema
    if task.ema_decay:
        ema = averaged(ema, {"params": trained, "stats": stats}, state.step, task.ema_decay)
    logged = {**sums, "loss": loss, "gradient_norm": optax.tree.norm(grads)}
    params = overlay(state.params, trained)
    return TrainState(state.step + 1, params, stats, moments, ema), logged


def averaged(ema: Any, now: Any, step: Array, decay: float) -> Any:
    """The exponential moving average after one more step; `step` counts from 0.

    The decay begins at 1/10 and rises to `decay` as (1 + step) / (10 + step), so that the random
    start is soon forgotten.
    """
    kept = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, x: mean + (1 - kept) * (x - mean), ema, now)


def evaluate_step(
    params: Any, stats: Any, batch: Batch, *, task: Task
) -> tuple[dict[str, Array], Array, Array]:
    """Sums of the batch (SUMS), and the probabilities of both tasks, float32.

    Probabilities: hemorrhage [batch]; locations [batch, 3], given ICH, summing to 1 (a fourth
    class 'normal' is left out and the rest scaled).
    """
    model = task.model(params, stats)
    logits = model(task.transform(batch["image"], None), **packed(batch))
    sums = task_sums(logits, batch)
    return {name: sums[name] for name in SUMS}, *probabilities(logits)


def probabilities(logits: tuple[Array, Array]) -> tuple[Array, Array]:
    """Of hemorrhage [batch], and of the three locations given one [batch, 3]."""
    return jax.nn.softmax(logits[0])[:, 1], jax.nn.softmax(logits[1][:, :3])


def validation_step(
    params: Any, stats: Any, batch: Batch, *, task: Task
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Sums of the batch (SUMS), and a row for each example: mask, labels and probabilities."""
    sums, p_hemorrhage, p_location = evaluate_step(params, stats, batch, task=task)
    rows = {name: batch[name] for name in ("mask", "hemorrhage", "location")}
    return sums, {**rows, "p_hemorrhage": p_hemorrhage, "p_location": p_location}


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
