"""A program of StableHLO, written and run by `jax.export`, in a zip file with its description."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from genre_jax.export import description
from genre_jax.export.description import KEY
from genre_jax.export.program import Program

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
PROGRAM = "program.bin"


def convert(program: Program, halved: bool) -> bytes:
    """Return the content of the file. The batch size is open."""
    (batch,) = jax_export.symbolic_shape("batch")
    specs = [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in program.specs().values()]
    variables = jax.tree.map(
        lambda leaf: leaf.astype(np.float16) if halved and leaf.size >= description.HALVED else leaf, program.variables
    )

    def function(*inputs: jax.Array) -> Any:
        wide = jax.tree.map(lambda leaf: jax.lax.optimization_barrier(leaf).astype(np.float32), variables)
        return program(wide, *inputs)

    exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(*specs)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{KEY}.json", program.description.as_json())
        archive.writestr(PROGRAM, exported.serialize())
    return content.getvalue()


def opened(content: bytes) -> Callable[..., Any]:
    """Return the function (inputs by name) → (probabilities, embedding) of a file's content."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        exported = jax_export.deserialize(bytearray(archive.read(PROGRAM)))
    call = jax.jit(exported.call)
    return lambda inputs: [np.asarray(each) for each in call(*inputs.values())]
