"""A small network as an ONNX file of `genre_jax.export`, for tests of what reads such files: it is not trained."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from genre_jax import checksum

LABELS = (
    "rock",
    "piano",
    "female vocals",
    "1980",
    "sad",
    "ambient",
    "jazz",
    "techno",
    "<b>loud</b>",
    "choir",
    "flute",
    "drums",
)
DIMENSIONS = 16


def write(
    path: Path, sample_rate: int = 16_000, samples: int = 16_000, hop: int = 12_000, task: str = "multi", **changes
) -> Path:
    """Write the network: filters of 400 samples, their mean magnitude (the embedding), and a dense layer. Returns `path`.

    `changes` are keys of the metadata.
    """
    rng = np.random.default_rng(0)
    weights = {
        "scale": np.float32(1 / 32768),
        "axis": np.array([1]),
        "filters": rng.standard_normal((DIMENSIONS, 1, 400)).astype(np.float32),
        "dense": rng.standard_normal((DIMENSIONS, len(LABELS))).astype(np.float32),
        "bias": rng.standard_normal(len(LABELS)).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["audio"], ["wide"], to=TensorProto.FLOAT),
        node("Mul", ["wide", "scale"], ["wave"]),
        node("Unsqueeze", ["wave", "axis"], ["signal"]),
        node("Conv", ["signal", "filters"], ["filtered"], strides=[160]),
        node("Abs", ["filtered"], ["magnitude"]),
        node("ReduceMean", ["magnitude"], ["embedding"], axes=[2], keepdims=0),
        node("Gemm", ["embedding", "dense", "bias"], ["logits"]),
        node("Softmax" if task == "single" else "Sigmoid", ["logits"], ["probabilities"]),
    ]
    described = {
        "format_version": 1, "name": "small", "labels": LABELS, "task": task, "sample_rate": sample_rate, "samples": samples,
        "hop": hop, "waveform": "int16", "inputs": ["audio"], "conditioning": [], "licence": "Apache-2.0", "source": "a test",
        "weights_sha256": checksum.of_arrays({name: np.asarray(value) for name, value in weights.items()}), "genre_jax": "0.1.0",
    }  # fmt: skip
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [info("audio", TensorProto.INT16, ["batch", samples])],
        [
            info("probabilities", TensorProto.FLOAT, ["batch", len(LABELS)]),
            info("embedding", TensorProto.FLOAT, ["batch", DIMENSIONS]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, {"genre_jax": json.dumps(described | changes)})
    onnx.save(model, path)
    return path
