"""Trained networks in a single file that runs without this package: ONNX, LiteRT (TensorFlow Lite) or StableHLO.

The front end is part of the file: waveforms in, probabilities and embeddings out. `write` writes such a file,
`genre_jax.load(FILE)` runs it, and docs/export.md describes it. `program` holds the function that is exported. `convert` turns
it into ONNX with the rules in `rules`, `products` and `complex_rules`; `litert` and `stablehlo` are the other formats.
`runtime` runs a file, and imports JAX for StableHLO alone.
"""

FORMATS = {"onnx": ".onnx", "litert": ".tflite", "stablehlo": ".stablehlo"}


def write(source, target, format="onnx", *, waveform="int16", weights="float32", licence=""):
    """Write trained networks into a single file.

    Args:
      source: a `Tagger`, or what `genre_jax.load` takes; None: the published taggers together.
      target: path of the file; its ending is that of the format (`FORMATS`).
      format: a key of `FORMATS`.
      waveform: "int16", or "float32" in [-1, 1): what the input "audio" (batch, samples) holds.
      weights: "float32", or "float16", which halves the file and changes the probabilities a little.
      licence: of the weights, as text, such as an SPDX identifier.

    Returns an `export.writer.Written`. Raises `UserError` if a source or an argument is illegal, or if an operation of the
    network or of its front end has no counterpart in the format.
    """
    from genre_jax.export import writer

    return writer.write(source, target, format, waveform=waveform, weights=weights, licence=licence)
