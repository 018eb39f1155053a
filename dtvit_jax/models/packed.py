"""A batch of slices with different numbers of patches, in one flat sequence without gaps.

Layers that act on each token alone (projections, MLP, norms: most of a ViT's work) run on the flat
sequence [groups, rows, width]: first the class token of each slice, then all kept patches, slice by
slice, then padding up to one of few lengths. Attention needs a slice's tokens together: for it they
are copied into padded sequences, the slices with the most patches into the longest, and back.
A group is what one device computes at a time; the flat sequence is sharded over groups.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Packing(NamedTuple):
    """Which patch each flat row holds, and where each row goes in the padded sequences.

    Attributes:
      source: each token's patch, counted over its group's slices; -1 is padding.
      rows: for each set of sequences of one length, the flat row of each token, class token first;
        -1 is padding.
      place: each flat row's index in all of `rows`, flattened and joined; -1 is padding.
      slot: each slice's index among the sequences, in the order of `rows`.
    """

    source: Int[Array | np.ndarray, "groups tokens"]
    rows: tuple[Int[Array | np.ndarray, "groups slices length"], ...]
    place: Int[Array | np.ndarray, "groups rows"]
    slot: Int[Array | np.ndarray, "groups slices"]

    @property
    def slices(self) -> int:
        """Number of slices in all groups."""
        return self.slot.shape[0] * self.slot.shape[1]

    def example(self, patches: int) -> Int[Array, "groups rows"]:
        """The slice of each flat row, counted over all groups; arbitrary for padding.

        patches: of a whole slice.
        """
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

    `inverse` is the position of each row in `index`, -1 for a row that is not taken; no row is
    taken twice. The gradient is then the same operation with both swapped, and no scatter-add,
    which is slow.
    """
    taken = jnp.take(x, index, axis=0, mode="clip")
    return jnp.where((index >= 0).reshape(-1, *(1,) * (x.ndim - 1)), taken, 0)


def _take_forward(x: Array, index: Array, inverse: Array) -> tuple[Array, tuple[Array, Array]]:
    return take_rows(x, index, inverse), (index, inverse)


def _take_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    index, inverse = saved
    return take_rows(gradient, inverse, index), None, None


take_rows.defvjp(_take_forward, _take_backward)
_take_rows_of_groups = jax.vmap(take_rows)


def flatten(
    patches: Float[Array, "batch patches pixels"], packing: Packing
) -> Float[Array, "groups tokens pixels"]:
    """The kept patches of each group; rows of padding hold an arbitrary patch."""
    grouped = patches.reshape(len(packing.source), -1, patches.shape[-1])
    return jax.vmap(lambda x, i: jnp.take(x, i, axis=0, mode="clip"))(grouped, packing.source)


def apart(
    x: Float[Array, "groups rows heads head_width"], packing: Packing, classes: bool = False
) -> list[Float[Array, "_ _ heads head_width"]]:
    """The flat rows as padded sequences, with 0 in padding.

    One array [groups * slices, length, heads, head_width] for each of `packing.rows`; with
    `classes` `x` holds the class tokens only, and the length is 1.
    """
    index, inverse, shapes = _route(packing, classes)
    flat = _take_rows_of_groups(x, index, inverse)
    ends = [sum(n * length for n, length in shapes[: i + 1]) for i in range(len(shapes))]
    return [
        flat[:, end - n * length : end].reshape(-1, length, *x.shape[2:])
        for (n, length), end in zip(shapes, ends, strict=True)
    ]


def together(
    sequences: list[Float[Array, "_ _ heads head_width"]],
    packing: Packing,
    classes: bool = False,
) -> Float[Array, "groups rows heads head_width"]:
    """The inverse of `apart`."""
    index, inverse, _ = _route(packing, classes)
    flat = [x.reshape(len(packing.slot), -1, *x.shape[2:]) for x in sequences]
    return _take_rows_of_groups(jnp.concatenate(flat, axis=1), inverse, index)


def _route(packing: Packing, classes: bool) -> tuple[Array, Array, list[tuple[int, int]]]:
    """Index and inverse for `take_rows`, and (slices, length) of each set of sequences."""
    rows = [r[:, :, :1] for r in packing.rows] if classes else packing.rows
    index = jnp.concatenate([r.reshape(len(r), -1) for r in rows], axis=1)
    inverse = jnp.asarray(packing.slot if classes else packing.place)
    return index, inverse, [(r.shape[1], r.shape[2]) for r in rows]


def packed_attention(
    q: Float[Array, "groups queries heads head_width"],
    k: Float[Array, "groups rows heads head_width"],
    v: Float[Array, "groups rows heads head_width"],
    packing: Packing,
    attention: Callable[[Array, Array, Array, Array], Array],
) -> Float[Array, "groups queries heads head_width"]:
    """`attention(q, k, v, mask)` of each slice to itself; queries are all rows or class tokens."""
    classes = q.shape[1] != k.shape[1]
    masks = [jnp.asarray(rows >= 0).reshape(-1, rows.shape[2]) for rows in packing.rows]
    sequences = zip(
        apart(q, packing, classes), apart(k, packing), apart(v, packing), masks, strict=True
    )
    return together([attention(*sequence) for sequence in sequences], packing, classes)


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
