"""Which parts of an image a model's answer rests on: three published ways, as pure functions.

- Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): where the attention of all blocks
  together leads. **It is the same for every head and class**: nothing of the answer is in it.
- Gradient-weighted attention (Chefer, Gur and Wolf 2021, arXiv 2103.15679, self-attention's rule):
  attention times what the class's log-odds would gain from it, positive parts alone.
- Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) of a CNN's last map.

A class's log-odds are log(p / (1 - p)) of its probability: for two classes, the difference of
their logits. What the softmax leaves out, a number added to all logits, is then left out here too.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dtvit_jax.models.vit import ViT, patchify

HEADS = ("hemorrhage", "location")
METHODS = {
    "gradient": "gradient-weighted attention",
    "rollout": "attention rollout",
    "grad_cam": "Grad-CAM",
}
PLACES = 3
"""Classes of the location head that are places; a fourth is 'normal' and no answer."""


def log_odds(
    model: Any, features: Float[Array, "batch features"], head: str, classes: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """log(p / (1 - p)) of each example's class; a class below 0 stands for the likeliest."""
    logits = model.hemorrhage(features) if head == "hemorrhage" else model.location(features)
    logits = logits[:, :PLACES]
    chosen = jnp.where(classes < 0, logits.argmax(-1), classes)
    own = jax.nn.one_hot(chosen, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jnp.where(own, logits, 0).sum(-1) - others


def attend(
    encoder: ViT,
    images: Float[Array, "batch rows columns channels"],
    mask: Bool[Array, "batch patches"] | None = None,
    taps: list[Array] | None = None,
) -> tuple[Float[Array, "batch features"], list[Float[Array, "batch heads tokens tokens"]]]:
    """The encoder's features in inference, and each block's attention weights, float32.

    The same computation as `encoder.encode`, block by block over whole attention matrices. `taps`
    are added to the weights: zeros, to differentiate by.
    """
    x = encoder.embed(patchify(images, encoder.patch))
    seen = None if mask is None else jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
    weights = []
    for i, block in enumerate(encoder.blocks):
        layer = block.attention
        qkv = layer.qkv(block.norm1(x))
        qkv = qkv.reshape(*x.shape[:2], 3, layer.heads, -1).astype(jnp.float32)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
        if seen is not None:
            scores = jnp.where(seen[:, None, None, :], scores, -jnp.inf)
        attention = jax.nn.softmax(scores)
        if taps is not None:
            attention = attention + taps[i]
        weights.append(attention)
        heads = jnp.einsum("bhqk,bkhd->bqhd", attention, v).astype(x.dtype)
        x = x + layer.out(heads.reshape(x.shape))
        x = x + block.mlp(block.norm2(x))
    x = encoder.norm(x)
    return encoder.pooled(x, mask), weights


def rollout(
    weights: list[Float[Array, "batch heads tokens tokens"]],
) -> Float[Array, "batch tokens tokens"]:
    """Abnar and Zuidema's Eq. 1, heads averaged: the product of 0.5 A + 0.5 I over all blocks."""
    total = jnp.eye(weights[0].shape[-1])[None]
    for attention in weights:
        mixed = 0.5 * attention.mean(1) + 0.5 * jnp.eye(attention.shape[-1])
        total = mixed @ total
    return total


def gradient_relevance(
    weights: list[Float[Array, "batch heads tokens tokens"]],
    gradients: list[Float[Array, "batch heads tokens tokens"]],
) -> Float[Array, "batch tokens tokens"]:
    """Chefer et al.'s Eq. 5 and 6: R grows by the heads' mean of (gradient x A)+ times R."""
    total = jnp.eye(weights[0].shape[-1])[None]
    for attention, gradient in zip(weights, gradients, strict=True):
        total = total + jax.nn.relu(gradient * attention).mean(1) @ total
    return total


def vit_relevance(
    model: Any,
    images: Float[Array, "batch rows columns channels"],
    mask: Bool[Array, "batch patches"] | None,
    head: str,
    classes: Int[Array, " batch"],
    method: str,
) -> Float[Array, "batch side side"]:
    """Relevance of each patch, 0 or more; 0 where `mask` leaves the patch out.

    What the answer is read from tells the row: the class token, or (pooling 'mean') all patches.
    """
    encoder = model.encoder
    if method == "rollout":
        total = rollout(attend(encoder, images, mask)[1])
    else:
        side = encoder.position_embedding.shape[1]
        shape = (images.shape[0], encoder.blocks[0].attention.heads, side, side)
        taps = [jnp.zeros(shape) for _ in encoder.blocks]

        def score(taps: list[Array]) -> tuple[Array, list[Array]]:
            features, weights = attend(encoder, images, mask, taps)
            return log_odds(model, features, head, classes).sum(), weights

        gradients, weights = jax.grad(score, has_aux=True)(taps)
        total = gradient_relevance(weights, gradients)
    if encoder.pooling == "cls":
        relevance = total[:, 0, 1:]
    else:
        where = None if mask is None else mask[..., None]
        relevance = jnp.mean(total[:, 1:, 1:], axis=1, where=where)
    relevance = jnp.broadcast_to(relevance, (images.shape[0], relevance.shape[1]))
    if mask is not None:
        relevance = jnp.where(mask, relevance, 0)
    side = encoder.image_size // encoder.patch
    return relevance.reshape(-1, side, side)


def grad_cam(
    model: Any,
    images: Float[Array, "batch rows columns channels"],
    head: str,
    classes: Int[Array, " batch"],
) -> Float[Array, "batch map_rows map_columns"]:
    """The last map's channels, each weighed by its mean gradient; positive parts alone."""
    encoder = model.encoder
    last = encoder.last_map(images)
    gradient = jax.grad(lambda x: log_odds(model, encoder.from_map(x), head, classes).sum())(last)
    weights = gradient.astype(jnp.float32).mean((1, 2))
    return jax.nn.relu(jnp.einsum("brcf,bf->brc", last.astype(jnp.float32), weights))
