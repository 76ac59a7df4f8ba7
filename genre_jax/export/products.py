"""Rules for matrix products, convolutions, windows, gathers and Fourier transforms, as `rules.py` describes them.

JAX's networks have channels last, ONNX's convolutions channels second.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from genre_jax.export.graph import Constant, Graph, Pair, Part, Shape, Tensor, Unsupported
from genre_jax.export.shapes import bounded, cast, like, out_dtype, out_shape, padded, scalar, sliced, transposed
from genre_jax.export.trace import fourier_matrices

LARGEST_DFT = 1024  # samples up to which a product is faster than the node DFT, and its matrices are small (4 MB)


def dot_general(graph: Graph, equation: Any, x: Part, y: Part) -> Part:
    """A matrix product over (batch, rows, inner) and (batch, inner, columns)."""
    (x_inner, y_inner), (x_batch, y_batch) = equation.params["dimension_numbers"]
    x_rows, y_columns = (
        [axis for axis in range(len(part.shape)) if axis not in (*inner, *batch)]
        for part, inner, batch in ((x, x_inner, x_batch), (y, y_inner, y_batch))
    )
    rows, columns = [x.shape[axis] for axis in x_rows], [y.shape[axis] for axis in y_columns]
    batch, inner = [x.shape[axis] for axis in x_batch], math.prod(x.shape[axis] for axis in x_inner)
    x, y = transposed(graph, x, (*x_batch, *x_rows, *x_inner)), transposed(graph, y, (*y_batch, *y_inner, *y_columns))
    y = graph.reshape(y, (*batch, inner, math.prod(columns)))
    x = graph.reshape(x, (*batch, *rows, inner) if not batch else (*batch, math.prod(rows), inner))
    out = graph.op("MatMul", x, y, shape=(*x.shape[:-1], math.prod(columns)))
    return graph.reshape(out, out_shape(equation))


def convolution(graph: Graph, equation: Any, x: Part, kernel: Part) -> Part:
    """A convolution with strides, dilations and groups."""
    params = equation.params
    numbers = params["dimension_numbers"]
    if any(each != 1 for each in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise Unsupported("a transposed convolution has no rule")
    x, kernel = transposed(graph, x, numbers.lhs_spec), transposed(graph, kernel, numbers.rhs_spec)
    x, pads = padded(graph, x, [(0, 0), (0, 0), *params["padding"]])
    shape = [out_shape(equation)[axis] for axis in numbers.out_spec]
    y = graph.op(
        "Conv",
        x,
        kernel,
        shape=shape,
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        pads=[pad for axis, pad in enumerate(pads) if axis % len(x.shape) > 1],
        group=params["feature_group_count"],
    )
    return transposed(graph, y, np.argsort(numbers.out_spec))


def windows(kind: str) -> Callable[..., Part]:
    """Sums or maxima over windows, of arrays with channels last."""

    def rule(graph: Graph, equation: Any, x: Part, *_: Part) -> Part:
        params = equation.params
        sizes, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
        plain = all(each == 1 for each in (*params["base_dilation"], *params["window_dilation"]))
        ends = (sizes[0], sizes[-1], strides[0], strides[-1], *padding[0], *padding[-1])
        if not plain or len(sizes) < 3 or ends != (1, 1, 1, 1, 0, 0, 0, 0):
            raise Unsupported("a window over batch or channels has no rule")
        order = (0, len(sizes) - 1, *range(1, len(sizes) - 1))
        x = transposed(graph, x, order)
        shape = [out_shape(equation)[axis] for axis in order]
        counted = {"count_include_pad": 1} if kind == "AveragePool" else {}
        pads = [pair[end] for end in (0, 1) for pair in padding[1:-1]]
        y = graph.op(kind, x, shape=shape, kernel_shape=list(sizes[1:-1]), strides=list(strides[1:-1]), pads=pads, **counted)
        if kind == "AveragePool":
            y = like(graph, "Mul", y, scalar(math.prod(sizes), out_dtype(equation)))
        return transposed(graph, y, np.argsort(order))

    return rule


def gather(graph: Graph, equation: Any, x: Part, indices: Part) -> Part:
    """A single window, windows along a single dimension, or entries that several indices name.

    JAX moves a window into the array. The index of a dimension that is taken whole is therefore 0, and is left out.
    """
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shared, collapsed = numbers.operand_batching_dims, numbers.collapsed_slice_dims
    moving = [k for k, axis in enumerate(numbers.start_index_map) if sizes[axis] != x.shape[axis]]
    axes = [numbers.start_index_map[k] for k in moving]
    cut = {axis for axis, size in enumerate(sizes) if size != x.shape[axis]}
    if not cut <= {*axes, *shared} or any(k != axis for k, axis in enumerate(shared)):
        raise Unsupported("a gather of parts of an array has no rule")
    if indices.shape == (len(numbers.start_index_map),):
        columns = [_column(graph, indices, k, ()) for k in moving]
        return graph.reshape(window(graph, x, axes, columns, sizes) if axes else x, out_shape(equation))
    if len(axes) == 1 and set(collapsed) <= set(axes) and not shared:
        return _windows_along(graph, equation, x, axes[0], _column(graph, indices, moving[0], indices.shape[:-1]))
    if len(axes) != indices.shape[-1] or set(axes) != set(collapsed) or numbers.start_indices_batching_dims != shared:
        raise Unsupported("a gather of windows in several dimensions has no rule")
    kept = [axis for axis in range(len(x.shape)) if axis not in (*shared, *axes)]
    x = transposed(graph, x, (*shared, *axes, *kept))
    shape = (*indices.shape[:-1], *(x.shape[len(shared) + len(axes) :]))
    y = graph.op("GatherND", x, cast(graph, indices, np.int64), shape=shape, batch_dims=len(shared))
    return _ordered(graph, equation, y, (*_batch(equation), *numbers.offset_dims))


def _batch(equation: Any) -> list[int]:
    """The dimensions of a gather's result that number its windows."""
    offsets = equation.params["dimension_numbers"].offset_dims
    return [axis for axis in range(len(out_shape(equation))) if axis not in offsets]


def _ordered(graph: Graph, equation: Any, y: Part, places: Sequence[int]) -> Part:
    """The value whose dimension k belongs at `places[k]`."""
    return transposed(graph, y, np.argsort(places))


def _column(graph: Graph, indices: Part, k: int, shape: Shape) -> Part:
    if isinstance(indices, Constant):
        return Constant(indices.array[..., k].reshape(shape))
    starts, stops = [0] * len(shape), list(indices.shape[:-1])
    column = sliced(graph, indices, [*starts, k], [*stops, k + 1], [1] * len(indices.shape), (*stops, 1))
    return graph.reshape(column, shape)


def _windows_along(graph: Graph, equation: Any, x: Part, axis: int, starts: Part) -> Part:
    numbers, size = equation.params["dimension_numbers"], equation.params["slice_sizes"][axis]
    starts = bounded(graph, starts, x.shape[axis], size)
    before, after = numbers.offset_dims[:axis], numbers.offset_dims[axis:]
    places = [*before, *_batch(equation), *after]
    if axis not in numbers.collapsed_slice_dims:
        within = Constant(np.arange(size, dtype=np.int64))
        starts = like(graph, "Add", graph.reshape(starts, (*starts.shape, 1)), within)
    y = graph.op("Gather", x, starts, shape=(*x.shape[:axis], *starts.shape, *x.shape[axis + 1 :]), axis=axis)
    return _ordered(graph, equation, y, places)


def window(graph: Graph, x: Part, axes: Sequence[int], starts: Sequence[Part], sizes: Sequence[Any]) -> Tensor:
    """The window of these sizes whose start along each of `axes` is a value of the graph."""
    lows = [
        graph.reshape(bounded(graph, start, x.shape[axis], sizes[axis]), (1,)) for axis, start in zip(axes, starts, strict=True)
    ]
    highs = [like(graph, "Add", low, Constant(np.array([sizes[axis]]))) for axis, low in zip(axes, lows, strict=True)]
    low, high = (graph.op("Concat", *ends, shape=(len(axes),), axis=0) for ends in (lows, highs))
    return graph.op("Slice", x, low, high, list(axes), shape=sizes)


def fourier(graph: Graph, equation: Any, x: Part) -> Pair:
    """The Fourier transform of real numbers along the last dimension. `trace.portable` leaves only powers of two."""
    params, shape = equation.params, out_shape(equation)
    length = params["fft_lengths"][-1]
    if params["fft_type"] != jax.lax.FftType.RFFT or len(params["fft_lengths"]) > 1 or length & (length - 1):
        raise Unsupported("only the Fourier transform of real numbers along a single dimension has a rule")
    if length <= LARGEST_DFT:
        return Pair(*(graph.op("MatMul", x, Constant(matrix), shape=shape) for matrix in fourier_matrices(length)))
    both = graph.op("DFT", graph.reshape(x, (*x.shape, 1)), shape=(*shape, 2), axis=len(shape) - 1, onesided=1)
    starts, ones = [0] * len(shape), [1] * (len(shape) + 1)
    parts = (sliced(graph, both, (*starts, k), (*shape, k + 1), ones, (*shape, 1)) for k in (0, 1))
    return Pair(*(graph.reshape(part, shape) for part in parts))
