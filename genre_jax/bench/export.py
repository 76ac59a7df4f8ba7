"""Exported files: size, agreement with JAX, and time per window: `python -m genre_jax.bench export [--audio=FOLDER]`.

Each network that a config has, with its front end, is exported to every format, and the files are run beside JAX on windows of
the files in --audio (default: three test signals). "difference" is the largest difference of a probability; "votes" is the
share of the windows whose most probable label is the same. "rounding" is the difference of JAX itself between float32 and
float64, which no file can undercut. The times are medians of single windows, in turn: one call of each
contestant in every round. Networks have the weights of their initialisation, except the published taggers.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from genre_jax import config as configs
from genre_jax import export, forward, logbook, models
from genre_jax.bench.record import write_record
from genre_jax.console import UserError, pick, say
from genre_jax.export.runtime import Exported
from genre_jax.export.writer import test_signals
from genre_jax.prepare import audio
from genre_jax.tag_inputs import audio_files
from genre_jax.trained import Networks
from genre_jax.weights import pretrained

# Network → the config that trains it. The published taggers stand for themselves.
CASES = {
    "burrows_conv1d": "burrows:conv1d",
    "burrows_conv2d": "burrows:conv2d",
    "burrows_mlp": "burrows",
    "bytenet": "bytenet",
    "bytenet_demo": "bytenet:demo",
    "choi_cnn": "choi",
    "densenet121": "folmer:densenet121",
    "folmer_cnn": "folmer",
    "folmer_mlp": "folmer:mlp",
    "gmm": "gmm",
    "gru_attention": "gru_attention",
    "mobilenet_v1": "swishnet:teacher",
    "musicnn": "musicnn",
    "musicnn_pools": "own_music:demo",
    "musicnn_vgg": "musicnn-vgg",
    "resnet34": "resnet34_spectrogram",
    "resnet34_demo": "resnet34_spectrogram:demo",
    "resnet101": "pollack:resnet101",
    "schindler_deep": "schindler",
    "schindler_deep_cqt": "schindler:code,cqt,exp",
    "schindler_shallow": "schindler:shallow",
    "snn": "swishnet:snn",
    "swishnet_slim": "swishnet",
    "swishnet_wide": "swishnet:wide",
}
LABELS = 10
_ROUNDS = 11

NETWORKS = flags.DEFINE_list("networks", list(CASES), f"Networks, of {', '.join(CASES)}.")
FORMATS = flags.DEFINE_list("formats", list(export.FORMATS), f"Formats, of {', '.join(export.FORMATS)}.")
AUDIO = flags.DEFINE_string("audio", None, "Folder with audio files, of which each gives the window in its middle.")


def main(argv: list[str]) -> None:
    """Measure every network in every format."""
    del argv
    record: dict[str, Any] = {"benchmark": "export", "environment": logbook.environment(), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS.value:
            pick("network", name, CASES)
            record["rows"].append(measure(name, Path(folder), FORMATS.value))
            _print(record["rows"][-1])
            write_record(record)  # after each network, because all take many minutes


def measure(name: str, folder: Path, formats: list[str]) -> dict[str, Any]:
    """The row of a network: its parameters, and for each format size, differences and time, or the reason why it has none."""
    networks = Networks(source(CASES[name], folder))
    signals = _windows(networks)
    expected = [networks.scores(batch)[0][0] for batch in signals]
    contestants: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {"jax": networks.scores}
    config = networks.runs[0].config
    row: dict[str, Any] = {
        "network": name,
        "config": CASES[name],
        "frontend": config.frontend.name,
        "parameters": models.count(networks.runs[0].variables["params"]),
        "seconds": networks.samples / networks.sample_rate,
        "windows": len(signals),
        "rounding": float(np.abs(np.array([*map(_in_float64(networks), signals)]) - expected).max()),
        "formats": {},
    }
    for kind in formats:
        path = folder / f"network{export.FORMATS[kind]}"
        try:
            export.write(source(CASES[name], folder), path, kind)
        except UserError as error:
            row["formats"][kind] = {"refused": str(error)}
            continue
        exported = Exported(path)
        contestants[kind] = exported.scores
        scores = [exported.scores(batch)[0][0] for batch in signals]
        row["formats"][kind] = {
            "bytes": path.stat().st_size,
            "difference": float(np.abs(np.array(scores) - expected).max()),
            "votes": float(np.mean(np.argmax(scores, 1) == np.argmax(expected, 1))),
        }
    times = _in_turn(contestants, signals[0])
    row["jax_ms"] = times.pop("jax")
    for kind, milliseconds in times.items():
        row["formats"][kind]["ms"] = milliseconds
    return row


def source(config: str, folder: Path) -> str:
    """The name of published weights, or a file with a config's network as it is initialised."""
    if config.startswith("musicnn"):
        return config
    path = folder / "network.safetensors"
    loaded = configs.load(config)
    if loaded.loss.name == "auto":
        loaded.loss.name = "softmax"
    network = forward.build(loaded, LABELS)
    variables = jax.tree.map(np.asarray, network.init(jax.random.key(0), loaded.data.samples))
    labels = tuple(f"label {number}" for number in range(LABELS))
    return str(pretrained.write(pretrained.Trained(loaded, labels, dict(variables)), path))


def _windows(networks: Networks) -> list[dict[str, np.ndarray]]:
    """Batches of a window."""
    if AUDIO.value:
        rate, samples = networks.sample_rate, networks.samples
        waves = [audio.load(name, rate).samples for name in audio_files(AUDIO.value)]
        waves = [np.resize(wave[max(0, (len(wave) - samples) // 2) :], samples) for wave in waves]
        pcm = np.stack([audio.to_pcm(wave, float(np.abs(wave).max())) for wave in waves])
    else:
        pcm = test_signals(networks.samples, networks.sample_rate)
    return [{"audio": row[None], "maximum": np.array([row.max() / np.float32(32768)], np.float32)} for row in pcm]


def _in_float64(networks: Networks) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The probabilities of a window by the same weights in float64."""
    twin = copy.copy(networks)
    runs = [run._replace(config=run.config.copy_and_resolve_references()) for run in networks.runs]
    for run in runs:
        run.config.dtype = "float64"
    twin.compile([run._replace(variables=jax.tree.map(np.float64, run.variables)) for run in runs])
    return lambda batch: twin.scores(batch)[0][0]


def _in_turn(contestants: dict[str, Callable[..., Any]], batch: dict[str, np.ndarray]) -> dict[str, float]:
    """The median time of a call in ms. Each contestant is called once in every round."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call(batch)
    for _ in range(_ROUNDS):
        for name, call in contestants.items():
            started = time.perf_counter()
            call(batch)
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def _print(row: dict[str, Any]) -> None:
    about = f"{row['frontend']}, {row['parameters']:,} parameters, {row['seconds']:g} s"
    say(f"{row['network']} ({about}): JAX {row['jax_ms']:.1f} ms, rounding {row['rounding']:.1e}")
    for kind, values in row["formats"].items():
        if "refused" in values:
            say(f"  {kind}: {values['refused']}")
        else:
            say(
                f"  {kind}: {values['bytes'] / 1e6:.2f} MB, {values['ms']:.1f} ms, difference {values['difference']:.1e}, "
                f"votes {values['votes']:.0%}"
            )
