"""Count the floating-point operations of a program from its jaxpr."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def flops(function: Callable, *arguments: Any) -> int:
    """Return the operations of all matrix products and convolutions in one call on one device, two for each multiply-add.

    XLA's `cost_analysis` counts the body of a loop only once. This function multiplies the body of a scan by its length, so
    that the counts of scanned and unrolled programs can be compared. A `cond` counts as its most expensive branch, and a
    `while` of unknown length as one iteration. `arguments` may be shapes.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        numbers, kernel = params["dimension_numbers"].rhs_spec, equation.invars[1].aval.shape
        products = kernel[numbers[1]] * math.prod(kernel[axis] for axis in numbers[2:])
        # Of an input dilated by n only every n-th value is not zero, and a convolution skips the zeros.
        return 2 * math.prod(equation.outvars[0].aval.shape) * products // math.prod(params["lhs_dilation"])
    inner = [_count(jaxpr) for jaxpr in _inside(params.values())]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _inside(values: Any) -> Iterator[Jaxpr]:
    """Yield the jaxprs among an equation's parameters."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inside(value)
