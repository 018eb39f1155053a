"""Convolution to maps smaller than its kernel, in a form that XLA:CPU is quick at.

XLA:CPU has a plain loop for these. In ResNet-18 at 56 pixels, 3x3 from 2x2 to 2x2 maps of 512
channels, batch 32, takes 265 ms, and the input's gradient 269; a product of matrices takes 4 each
(2 cores). Larger maps, and other devices, have XLA's own convolution.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    x: Float[Array, "batch rows columns channels"],
    kernel: Float[Array, "kernel_rows kernel_columns channels out"],
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "batch new_rows new_columns out"]:
    """jax.lax.conv_general_dilated for nnx.Conv, of one group and without dilation."""
    pads = (padding[0], padding[1])  # nnx gives a list
    rows, columns = _places(x, kernel, strides, pads)
    if rows < kernel.shape[0] and columns < kernel.shape[1]:
        return _to_small_map(x, kernel, strides, pads)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _places(
    x: Array, kernel: Array, strides: tuple[int, int], padding: Sequence[tuple[int, int]]
) -> list[int]:
    """Rows and columns of the new map."""
    sides = zip(x.shape[1:3], kernel.shape, strides, padding, strict=False)
    return [(n + sum(pads) - side) // stride + 1 for n, side, stride, pads in sides]


def _convolution(x: Array, kernel: Array, strides: tuple[int, int], padding: Pads) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)


def _product(x: Array, kernel: Array, strides: tuple[int, int], padding: Pads) -> Array:
    """What lies under the kernel, [batch places, kernel_rows kernel_columns channels], by it."""
    rows, columns = _places(x, kernel, strides, padding)
    down, right = strides
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    under = [
        x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    y = jnp.concatenate(under, -1)
    places = y.reshape(-1, y.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    # shape[0], not len: an exported program's batch is a symbol
    return places.reshape(x.shape[0], rows, columns, kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _to_small_map(x: Array, kernel: Array, strides: tuple[int, int], padding: Pads) -> Array:
    cpu, default = (
        functools.partial(form, strides=strides, padding=padding)
        for form in (_product, _convolution)
    )
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _forward(x: Array, kernel: Array, strides: tuple[int, int], padding: Pads) -> tuple:
    return _to_small_map(x, kernel, strides, padding), (x, kernel)


def _backward(
    strides: tuple[int, int], padding: Pads, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    """Written out, so that only the gradient of the form in use is in the program."""

    def gradient(form: Any, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        form = functools.partial(form, strides=strides, padding=padding)
        return jax.vjp(form, x, kernel)[1](dy)

    cpu, default = (functools.partial(gradient, form) for form in (_product, _convolution))
    return jax.lax.platform_dependent(*saved, dy, cpu=cpu, default=default)


_to_small_map.defvjp(_forward, _backward)
