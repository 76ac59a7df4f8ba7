"""A model of LiteRT (TensorFlow Lite) for phones and small machines: a flatbuffer with a zip file at its end.

`jax2tf` hands the program to TensorFlow as StableHLO, and TensorFlow's converter turns it into LiteRT's built-in operations.
LiteRT's convention for files that belong to a model is a zip file after the flatbuffer, which `unzip` lists: here the
description, and the labels with a line each. The batch size is 1.
"""

import io
import tempfile
import zipfile
from typing import Any

import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.export.description import KEY, OUTPUTS
from genre_jax.export.program import Program


def convert(program: Program, halved: bool) -> bytes:
    """Return the content of the file. Raises `UserError` if TensorFlow is missing or cannot convert the program."""
    try:
        with console.silent_libraries():
            import tensorflow as tf
            from jax.experimental import jax2tf
    except ImportError as error:
        raise UserError(f"--format=litert needs TensorFlow: pip install tensorflow-cpu ({error})") from error

    def function(*inputs: Any) -> dict[str, Any]:
        return dict(zip(OUTPUTS, program(program.variables, *inputs), strict=True))

    signature = [tf.TensorSpec((1, *shape), np.dtype(dtype).name, name) for name, (shape, dtype) in program.specs().items()]
    module = tf.Module()
    module.run = tf.function(jax2tf.convert(function, with_gradient=False), input_signature=signature, autograph=False)
    with console.silent_libraries(), tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=module.run.get_concrete_function())
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if halved:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        try:
            model = converter.convert()
        except Exception as error:  # the converter has kinds of its own, and TensorFlow's
            lines = [line for line in str(error).splitlines() if "error" in line.lower()] or [str(error)]
            raise UserError(f"TensorFlow's converter cannot write it for LiteRT: {lines[0]:.200}") from error
    attached = io.BytesIO()
    with zipfile.ZipFile(attached, "w") as archive:
        archive.writestr(f"{KEY}.json", program.description.as_json())
        archive.writestr("labels.txt", "".join(f"{label}\n" for label in program.description.labels))
    content: bytes = model + attached.getvalue()
    return content
