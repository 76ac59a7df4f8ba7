"""Run an exported file: the same windows and votes as a workdir, without JAX for .onnx and .tflite."""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.export.description import KEY, OUTPUTS, Description, from_json

Call = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
BATCH = 4  # windows that onnxruntime gets at a time; more are not faster on a CPU, and a short file would be padded more


class Exported:
    """An exported file as a `tagger.Network`.

    Attributes:
      description: what the file says about itself.
      labels, task, sample_rate, samples, hop, conditioning, batch_size: as in `tagger.Network`.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises `UserError` if it is missing, damaged or not of `genre_jax.export`, or lacks its runtime."""
        if path.is_dir():
            raise UserError(f"{path} is a folder, and an exported file is needed")
        if not path.is_file():
            raise UserError(f"{path} does not exist: python -m genre_jax.export --output={path} writes it")
        opener, runtime = OPENERS[path.suffix]
        try:
            text, self._call = opener(path.read_bytes())
            self.description: Description = from_json(text)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except ImportError as error:
            raise UserError(f"{path} needs {runtime}: pip install {runtime} ({error})") from error
        except Exception as error:  # each runtime has its own exceptions for a damaged file
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path} is damaged, or was not written by genre_jax.export: {first:.120}") from error
        self.labels, self.task = self.description.labels, self.description.task
        self.sample_rate, self.samples, self.hop = (
            self.description.sample_rate,
            self.description.samples,
            self.description.hop,
        )
        self.conditioning = list(self.description.conditioning)
        self.batch_size = 1 if path.suffix == ".tflite" else BATCH

    def scores(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities and embeddings as `tagger.Network` does."""
        inputs = {name: batch[name] for name in self.description.inputs}
        if self.description.waveform == "float32":
            inputs["audio"] = inputs["audio"] / np.float32(32768)
        probabilities, embeddings = self._call(inputs)
        return probabilities, embeddings


def _onnx(content: bytes) -> tuple[str, Call]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave their core to others
    session = onnxruntime.InferenceSession(content, options, providers=onnxruntime.get_available_providers())
    return session.get_modelmeta().custom_metadata_map.get(KEY, ""), lambda inputs: session.run(None, inputs)


def _litert(content: bytes) -> tuple[str, Call]:
    from ai_edge_litert.interpreter import Interpreter

    with console.silent_libraries():  # it reports that it uses the CPU
        run = Interpreter(model_content=content, num_threads=os.cpu_count()).get_signature_runner()

    def call(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = run(**inputs)
        return [outputs[name] for name in OUTPUTS]

    return _attached(content), call


def _stablehlo(content: bytes) -> tuple[str, Call]:
    from genre_jax.export import stablehlo

    return _attached(content), stablehlo.opened(content)


def _attached(content: bytes) -> str:
    """The description in the zip file that the file is, or that stands at its end."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(f"{KEY}.json").decode()


# Suffix → how the file is opened, and the package that runs it.
OPENERS: dict[str, tuple[Callable[[bytes], tuple[str, Any]], str]] = {
    ".onnx": (_onnx, "onnxruntime"),
    ".stablehlo": (_stablehlo, "jax"),
    ".tflite": (_litert, "ai-edge-litert"),
}


def on_disk(source: str | Path) -> Path:
    """The path of an exported file. A file on the Hugging Face Hub, hf://owner/name/FILE, is downloaded."""
    if not str(source).startswith("hf://"):
        return Path(source)
    from genre_jax.weights import files

    return files.fetch(str(source), tuple(OPENERS))[0]


def is_exported(source: str | Path) -> bool:
    """Whether a source has the name of an exported file."""
    return Path(source).suffix in OPENERS
