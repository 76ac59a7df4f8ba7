"""How operations of JAX become nodes of ONNX: `RULES` maps the name of a primitive to a function.

A rule is called with the graph, the equation of JAX and its input values, and returns the output value, or a list of them.
`ELEMENTWISE` are the rules that work with broadcast operands; all others get operands in full.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genre_jax.export import products
from genre_jax.export.graph import BATCH, Constant, Graph, Pair, Part, Tensor, Unsupported, Value, known
from genre_jax.export.shapes import cast, like, out_dtype, out_shape, padded, scalar, sliced, transposed


def _simple(kind: str) -> Callable[..., Tensor]:
    return lambda graph, equation, *parts: like(graph, kind, *parts)


def _negated(kind: str) -> Callable[..., Tensor]:
    return lambda graph, equation, *parts: like(graph, "Not", like(graph, kind, *parts))


def _square(graph: Graph, equation: Any, x: Part) -> Tensor:
    return like(graph, "Mul", x, x)


def _integer_pow(graph: Graph, equation: Any, x: Part) -> Tensor:
    power = equation.params["y"]
    return _square(graph, equation, x) if power == 2 else like(graph, "Pow", x, scalar(power, out_dtype(equation)))


def _rsqrt(graph: Graph, equation: Any, x: Part) -> Tensor:
    return like(graph, "Reciprocal", like(graph, "Sqrt", x))


def _log1p(graph: Graph, equation: Any, x: Part) -> Tensor:
    return like(graph, "Log", like(graph, "Add", x, scalar(1, out_dtype(equation))))


def _expm1(graph: Graph, equation: Any, x: Part) -> Tensor:
    return like(graph, "Sub", like(graph, "Exp", x), scalar(1, out_dtype(equation)))


def _remainder(graph: Graph, equation: Any, x: Part, y: Part) -> Tensor:
    return like(graph, "Mod", x, y, fmod=1)


def _select(graph: Graph, equation: Any, which: Part, *cases: Part) -> Tensor:
    if len(cases) != 2 or equation.invars[0].aval.dtype != np.bool_:
        raise Unsupported("a choice among more than two values has no rule")
    return like(graph, "Where", which, cases[1], cases[0])


def _clamp(graph: Graph, equation: Any, low: Part, x: Part, high: Part) -> Tensor:
    return like(graph, "Min", like(graph, "Max", x, low), high)


def _is_finite(graph: Graph, equation: Any, x: Part) -> Tensor:
    return like(graph, "Not", like(graph, "Or", like(graph, "IsNaN", x), like(graph, "IsInf", x)))


def _cast(graph: Graph, equation: Any, x: Part) -> Tensor:
    return cast(graph, x, out_dtype(equation))


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": _simple("Abs"),
    "add": _simple("Add"),
    "and": _simple("And"),
    "ceil": _simple("Ceil"),
    "clamp": _clamp,
    "convert_element_type": _cast,
    "cos": _simple("Cos"),
    "div": _simple("Div"),
    "eq": _simple("Equal"),
    "erf": _simple("Erf"),
    "exp": _simple("Exp"),
    "expm1": _expm1,
    "floor": _simple("Floor"),
    "ge": _simple("GreaterOrEqual"),
    "gt": _simple("Greater"),
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "le": _simple("LessOrEqual"),
    "log": _simple("Log"),
    "log1p": _log1p,
    "logistic": _simple("Sigmoid"),
    "lt": _simple("Less"),
    "max": _simple("Max"),
    "min": _simple("Min"),
    "mul": _simple("Mul"),
    "ne": _negated("Equal"),
    "neg": _simple("Neg"),
    "not": _simple("Not"),
    "or": _simple("Or"),
    "pow": _simple("Pow"),
    "rem": _remainder,
    "round": _simple("Round"),
    "rsqrt": _rsqrt,
    "select_n": _select,
    "sign": _simple("Sign"),
    "sin": _simple("Sin"),
    "sqrt": _simple("Sqrt"),
    "square": _square,
    "sub": _simple("Sub"),
    "tanh": _simple("Tanh"),
}
SAME = ("copy", "name", "optimization_barrier", "stop_gradient")


def _broadcast_in_dim(graph: Graph, equation: Any, x: Part, *_: Part) -> Part:
    """The value with sizes of 1; nothing is repeated."""
    places = equation.params["broadcast_dimensions"]
    shape = [1] * len(out_shape(equation))
    for size, place in zip(x.shape, places, strict=True):
        shape[place] = size
    return graph.reshape(x, shape)


def _iota(graph: Graph, equation: Any, *_: Part) -> Part:
    place, shape = equation.params["dimension"], out_shape(equation)
    ones = [1] * len(shape)
    if known([shape[place]]):
        ones[place] = shape[place]
        return Constant(np.arange(shape[place]).astype(out_dtype(equation)).reshape(ones))
    if shape[place] != graph.batch:
        raise Unsupported(f"numbers up to {shape[place]} have no rule")
    ones[place] = shape[place]
    limit = graph.op("Squeeze", BATCH, [0], shape=())
    numbers = graph.op("Range", scalar(0), limit, scalar(1), shape=(shape[place],))
    return graph.reshape(_cast(graph, equation, numbers), ones)


def _dim_as_value(graph: Graph, equation: Any, *_: Part) -> Tensor:
    vector = graph.dims([equation.params["dim"]])
    return _cast(graph, equation, graph.op("Squeeze", vector, [0], shape=()))


def _reshape(graph: Graph, equation: Any, x: Part, *_: Part) -> Part:
    if equation.params.get("dimensions") is not None:
        raise Unsupported("a reshape that also transposes has no rule")
    return graph.reshape(x, out_shape(equation))


def _transpose(graph: Graph, equation: Any, x: Part) -> Part:
    return transposed(graph, x, equation.params["permutation"])


def _concatenate(graph: Graph, equation: Any, *parts: Part) -> Tensor:
    filled = [part for part in parts if 0 not in part.shape]
    return graph.op("Concat", *filled, shape=out_shape(equation), axis=equation.params["dimension"])


def _stack(graph: Graph, equation: Any, *parts: Part) -> Tensor:
    axis = equation.params["axis"]
    raised = [graph.op("Unsqueeze", part, [axis], shape=(*part.shape[:axis], 1, *part.shape[axis:])) for part in parts]
    return graph.op("Concat", *raised, shape=out_shape(equation), axis=axis)


def _slice(graph: Graph, equation: Any, x: Part) -> Part:
    params = equation.params
    strides = params["strides"] or (1,) * len(x.shape)
    return sliced(graph, x, params["start_indices"], params["limit_indices"], strides, out_shape(equation))


def _dynamic_slice(graph: Graph, equation: Any, x: Part, *starts: Part) -> Tensor:
    sizes = equation.params["slice_sizes"]
    axes = [axis for axis, size in enumerate(sizes) if size != x.shape[axis]]
    return products.window(graph, x, axes, [starts[axis] for axis in axes], sizes)


def _split(graph: Graph, equation: Any, x: Part) -> list[Tensor]:
    sizes, axis = [int(size) for size in equation.params["sizes"]], equation.params["axis"]
    names = graph.node("Split", x, sizes, outputs=len(sizes), axis=axis)
    return [Tensor(name, out.aval.shape) for name, out in zip(names, equation.outvars, strict=True)]


def _squeeze(graph: Graph, equation: Any, x: Part) -> Part:
    return graph.reshape(x, out_shape(equation))


def _pad(graph: Graph, equation: Any, x: Part, value: Part) -> Part:
    config = equation.params["padding_config"]
    for axis, (_, _, between) in enumerate(config):
        x = _spread(graph, x, axis, between, value) if between else x
    x, pads = padded(graph, x, [(low, high) for low, high, _ in config])
    return graph.op("Pad", x, pads, value, shape=out_shape(equation)) if any(pads) else x


def _spread(graph: Graph, x: Part, axis: int, between: int, value: Part) -> Part:
    """The entries of a dimension with `between` copies of a value after each but the last."""
    size, rank, shape = x.shape[axis], len(x.shape), list(x.shape)
    single = graph.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    pads = [0] * (2 * (rank + 1))
    pads[rank + 1 + axis + 1] = between
    wide = graph.op("Pad", single, pads, value, shape=(*shape[: axis + 1], 1 + between, *shape[axis + 1 :]))
    shape[axis] = size * (1 + between)
    x = graph.reshape(wide, shape)
    stops = [*shape]
    stops[axis] -= between
    return sliced(graph, x, [0] * rank, stops, [1] * rank, tuple(stops))


def _sort(graph: Graph, equation: Any, *operands: Part) -> Tensor:
    axis = equation.params["dimension"]
    size = operands[0].shape[axis]
    if len(operands) > 1 or not known([size]):
        raise Unsupported("a sort of several arrays, or along the batch, has no rule")
    name = graph.node("TopK", operands[0], [size], outputs=2, axis=axis, largest=0)[0]
    return Tensor(name, out_shape(equation))


def _rev(graph: Graph, equation: Any, x: Part) -> Tensor:
    axes = list(equation.params["dimensions"])
    lowest = [np.iinfo(np.int64).min + 1] * len(axes)
    return graph.op("Slice", x, [-1] * len(axes), lowest, axes, [-1] * len(axes), shape=out_shape(equation))


def _reduce(kind: str) -> Callable[..., Tensor]:
    def rule(graph: Graph, equation: Any, x: Part) -> Tensor:
        return graph.op(kind, x, list(equation.params["axes"]), shape=out_shape(equation), keepdims=0)

    return rule


def _argmax(graph: Graph, equation: Any, x: Part) -> Tensor:
    (axis,) = equation.params["axes"]
    x = cast(graph, x, np.int32) if equation.invars[0].aval.dtype == np.bool_ else x
    return _cast(graph, equation, graph.op("ArgMax", x, shape=out_shape(equation), axis=axis, keepdims=0))


def _cumsum(graph: Graph, equation: Any, x: Part) -> Tensor:
    axis = scalar(equation.params["axis"])
    return like(graph, "CumSum", x, axis, reverse=int(equation.params["reverse"]))


RULES: dict[str, Callable[..., Any]] = {
    "argmax": _argmax,
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "conv_general_dilated": products.convolution,
    "cumsum": _cumsum,
    "dim_as_value": _dim_as_value,
    "dot_general": products.dot_general,
    "dynamic_slice": _dynamic_slice,
    "gather": products.gather,
    "iota": _iota,
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": products.windows("MaxPool"),
    "reduce_window_sum": products.windows("AveragePool"),
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "sort": _sort,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "transpose": _transpose,
}


def rule(graph: Graph, equation: Any, operands: Sequence[Any]) -> Any:
    """The result of the rule of an equation: a value, or a list of values. Raises `Unsupported` if there is no rule."""
    name = equation.primitive.name
    if name in ELEMENTWISE:
        return ELEMENTWISE[name](graph, equation, *operands)
    if name not in RULES:
        raise Unsupported(f"the operation {name!r} of JAX has no rule for ONNX")
    if name != "broadcast_in_dim":
        operands = [whole(graph, each, atom.aval) for each, atom in zip(operands, equation.invars, strict=True)]
    return RULES[name](graph, equation, *operands)


def whole(graph: Graph, value: Value, aval: Any) -> Any:
    """The value with all sizes that JAX gives it."""
    if isinstance(value, Pair):
        return Pair(*(graph.full(part, aval.shape) for part in value))
    return graph.full(value, aval.shape)
