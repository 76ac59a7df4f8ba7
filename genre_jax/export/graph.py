"""The values of an ONNX graph while it is built: constants, tensors and complex pairs, with lazy broadcasting.

JAX broadcasts operands to equal shapes before most operations. ONNX broadcasts by itself, and a graph with JAX's broadcasts
would hold every bias as an array of the size of the activations. A value therefore keeps the shape that it has in the graph,
with sizes of 1 where JAX's shape is larger, until an operation needs it in full (`Graph.full`).

The batch is the only size that may be unknown: a symbol in JAX's shapes, and the vector `BATCH` in the graph.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import NodeProto, TensorProto, helper

from genre_jax.console import UserError
from genre_jax.export import description

Shape = tuple[Any, ...]  # of int, and of JAX's symbolic expressions of the batch
BATCH = "batch"  # name of the vector (1,) int64 that holds the batch size


class Constant(NamedTuple):
    """A value that is known. `weight` says whether it comes from the weights of the network."""

    array: np.ndarray
    weight: bool = False

    @property
    def shape(self) -> Shape:
        return self.array.shape


class Tensor(NamedTuple):
    """A value that the graph computes, by its name."""

    name: str
    shape: Shape


class Pair(NamedTuple):
    """A complex value as its real and its imaginary part. ONNX has hardly any operation on complex numbers."""

    real: "Part"
    imag: "Part"

    @property
    def shape(self) -> Shape:
        return self.real.shape


Part = Constant | Tensor
Value = Part | Pair


class Unsupported(UserError):
    """An operation that has no rule."""


def known(shape: Sequence[Any]) -> bool:
    """Whether all sizes are numbers."""
    return all(isinstance(size, int | np.integer) for size in shape)


def joined(*shapes: Shape) -> Shape:
    """The shape of values that are broadcast against each other."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((size for size in sizes if not (known([size]) and size == 1)), 1) for sizes in zip(*padded, strict=True))


@dataclasses.dataclass
class Constants:
    """The constants of a graph and of all bodies in it; each array is stored once.

    Attributes:
      halved: whether weights are stored as float16.
      arrays: name → array as it is stored.
      widened: nodes that make float32 weights of float16 arrays; they run before all others.
    """

    halved: bool = False
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    widened: list[NodeProto] = dataclasses.field(default_factory=list)
    _names: dict[Any, str] = dataclasses.field(default_factory=dict)
    numbers: "itertools.count[int]" = dataclasses.field(default_factory=itertools.count)

    def name(self, constant: Constant) -> str:
        """The name of a constant, which is stored if it is not yet."""
        array = constant.array
        key = array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array)).digest()
        if key not in self._names:
            self._names[key] = self._stored(constant.array, constant.weight)
        return self._names[key]

    def _stored(self, array: np.ndarray, weight: bool) -> str:
        name = f"constant_{next(self.numbers)}"
        if not (self.halved and weight and array.dtype == np.float32 and array.size >= description.HALVED):
            self.arrays[name] = array
            return name
        self.arrays[f"{name}_half"] = array.astype(np.float16)
        self.widened.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        return name


class Graph:
    """Nodes of an ONNX graph, or of the body of a node.

    Attributes:
      constants: the constants, which bodies share with the graph around them.
      batch: JAX's symbol for the batch size.
      nodes: the nodes, in the order in which they run.
    """

    def __init__(self, constants: Constants, batch: Any) -> None:
        self.constants, self.batch = constants, batch
        self.nodes: list[NodeProto] = []

    def fresh(self, hint: str) -> str:
        """A name that no other value has."""
        return f"{hint}_{next(self.constants.numbers)}"

    def node(self, kind: str, *inputs: "str | Value | Sequence[int]", outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; return the names of its outputs. Inputs are names, values, or lists of integers."""
        names = [self.fresh(kind.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, [self.name(each) for each in inputs], names, **attributes))
        return names

    def op(self, kind: str, *inputs: "str | Value | Sequence[int]", shape: Sequence[Any], **attributes: Any) -> Tensor:
        """Add a node with one output of this shape."""
        return Tensor(self.node(kind, *inputs, **attributes)[0], tuple(shape))

    def name(self, value: "str | Value | Sequence[int]") -> str:
        """The name of a value in the graph. A constant is stored here."""
        if isinstance(value, str):
            return value
        if isinstance(value, Tensor):
            return value.name
        if isinstance(value, Pair):
            raise Unsupported("a complex number is used where only real numbers have a rule")
        return self.constants.name(value if isinstance(value, Constant) else Constant(np.asarray(value, np.int64)))

    def dims(self, shape: Sequence[Any]) -> "str | list[int]":
        """A shape as an input of a node: numbers, or a vector that the graph computes from the batch size."""
        if known(shape):
            return [int(size) for size in shape]
        parts = [[int(size)] if known([size]) else self._size(size) for size in shape]
        return self.node("Concat", *parts, axis=0)[0]

    def _size(self, symbol: Any) -> str:
        factor = symbol // self.batch
        if not known([factor]) or factor * self.batch != symbol:
            raise Unsupported(f"the size {symbol} is not a multiple of the batch size")
        return BATCH if factor == 1 else self.node("Mul", BATCH, [factor])[0]

    def reshape(self, value: Part, shape: Sequence[Any]) -> Part:
        """A value that is not broadcast, in another shape."""
        shape = tuple(shape)
        if tuple(value.shape) == shape:
            return value
        if isinstance(value, Constant):
            return Constant(value.array.reshape(shape), value.weight)
        if sum(not known([size]) for size in shape) == 1 and 0 not in shape:
            return self.op("Reshape", value, [int(size) if known([size]) else -1 for size in shape], shape=shape)
        return self.op("Reshape", value, self.dims(shape), shape=shape)

    def full(self, value: Part, shape: Sequence[Any]) -> Part:
        """A value with all sizes of `shape`."""
        if tuple(value.shape) == tuple(shape):
            return value
        if isinstance(value, Constant) and known(shape):
            return Constant(np.broadcast_to(value.array, shape), value.weight)
        return self.op("Expand", value, self.dims(shape), shape=tuple(shape))
