"""What JAX traces of a function: calls that can be inlined, and operations that other runtimes need in another form."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError

LONG = 128  # numbers of a sum from which it is split
LONGEST = 4096  # samples up to which a Fourier transform is a matrix product; its matrices then hold 67 MB
INLINED = {  # primitive that calls a function → the parameter with the trace of this function
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "remat2": "jaxpr",
}


def opened(equation: Any) -> tuple[Any, Sequence[Any]]:
    """The trace in a call or a loop, and its constants. JAX has traces with and without constants."""
    trace = equation.params[INLINED.get(equation.primitive.name, "jaxpr")]
    return (trace.jaxpr, trace.consts) if hasattr(trace, "consts") else (trace, ())


def portable(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the same result, in another form of two operations.

    A sum along a long dimension becomes a sum of sums: onnxruntime and LiteRT add float32 numbers one after the other. The mean
    of 50,000 pixels then loses digits, and a network with instance norms, such as ByteNet or ResNet34, would differ from JAX by
    10 to 25 times as much. The Fourier transform of real numbers whose length is not a power of two becomes a matrix product:
    LiteRT has no other, and that of onnxruntime has an error of 1e-3.
    """

    def changed(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return changed


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if equation.primitive.name in INLINED:
            results = _run(*opened(equation), operands)
        elif equation.primitive.name == "reduce_sum":
            results = [_sum(operands[0], equation.params["axes"])]
        elif equation.primitive.name == "fft" and (matrices := _fourier_matrices(equation.params)):
            results = [jax.lax.complex(*(jnp.matmul(operands[0], each, precision="highest") for each in matrices))]
        else:
            results = equation.primitive.bind(*operands, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _fourier_matrices(params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """The matrices of the real and of the imaginary part, for a length that is no power of two."""
    length = params["fft_lengths"][-1]
    if params["fft_type"] != jax.lax.FftType.RFFT or len(params["fft_lengths"]) > 1 or not length & (length - 1):
        return None
    if length > LONGEST:
        raise UserError(f"the Fourier transform of {length} samples cannot be exported: at most {LONGEST}, or a power of two")
    return fourier_matrices(length)


@functools.cache
def fourier_matrices(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (length, 1 + length // 2) with which a product of real numbers is their Fourier transform."""
    turns = np.outer(np.arange(length), np.arange(1 + length // 2)) % length * (2 * np.pi / length)
    return np.cos(turns).astype(np.float32), -np.sin(turns).astype(np.float32)


def _sum(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    for axis in sorted(axes, reverse=True):
        size = x.shape[axis]
        if isinstance(size, int | np.integer) and size > LONG:
            part = next((n for n in range(math.isqrt(size), 1, -1) if size % n == 0), 1)
            x = x.reshape(*x.shape[:axis], size // part, part, *x.shape[axis + 1 :]).sum(axis)
        x = x.sum(axis)
    return x
