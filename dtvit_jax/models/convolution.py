"""Convolution whose output map is smaller than its kernel, in a form that XLA:CPU runs fast.

XLA:CPU runs these in a naive loop. In ResNet-18 at 56 pixels a 3x3 convolution from 2x2 to 2x2 maps
of 512 channels, batch 32, takes 265 ms and its input gradient 269 ms; a matrix product takes 4 ms
for each (2 cores). Larger maps, and other devices, use XLA's own convolution.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dtvit_jax.models import kernels
from dtvit_jax.models.kernels import Pads

_Form = Callable[[Array, Array, tuple[int, int], Pads], Array]


def convolution(
    x: Float[Array, "batch rows columns channels"],
    kernel: Float[Array, "kernel_rows kernel_columns channels out"],
    strides: tuple[int, int],
    pads: Pads,
) -> Float[Array, "batch new_rows new_columns out"]:
    """`kernels.convolution`; on a CPU a matrix product where the new map is small."""
    rows, columns = _new_sides(x, kernel, strides, pads)
    if rows < kernel.shape[0] and columns < kernel.shape[1]:
        return _to_small_map(x, kernel, strides, pads)
    return kernels.convolution(x, kernel, strides, pads)


def _new_sides(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> list[int]:
    """Rows and columns of the new map."""
    axes = zip(x.shape[1:3], kernel.shape[:2], strides, pads, strict=True)
    return [(n + sum(pad) - side) // stride + 1 for n, side, stride, pad in axes]


def _product(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    """Windows as a matrix [batch rows columns, kernel_rows kernel_columns channels], times W."""
    rows, columns = _new_sides(x, kernel, strides, pads)
    down, right = strides
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    shifted = [
        x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    windows = jnp.concatenate(shifted, -1)
    y = windows.reshape(-1, windows.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    # shape[0], not len: the batch of an exported program is a symbol
    return y.reshape(x.shape[0], rows, columns, kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _to_small_map(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    cpu, default = (
        functools.partial(form, strides=strides, pads=pads)
        for form in (_product, kernels.convolution)
    )
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _forward(
    x: Array, kernel: Array, strides: tuple[int, int], pads: Pads
) -> tuple[Array, tuple[Array, Array]]:
    return _to_small_map(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: tuple[int, int], pads: Pads, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    """Each platform differentiates its own form, so that no program holds both."""

    def gradient(form: _Form, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        _, transposed = jax.vjp(lambda x, kernel: form(x, kernel, strides, pads), x, kernel)
        return transposed(dy)

    cpu, default = (functools.partial(gradient, form) for form in (_product, kernels.convolution))
    return jax.lax.platform_dependent(*saved, dy, cpu=cpu, default=default)


_to_small_map.defvjp(_forward, _backward)
