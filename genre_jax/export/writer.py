"""Write an exported file, and compare it with the networks that it was made from."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genre_jax import console
from genre_jax.atomic import write_whole
from genre_jax.console import UserError
from genre_jax.export import FORMATS, convert, litert, stablehlo
from genre_jax.export.description import KEY, OUTPUTS, WAVEFORMS, WEIGHTS, Description
from genre_jax.export.graph import Unsupported
from genre_jax.export.program import Program, program
from genre_jax.export.runtime import Exported, is_exported
from genre_jax.tagger import Tagger
from genre_jax.trained import Networks

ALLOWED = 0.02  # difference of a probability from which the file does not compute what the network computes


class Written(NamedTuple):
    """An exported file.

    Attributes:
      path: of the file.
      description: what the file says about itself.
      difference: largest difference of a probability between the file and JAX, on test signals; None if its runtime is missing.
    """

    path: Path
    description: Description
    difference: float | None


def write(source: Any, target: str | Path, format: str, *, waveform: str, weights: str, licence: str) -> Written:
    """Write the file as `genre_jax.export.write` says."""
    target = Path(target)
    suffix = console.pick("format", format, FORMATS)
    if target.suffix != suffix:
        raise UserError(f"a file of the format {format} must end in {suffix}, and {str(target)!r} does not")
    for name, value, legal in (("waveform", waveform, WAVEFORMS), ("weights", weights, WEIGHTS)):
        if value not in legal:
            raise console.unknown(name, value, legal)
    if not target.parent.is_dir() or target.is_dir():
        raise UserError(f"{target} cannot be written: {'it is a folder' if target.is_dir() else 'its folder does not exist'}")
    networks = _networks(source)
    with program(networks, waveform, licence) as built:
        try:
            content = _content(built, format, weights == "float16")
        except Unsupported as error:
            parts = " and ".join(f"{run.config.frontend.name} + {run.config.model.name}" for run in networks.runs)
            raise UserError(f"{parts} cannot be exported as {format}: {error}; --format=stablehlo has no such limit") from error
    difference = _compared(networks, content, suffix)
    with write_whole(target) as file:
        file.write(content)
    return Written(target, built.description, difference)


def _networks(source: Any) -> Networks:
    """The networks of a `Tagger` or of its source."""
    if isinstance(source, Tagger):
        if not isinstance(source.network, Networks):
            raise UserError("an exported file cannot be exported again: give the workdir that it was made from")
        return source.network
    if source is not None and is_exported(source):
        raise UserError(f"{source} is an exported file already: give the workdir that it was made from")
    if source is not None and Path(source, "config.json").exists() and not Path(source, "results.json").exists():
        raise UserError(f"{source} holds no results.json, because its run is not finished: resume it with the same command")
    return Networks(*([] if source is None else [source]))


def _content(built: Program, format: str, halved: bool) -> bytes:
    if format == "litert":
        return litert.convert(built, halved)
    if format == "stablehlo":
        return stablehlo.convert(built, halved)
    model = convert.convert(built, built.variables, built.specs(), OUTPUTS, halved=halved)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, built.description.as_json()
    content: bytes = model.SerializeToString()
    return content


def _compared(networks: Networks, content: bytes, suffix: str) -> float | None:
    """The largest difference of a probability. Raises `UserError` if it is larger than `ALLOWED`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"exported{suffix}")
        path.write_bytes(content)
        try:
            exported = Exported(path)
        except UserError as error:
            if isinstance(error.__cause__, ImportError):
                return None
            raise
    audio = test_signals(networks.samples, networks.sample_rate)
    difference = 0.0
    for row in audio:
        batch = {"audio": np.repeat(row[None], exported.batch_size, 0)}
        batch["maximum"] = batch["audio"].max(1).astype(np.float32) / 32768
        (probabilities, _), (expected, _) = exported.scores(batch), networks.scores(batch)
        difference = max(difference, float(np.abs(probabilities - expected).max()))
    if not difference <= ALLOWED:
        raise UserError(
            f"the file would compute probabilities that differ by {difference:g} from those of JAX: nothing is written"
        )
    return difference


def test_signals(samples: int, sample_rate: int) -> np.ndarray:
    """Three windows int16 (3, samples): a chord that decays, noise with a beat, and both."""
    time = np.arange(samples) / sample_rate
    chord = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220.0, 277.2, 329.6)) * np.exp(-time) / 4
    beat = np.random.default_rng(0).normal(size=samples) * 0.2 * (time % 0.5 < 0.1)
    return (np.stack([chord, beat, chord / 2 + beat / 2]).clip(-1, 1) * 32767).astype(np.int16)
