"""A batch of slices with different numbers of patches, in one flat sequence without gaps.

What works on each token alone (projections, MLP, norms: most of a ViT's work) runs on the flat
sequence, [groups, rows, width]: first each slice's class token, then all kept patches, slice by
slice, then padding up to one of few lengths. Attention alone needs a slice's tokens together: for
it they are taken apart into padded sequences, the slices with the most patches into the longest.
A group is what one device computes at a time, so that the flat sequence is sharded by its first
axis.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Packing(NamedTuple):
    """Where each row of the flat sequence comes from, and its place in the padded sequences.

    Attributes:
      source: each token's patch, counted over its group's slices; -1 is padding.
      rows: for each set of slices with about as many tokens, the flat row of each token, class
        token first; -1 is padding.
      place: each flat row's place in all of `rows`, counted through; -1 is padding.
      slot: each slice's place among the slices in the order of `rows`.
    """

    source: Int[Array | np.ndarray, "groups tokens"]
    rows: tuple[Int[Array | np.ndarray, "groups slices length"], ...]
    place: Int[Array | np.ndarray, "groups rows"]
    slot: Int[Array | np.ndarray, "groups slices"]

    @property
    def slices(self) -> int:
        """Slices in all groups."""
        return self.slot.shape[0] * self.slot.shape[1]

    def example(self, patches: int) -> Int[Array, "groups rows"]:
        """The slice, counted over all groups, of each flat row; any for padding."""
        groups, slices = self.slot.shape
        of_token: Array = jnp.maximum(self.source, 0) // patches
        of_class = jnp.broadcast_to(jnp.arange(slices), (groups, slices))
        first = slices * jnp.arange(groups)[:, None]
        return jnp.concatenate([of_class, of_token], axis=1) + first


@jax.custom_vjp
def take_rows(
    x: Float[Array, "rows *rest"], index: Int[Array, " taken"], inverse: Int[Array, " rows"]
) -> Float[Array, "taken *rest"]:
    """x[index], and 0 where the index is -1.

    Each row is taken at most once, by `index[inverse[row]]`, or not at all where that is -1: so
    the gradient is the same operation with both swapped, and no slow addition at an index.
    """
    taken = jnp.take(x, index, axis=0, mode="clip")
    return jnp.where((index >= 0).reshape(-1, *(1,) * (x.ndim - 1)), taken, 0)


def _take_forward(x: Array, index: Array, inverse: Array) -> tuple[Array, tuple[Array, Array]]:
    return take_rows(x, index, inverse), (index, inverse)


def _take_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    index, inverse = kept
    return take_rows(gradient, inverse, index), None, None


take_rows.defvjp(_take_forward, _take_backward)
_take_each = jax.vmap(take_rows)


def flatten(
    patches: Float[Array, "batch patches pixels"], packing: Packing
) -> Float[Array, "groups tokens pixels"]:
    """The kept patches of each group; padding is some patch."""
    grouped = patches.reshape(len(packing.source), -1, patches.shape[-1])
    return jax.vmap(lambda x, i: jnp.take(x, i, axis=0, mode="clip"))(grouped, packing.source)


def apart(
    x: Float[Array, "groups rows heads head_width"], packing: Packing, classes: bool = False
) -> list[Float[Array, "_ _ heads head_width"]]:
    """The flat rows as padded sequences, 0 in padding; with `classes` the class tokens alone."""
    index, inverse, shapes = _route(packing, classes)
    flat = _take_each(x, index, inverse)
    ends = [sum(n * length for n, length in shapes[: i + 1]) for i in range(len(shapes))]
    return [
        flat[:, end - n * length : end].reshape(-1, length, *x.shape[2:])
        for (n, length), end in zip(shapes, ends, strict=True)
    ]


def together(
    parts: list[Float[Array, "_ _ heads head_width"]],
    packing: Packing,
    classes: bool = False,
) -> Float[Array, "groups rows heads head_width"]:
    """What `apart` took apart."""
    index, inverse, _ = _route(packing, classes)
    flat = [part.reshape(len(packing.slot), -1, *part.shape[2:]) for part in parts]
    return _take_each(jnp.concatenate(flat, axis=1), inverse, index)


def _route(packing: Packing, classes: bool) -> tuple[Array, Array, list[tuple[int, int]]]:
    """For `take_rows`: index and inverse; and slices and length of each set of sequences."""
    rows = [r[:, :, :1] for r in packing.rows] if classes else packing.rows
    index = jnp.concatenate([r.reshape(len(r), -1) for r in rows], axis=1)
    inverse = jnp.asarray(packing.slot if classes else packing.place)
    return index, inverse, [(r.shape[1], r.shape[2]) for r in rows]


def packed_attention(
    q: Float[Array, "groups queries heads head_width"],
    k: Float[Array, "groups rows heads head_width"],
    v: Float[Array, "groups rows heads head_width"],
    packing: Packing,
    attention: Callable[..., Array],
) -> Float[Array, "groups queries heads head_width"]:
    """`attention(q, k, v, mask)` of each slice to itself; the queries are all rows, or classes."""
    classes = q.shape[1] != k.shape[1]
    inside = [(rows >= 0).reshape(-1, rows.shape[2]) for rows in packing.rows]
    parts = zip(
        apart(q, packing, classes), apart(k, packing), apart(v, packing), inside, strict=True
    )
    return together([attention(*part) for part in parts], packing, classes)


def slice_means(
    tokens: Float[Array, "groups tokens width"], packing: Packing, patches: int
) -> tuple[Float[Array, "batch width"], Int[Array, " batch"]]:
    """The mean of each slice's tokens (0 where it has none) and their number."""
    groups, slices = packing.slot.shape
    owner = jnp.where(packing.source < 0, -1, packing.source // patches)
    member = owner[:, None, :] == jnp.arange(slices)[:, None]
    count = member.sum(-1)
    weight = (member / jnp.maximum(count, 1)[..., None]).astype(tokens.dtype)
    means = jnp.einsum("gst,gtw->gsw", weight, tokens)
    return means.reshape(groups * slices, -1), count.reshape(-1)
