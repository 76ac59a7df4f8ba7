"""What an exported file says about itself, as JSON in its metadata."""

import dataclasses
import json
from typing import Any

from genre_jax.console import UserError

KEY = "genre_jax"  # name of the metadata entry
FORMAT_VERSION = 1
WAVEFORMS = ("int16", "float32")
WEIGHTS = ("float32", "float16")
HALVED = 1024  # numbers from which a weight is stored as float16 if weights are; smaller ones stay float32
OUTPUTS = ("probabilities", "embedding")


@dataclasses.dataclass(frozen=True)
class Description:
    """The metadata of an exported file.

    Attributes:
      name: of the run or of the published weights.
      labels: in the order of the columns of the output "probabilities".
      task: "single" if a window has one label, "multi" if it may have several.
      sample_rate: in Hz.
      samples: length of a window in samples.
      hop: samples from the start of a window to the start of the next.
      waveform: dtype of the input "audio": "int16", or "float32" in [-1, 1).
      inputs: "audio", and "maximum" (batch,) if the run caps the gain of loud signals: the largest sample of the whole signal.
      conditioning: steps of `prepare.condition` that the whole signal needs first.
      licence: of the weights; "" if it is not known.
      source: where published weights are from; "" for a run.
      weights_sha256: checksum of the weights.
      version: of genre_jax.
      format_version: of this description.
    """

    name: str
    labels: tuple[str, ...]
    task: str
    sample_rate: int
    samples: int
    hop: int
    waveform: str
    inputs: tuple[str, ...]
    conditioning: tuple[str, ...]
    licence: str
    source: str
    weights_sha256: str
    version: str
    format_version: int = FORMAT_VERSION

    def as_json(self) -> str:
        """The description as JSON, with the version of genre_jax under `KEY`."""
        values = dataclasses.asdict(self)
        values[KEY] = values.pop("version")
        return json.dumps(values, ensure_ascii=False)


def from_json(text: str) -> Description:
    """Return the description in a file's metadata. Raises `UserError` if it is not a description that this version reads."""
    try:
        values: dict[str, Any] = json.loads(text)
        if values["format_version"] != FORMAT_VERSION:
            raise UserError(f"its format is version {values['format_version']}, and this genre_jax reads {FORMAT_VERSION}")
        values["version"] = values.pop(KEY)
        lists = {name: tuple(values[name]) for name in ("labels", "inputs", "conditioning")}
        description = Description(**values | lists)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"it holds no description under the key {KEY!r}, and was therefore not written by export") from error
    return description
