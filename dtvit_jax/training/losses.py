"""The dual-task loss: Eq. 5 of arXiv 2405.06814."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Eq. 5's two weights; the names are those of config.loss."""

    hemorrhage: float = 0.5
    location: float = 0.5


def location_target(
    hemorrhage: Int[Array, " batch"], location: Int[Array, " batch"], classes: int
) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
    """The location head's label and which slices have one.

    With 3 classes a normal slice has no location and counts nowhere; with 4, as in the published
    code, its location is the fourth, 'normal'.
    """
    is_ich = hemorrhage == 1
    if classes == 4:
        return jnp.where(is_ich, location, 3), jnp.ones_like(is_ich)
    return jnp.where(is_ich, location, 0), is_ich


def example_weights(
    counted: Bool[Array, " batch"],
    mask: Bool[Array, " batch"],
    class_weight: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Weights that turn a sum over examples into a mean over those counted and not padding.

    With the weight of each example's class it is the weighted mean.
    """
    chosen = (counted & mask).astype(jnp.float32)
    if class_weight is not None:
        chosen = chosen * class_weight
    total = chosen.sum()
    return chosen / jnp.where(total > 0, total, 1)


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """Softmax cross-entropy of each example, in float32.

    `smoothing` is the part of the label that all classes share alike (arXiv 1512.00567).
    """
    logits = logits.astype(jnp.float32)
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    smooth = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, smooth)
