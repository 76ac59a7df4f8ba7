"""From a function of JAX to an ONNX model whose batch size is open.

JAX traces the function, and each operation of the trace becomes nodes by its rule (`rules.py`). What depends on the weights
alone is computed here, and stored. Complex numbers become pairs of real ones. Loops become the node Scan.

The package jax2onnx does the same for more operations. It is not used because it fails on JAX 0.12, on loops, and on an open
batch size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from onnx import checker, helper, numpy_helper

from genre_jax.export import complex_rules, rules
from genre_jax.export.graph import BATCH, Constant, Constants, Graph, Tensor, Unsupported, Value, known
from genre_jax.export.trace import INLINED, opened

LARGEST = 2_000_000_000  # bytes; protobuf fails above 2 GB
OPSET = 18  # of ONNX; onnxruntime reads it from version 1.14 on
LAZY = ("broadcast_in_dim", "dim_as_value", "iota")  # computed constants of these would fill memory, or are unknown


def convert(
    function: Callable[..., Any],
    variables: Any,
    inputs: dict[str, tuple[tuple[int, ...], Any]],
    outputs: Sequence[str],
    *,
    halved: bool = False,
) -> Any:
    """Return the ONNX model of a function.

    Args:
      function: (variables, *inputs) → a sequence of outputs; all arrays begin with the batch.
      variables: a tree of arrays, which become constants of the model.
      inputs: name → (shape without the batch, dtype).
      outputs: names of the outputs.
      halved: whether large weights are stored as float16. The model computes in float32 in either case.

    Raises `Unsupported` if an operation has no rule.
    """
    (batch,) = jax_export.symbolic_shape("batch")
    specs = [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in inputs.values()]
    closed = jax.make_jaxpr(function)(jax.eval_shape(lambda: variables), *specs)
    results: Sequence[Any] = closed.jaxpr.outvars
    graph = Graph(Constants(halved), batch)
    graph.nodes.append(helper.make_node("Shape", [next(iter(inputs))], [BATCH], start=0, end=1))
    weights = [Constant(np.asarray(leaf), weight=True) for leaf in jax.tree.leaves(variables)]
    arguments = [Tensor(name, spec.shape) for name, spec in zip(inputs, specs, strict=True)]
    values = run(graph, closed.jaxpr, closed.consts, [*weights, *arguments])
    for name, value, result in zip(outputs, values, results, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.name(rules.whole(graph, value, result.aval))], [name]))
    taken = [_info(name, spec.dtype, spec.shape) for name, spec in zip(inputs, specs, strict=True)]
    returned = [_info(name, result.aval.dtype, result.aval.shape) for name, result in zip(outputs, results, strict=True)]
    return _model(graph, taken, returned)


def _model(graph: Graph, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """The model of a graph, with what its outputs need."""
    nodes = _needed([*graph.constants.widened, *graph.nodes], [info.name for info in outputs])
    read: set[str] = set().union(*map(_read_by, nodes))
    size = sum(graph.constants.arrays[name].nbytes for name in read & graph.constants.arrays.keys())
    if size > LARGEST:
        raise Unsupported(f"its constants take {size / 1e9:.1f} GB, and an ONNX file holds at most 2 GB")
    arrays = [numpy_helper.from_array(array, name) for name, array in graph.constants.arrays.items() if name in read]
    model = helper.make_model(
        helper.make_graph(nodes, "genre_jax", inputs, outputs, arrays),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="genre_jax",
    )
    checker.check_model(model)
    return model


def _needed(nodes: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """The nodes on which the outputs depend, in their order."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= _read_by(node)
    return kept[::-1]


def _read_by(node: Any) -> set[str]:
    """The names that a node reads, also in its body."""
    inner = [part for attribute in node.attribute for part in attribute.g.node]
    return {*node.input}.union(*map(_read_by, inner))


def _info(name: str, dtype: Any, shape: Sequence[Any]) -> Any:
    sizes = [int(size) if known([size]) else BATCH for size in shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sizes)


def run(graph: Graph, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
    """Add the nodes of a trace to the graph; return its outputs."""
    values: dict[Any, Value] = {}

    def read(atom: Any) -> Value:
        return Constant(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, "val") else values[atom]

    values.update(zip(jaxpr.constvars, (Constant(np.asarray(const)) for const in consts), strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        results = _apply(graph, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
    """The outputs of an equation."""
    name = equation.primitive.name
    if name in INLINED:
        return run(graph, *opened(equation), operands)
    if name in rules.SAME:
        return operands
    constants = [operand for operand in operands if isinstance(operand, Constant)]
    if name not in LAZY and len(constants) == len(operands) and all(known(out.aval.shape) for out in equation.outvars):
        return _computed(equation, constants)
    if name == "scan":
        return _scan(graph, equation, operands)
    results = (complex_rules.rule if complex_rules.concerns(equation, operands) else rules.rule)(graph, equation, operands)
    return results if isinstance(results, list) else [results]


def _computed(equation: Any, constants: Sequence[Constant]) -> list[Value]:
    """The outputs of an equation of constants, as constants."""
    if equation.primitive.name in rules.ELEMENTWISE:
        arrays = [*np.broadcast_arrays(*(constant.array for constant in constants))]
    else:
        arrays = [np.broadcast_to(each.array, atom.aval.shape) for each, atom in zip(constants, equation.invars, strict=True)]
    results = equation.primitive.bind(*arrays, **equation.params)
    weight = any(constant.weight for constant in constants)
    return [Constant(np.asarray(each), weight) for each in (results if equation.primitive.multiple_results else [results])]


def _scan(graph: Graph, equation: Any, operands: list[Value]) -> list[Value]:
    """A loop over the first dimension of the scanned operands, as the node Scan."""
    jaxpr, jaxpr_consts = opened(equation)
    # The parameters that count constants and states differ between versions of JAX; the shapes do not.
    scanned = sum(atom.aval.ndim > inner.aval.ndim for atom, inner in zip(equation.invars, jaxpr.invars, strict=True))
    stacked = sum(out.aval.ndim > inner.aval.ndim for out, inner in zip(equation.outvars, jaxpr.outvars, strict=True))
    consts = len(operands) - scanned - (len(equation.outvars) - stacked)
    if not scanned:
        return _unrolled(graph, equation, operands[:consts], operands[consts:])
    avals = [variable.aval for variable in jaxpr.invars[consts:]]
    body = Graph(graph.constants, graph.batch)
    arguments = [Tensor(body.fresh("looped"), aval.shape) for aval in avals]
    results = run(body, jaxpr, jaxpr_consts, [*operands[:consts], *arguments])
    outputs = [body.fresh("result") for _ in results]
    for name, result, variable in zip(outputs, results, jaxpr.outvars, strict=True):
        body.nodes.append(helper.make_node("Identity", [body.name(rules.whole(body, result, variable.aval))], [name]))
    backwards = int(equation.params["reverse"])
    names = graph.node(
        "Scan",
        *(rules.whole(graph, each, atom.aval) for each, atom in zip(operands[consts:], equation.invars[consts:], strict=True)),
        outputs=len(outputs),
        body=helper.make_graph(
            body.nodes,
            graph.fresh("body"),
            [_info(each.name, aval.dtype, aval.shape) for each, aval in zip(arguments, avals, strict=True)],
            [_info(name, out.aval.dtype, out.aval.shape) for name, out in zip(outputs, jaxpr.outvars, strict=True)],
        ),
        num_scan_inputs=scanned,
        scan_input_directions=[backwards] * scanned,
        scan_output_directions=[backwards] * stacked,
    )
    return [Tensor(name, out.aval.shape) for name, out in zip(names, equation.outvars, strict=True)]


def _unrolled(graph: Graph, equation: Any, consts: list[Value], state: list[Value]) -> list[Value]:
    """A loop that scans nothing, step by step: the node Scan needs something to scan."""
    jaxpr, jaxpr_consts = opened(equation)
    if len(jaxpr.outvars) > len(state):
        raise Unsupported("a loop that scans nothing and stacks its results has no rule for ONNX")
    for _ in range(equation.params["length"]):
        state = run(graph, jaxpr, jaxpr_consts, [*consts, *state])
    return state
