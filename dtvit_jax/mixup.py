"""Mixup (arXiv 1710.09412): each example blended with one other of its batch, labels too."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from dtvit_jax.augment import PARAMETERS


def partner(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
    """Each example's partner: half a batch further, so that i and i + n/2 are a pair.

    Batches are shuffled, so the pair is as random as any; it depends on seed and step alone, and
    `steps.train_step`'s parts of a batch keep it whole.
    """
    return jnp.roll(x, len(x) // 2, axis=0)


def shares(parameters: Float[Array, "batch parameters"]) -> Float[Array, " batch"]:
    """What each example keeps of itself: the first one's drawn share, for both of a pair.

    With one share a pair every label counts as much in the batch's loss as without mixing.
    """
    drawn = parameters[: len(parameters) // 2, PARAMETERS.index("share")]
    return jnp.concatenate([drawn, drawn])


def mix(
    images: Float[Array, "batch height width channels"], share: Float[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """share of each image, and the rest of its partner's."""
    kept = share[:, None, None, None]
    return kept * images + (1 - kept) * partner(images)
