"""Counts floating-point operations in a JAX function's trace; nothing runs or compiles."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval


def count(function: Callable, *arguments: Any) -> int:
    """Counts the operations of matrix products and convolutions in `function`, 2 a multiply-add.

    Sums, norms, softmax and the like are left out, as in published counts. A scan's body counts
    once an iteration, and what a backward pass recomputes counts again. Results that nothing uses
    do not count, since compilers remove them.

    Args:
      arguments: arrays, or shapes (`jax.ShapeDtypeStruct`).

    Raises:
      ValueError: a loop with products has an unknown number of iterations.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(used)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_of(equation) for equation in jaxpr.eqns)


def _of(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [_count(jaxpr) for jaxpr in _inner(equation)]
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("a loop with products in it has an unknown number of iterations")
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _product(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(left[i] for i in contracted)


def _convolution(equation: core.JaxprEqn) -> int:
    """Operations of a convolution; taps in the padding count too, as in published counts.

    A gradient's convolution has an input or kernel dilated with zeros (`lhs_dilation`). Products
    with these are left out, so that it costs as much as the forward convolution.
    """
    numbers = equation.params["dimension_numbers"]
    kernel = _shape(equation.invars[1])
    taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    skipped = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(_shape(equation.outvars[0])) * taps // skipped


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _inner(equation: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
