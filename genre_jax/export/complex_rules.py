"""Rules for complex numbers, which are pairs of real ones in the graph."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genre_jax.export import products, rules
from genre_jax.export.graph import Constant, Graph, Pair, Part, Unsupported, Value
from genre_jax.export.shapes import like, scalar

# These act on real and imaginary part alike.
LINEAR = (
    *("add", "broadcast_in_dim", "concatenate", "dynamic_slice", "gather", "neg", "pad", "reduce_sum", "reshape", "rev"),
    *("select_n", "slice", "split", "squeeze", "stack", "sub", "transpose"),
)


def concerns(equation: Any, operands: Sequence[Value]) -> bool:
    """Whether an operation takes or makes complex numbers."""
    makes = any(np.issubdtype(out.aval.dtype, np.complexfloating) for out in equation.outvars)
    return makes or any(_is_complex(operand) for operand in operands)


def _is_complex(value: Value) -> bool:
    return isinstance(value, Pair) or (isinstance(value, Constant) and np.iscomplexobj(value.array))


def _pair(value: Value) -> Value:
    if isinstance(value, Constant) and _is_complex(value):
        return Pair(*(Constant(part.copy(), value.weight) for part in (value.array.real, value.array.imag)))
    return value


def rule(graph: Graph, equation: Any, operands: Sequence[Value]) -> Any:
    """The result of an operation on complex numbers. Raises `Unsupported` if there is no rule."""
    name = equation.primitive.name
    values = [_pair(operand) for operand in operands]
    if name in LINEAR:
        parts = [
            rules.rule(graph, equation, [value[k] if isinstance(value, Pair) else value for value in values]) for k in (0, 1)
        ]
        return [Pair(*pair) for pair in zip(*parts, strict=True)] if isinstance(parts[0], list) else Pair(*parts)
    if name not in RULES:
        raise Unsupported(f"the operation {name!r} of JAX has no rule for complex numbers in ONNX")
    return RULES[name](graph, equation, *values)


def _fourier(graph: Graph, equation: Any, x: Part) -> Pair:
    return products.fourier(graph, equation, rules.whole(graph, x, equation.invars[0].aval))


def _product(graph: Graph, equation: Any, x: Value, y: Value) -> Pair:
    """(a + bi)(c + di), where each factor may be real."""
    real, imag = ((x[0], x[1]) if isinstance(x, Pair) else (x, None)), ((y[0], y[1]) if isinstance(y, Pair) else (y, None))

    def times(a: Any, b: Any) -> Any:
        return None if a is None or b is None else rules.rule(graph, equation, [a, b])

    def plus(kind: str, a: Any, b: Any) -> Any:
        return a if b is None else (b if a is None else like(graph, kind, a, b))

    (a, b), (c, d) = real, imag
    return Pair(plus("Sub", times(a, c), times(b, d)), plus("Add", times(a, d), times(b, c)))


def _quotient(graph: Graph, equation: Any, x: Pair, y: Value) -> Pair:
    """A quotient by real numbers, which JAX may hold as complex ones."""
    if isinstance(y, Pair) and not (isinstance(y.imag, Constant) and not y.imag.array.any()):
        raise Unsupported("a quotient by complex numbers has no rule for ONNX")
    return Pair(*(like(graph, "Div", part, y.real if isinstance(y, Pair) else y) for part in x))


def _magnitude(graph: Graph, equation: Any, x: Pair) -> Part:
    squares = [like(graph, "Mul", part, part) for part in x]
    return like(graph, "Sqrt", like(graph, "Add", *squares))


def _convert(graph: Graph, equation: Any, x: Value) -> Pair:
    return x if isinstance(x, Pair) else Pair(x, scalar(0, np.float32))


RULES: dict[str, Callable[..., Any]] = {
    "abs": _magnitude,
    "complex": lambda graph, equation, real, imag: Pair(real, imag),
    "conj": lambda graph, equation, x: Pair(x.real, like(graph, "Neg", x.imag)),
    "convert_element_type": _convert,
    "div": _quotient,
    "dot_general": _product,
    "fft": _fourier,
    "imag": lambda graph, equation, x: x.imag,
    "mul": _product,
    "real": lambda graph, equation, x: x.real,
}
