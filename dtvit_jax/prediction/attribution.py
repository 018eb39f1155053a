"""Computes which parts of an image a model's answer rests on, by three published methods.

- Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): how the attention of all blocks
  together mixes the patches. **It is the same for every head and class**, because it does not use
  the answer.
- Gradient-weighted attention (Chefer, Gur and Wolf 2021, arXiv 2103.15679, self-attention's rule):
  attention times the gradient of the class's log-odds, positive parts only.
- Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) of a CNN's last map.

A class's log-odds are log(p / (1 - p)) of its probability: for two classes, the difference of their
logits. The softmax ignores a number added to all logits, and so do log-odds.
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
VIT_METHODS, CNN_METHODS = ("gradient", "rollout"), ("grad_cam",)
"""Methods by kind of model, the default first: rollout does not depend on the answer."""

LOCATION_CLASSES = 3
"""Classes of the location head that are locations; a fourth, 'normal', is never reported."""


def log_odds(
    model: Any, features: Float[Array, "batch features"], head: str, classes: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Computes log(p / (1 - p)) of each example's class; a negative class is the likeliest one."""
    logits = model.hemorrhage(features) if head == "hemorrhage" else model.location(features)
    logits = logits[:, :LOCATION_CLASSES]
    explained = jnp.where(classes < 0, logits.argmax(-1), classes)
    own = jax.nn.one_hot(explained, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jnp.where(own, logits, 0).sum(-1) - others


def attend(
    encoder: ViT,
    images: Float[Array, "batch rows columns channels"],
    mask: Bool[Array, "batch patches"] | None = None,
    taps: list[Array] | None = None,
) -> tuple[Float[Array, "batch features"], list[Float[Array, "batch heads tokens tokens"]]]:
    """Computes the encoder's features in inference and each block's attention weights, float32.

    The computation is that of `encoder.encode`, block by block with whole attention matrices.
    `taps` are zeros that are added to the weights, for gradients with respect to the weights.
    """
    x = encoder.embed(patchify(images, encoder.patch))
    tokens = None if mask is None else jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
    weights = []
    for i, block in enumerate(encoder.blocks):
        layer = block.attention
        qkv = layer.qkv(block.norm1(x))
        qkv = qkv.reshape(*x.shape[:2], 3, layer.heads, -1).astype(jnp.float32)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k)
        if tokens is not None:
            scores = jnp.where(tokens[:, None, None, :], scores, -jnp.inf)
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
    """Abnar and Zuidema's Eq. 1 with heads averaged: the product of 0.5 A + 0.5 I over blocks."""
    total = jnp.eye(weights[0].shape[-1])[None]
    for attention in weights:
        mixed = 0.5 * attention.mean(1) + 0.5 * jnp.eye(attention.shape[-1])
        total = mixed @ total
    return total


def gradient_relevance(
    weights: list[Float[Array, "batch heads tokens tokens"]],
    gradients: list[Float[Array, "batch heads tokens tokens"]],
) -> Float[Array, "batch tokens tokens"]:
    """Chefer et al.'s Eq. 5 and 6: R is increased by the heads' mean of (gradient x A)+ times R."""
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
    """Computes the relevance of each patch, 0 or more; 0 where `mask` leaves the patch out.

    The token that the heads read gives the row of the relevance matrix: the class token's row, or
    with pooling 'mean' the mean over all patches.
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
    """Sums the last map's channels, weighted by their mean gradients; positive parts only."""
    encoder = model.encoder
    last = encoder.last_map(images)
    gradient = jax.grad(lambda x: log_odds(model, encoder.from_map(x), head, classes).sum())(last)
    weights = gradient.astype(jnp.float32).mean((1, 2))
    return jax.nn.relu(jnp.einsum("brcf,bf->brc", last.astype(jnp.float32), weights))
