"""What several rules need: nodes whose output has the shape of their inputs, transposes, slices, and scalars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from genre_jax.export.graph import Constant, Graph, Part, Shape, Tensor, joined, known

END = np.iinfo(np.int64).max  # the stop of a slice that goes to the end


def like(graph: Graph, kind: str, *parts: Part, **attributes: Any) -> Tensor:
    """A node whose output has the shape of its broadcast inputs."""
    return graph.op(kind, *parts, shape=joined(*(part.shape for part in parts)), **attributes)


def scalar(value: float, dtype: Any = np.int64) -> Constant:
    """A constant without dimensions."""
    return Constant(np.asarray(value, dtype))


def out_shape(equation: Any) -> Shape:
    """The shape of the first output of an equation."""
    shape: Shape = equation.outvars[0].aval.shape
    return shape


def out_dtype(equation: Any) -> np.dtype:
    """The dtype of the first output of an equation."""
    dtype: np.dtype = equation.outvars[0].aval.dtype
    return dtype


def cast(graph: Graph, x: Part, dtype: Any) -> Tensor:
    """The value in another dtype."""
    return like(graph, "Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def bounded(graph: Graph, start: Part, size: Any, taken: int) -> Tensor:
    """Start indices of windows of `taken` entries as int64, moved into a dimension of `size` entries, as JAX moves them."""
    largest: Part = scalar(size - taken) if known([size]) else _less(graph, size, taken)
    return like(graph, "Min", like(graph, "Max", cast(graph, start, np.int64), scalar(0)), largest)


def _less(graph: Graph, size: Any, taken: int) -> Tensor:
    whole = graph.op("Squeeze", graph.dims([size]), [0], shape=())
    return like(graph, "Sub", whole, scalar(taken))


def transposed(graph: Graph, x: Part, order: Sequence[int] | np.ndarray) -> Part:
    """The value with its dimensions in another order."""
    order = [int(place) for place in order]
    if order == list(range(len(order))):
        return x
    if isinstance(x, Constant):
        return Constant(x.array.transpose(order).copy(), x.weight)
    return graph.op("Transpose", x, shape=[x.shape[place] for place in order], perm=order)


def sliced(graph: Graph, x: Part, starts: Sequence[Any], stops: Sequence[Any], strides: Sequence[int], shape: Shape) -> Part:
    """Every `stride`-th entry from start to stop in each dimension. A start of an unknown size counts from the end."""
    cuts = [
        (axis, start, stop, stride)
        for axis, (start, stop, stride) in enumerate(zip(starts, stops, strides, strict=True))
        if (start, stride) != (0, 1) or stop != x.shape[axis]
    ]
    if not cuts:
        return x
    lows = [int(low if known([low]) else low - x.shape[axis]) for axis, low, _, _ in cuts]
    highs = [int(high) if known([high]) else END for _, _, high, _ in cuts]
    return graph.op("Slice", x, lows, highs, [cut[0] for cut in cuts], [cut[3] for cut in cuts], shape=shape)


def padded(graph: Graph, x: Part, padding: Sequence[tuple[int, int]]) -> tuple[Part, list[int]]:
    """The value without what negative padding cuts away, and ONNX's list of the padding that remains to be added."""
    starts = [max(0, -low) for low, _ in padding]
    stops = [size - max(0, -high) for size, (_, high) in zip(x.shape, padding, strict=True)]
    shape = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
    pads = [max(0, pair[end]) for end in (0, 1) for pair in padding]
    return sliced(graph, x, starts, stops, [1] * len(starts), shape), pads
