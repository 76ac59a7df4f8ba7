"""A small ONNX file in the form of an exported network, and the windows of a song for it. The networks are tested elsewhere."""

import json
from pathlib import Path

import numpy as np

import genre_jax
from genre_jax import tagger
from genre_jax.prepare import audio

RATE, SAMPLES, HOP = 16_000, 48_128, 47_872  # as the published taggers
LABELS = ("rock", "jazz", "folk")


def write_model(path: Path, maximum: bool = False) -> Path:
    """Write a small network: the softmax of a product of the window and random weights; with `maximum` multiplied by it."""
    import onnx

    weights = np.random.default_rng(0).normal(size=(SAMPLES, len(LABELS))).astype(np.float32) / 50
    make = onnx.helper
    nodes = [
        make.make_node("Cast", ["audio"], ["float"], to=onnx.TensorProto.FLOAT),
        make.make_node("Div", ["float", "full_scale"], ["wave"]),
        make.make_node("MatMul", ["wave", "weights"], ["product"]),
        make.make_node("Unsqueeze", ["maximum", "one"], ["column"]),
        make.make_node("Mul", ["product", "column"], ["embedding"]),
        make.make_node("Softmax", ["embedding"], ["probabilities"], axis=1),
    ]
    if not maximum:
        nodes[2:5] = [make.make_node("MatMul", ["wave", "weights"], ["embedding"])]
    inputs = [("audio", onnx.TensorProto.INT16, ["batch", SAMPLES]), ("maximum", onnx.TensorProto.FLOAT, ["batch"])][
        : 1 + maximum
    ]
    shape = ["batch", len(LABELS)]
    constants = {"weights": weights, "full_scale": np.float32(32768)} | ({"one": np.array([1])} if maximum else {})
    graph = make.make_graph(
        nodes, "tags",
        [make.make_tensor_value_info(*value) for value in inputs],
        [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("probabilities", "embedding")],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    about = {"format_version": 1, "name": "small", "labels": LABELS, "task": "single", "sample_rate": RATE, "samples": SAMPLES}
    about |= {
        "hop": HOP,
        "waveform": "int16",
        "inputs": [name for name, *_ in inputs],
        "conditioning": [],
        "licence": "",
        "source": "",
    }
    about |= {"weights_sha256": "0" * 64, "genre_jax": genre_jax.__version__}
    make.set_model_props(model, {"genre_jax": json.dumps(about)})
    onnx.save(model, path)
    return path


def windows_of(path: Path) -> np.ndarray:
    """The windows of a song as genre_jax cuts them."""
    wave = audio.load(path, RATE).samples
    cuts = [cut for _, cut in tagger.windows([wave], SAMPLES, HOP)]
    cuts = [np.pad(cut, (0, SAMPLES - len(cut))) for cut in cuts]
    return np.stack([audio.to_pcm(cut, float(np.abs(wave).max())) for cut in cuts])
