"""Latency and file size of the networks in SwishNet's paper: `python -m genre_jax.bench latency [--json=FILE]`.

The latency is the shortest time of one clip at batch size 1. The networks have random weights and read features of 0.5, 1 and
2 s; the front end is not timed, as in the paper. The file is that of `genre_jax.save_pretrained`. The columns "printed" are
the paper's values, measured on another machine (i7-8700K). They are shown for comparison and are not a target.
"""

import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from genre_jax import config as configs
from genre_jax import logbook, models
from genre_jax.bench.network_cases import random_variables
from genre_jax.bench.record import write_record
from genre_jax.config_section import component_options
from genre_jax.console import UserError, say, unknown
from genre_jax.weights import pretrained

# Network → features per frame; from arXiv 1812.00149: ms per clip of 0.5, 1 and 2 s on the CPU, and kB of the file.
PAPER: dict[str, tuple[int, tuple[float, float, float], int]] = {
    "gmm": (60, (1.8, 3.6, 7.2), 370),
    "snn": (60, (0.71, 0.92, 1.52), 717),
    "swishnet_slim": (20, (0.77, 0.88, 1.12), 22),
    "swishnet_wide": (20, (0.9, 1.1, 1.65), 66),
    "mobilenet_v1": (64, (4.1, 5.27, 8.57), 870),
}
PRINTED = (50, 100, 200)  # frames of the paper's clips
LABELS = ("music", "speech", "noise")
SECONDS = 1.0  # of calls per network and length

NETWORKS = flags.DEFINE_list("networks", list(PAPER), f"Networks, of {', '.join(PAPER)}.")
FRAMES = flags.DEFINE_list("frames", [str(n) for n in PRINTED], "Numbers of 10 ms frames per clip.")


def main(argv: list[str]) -> None:
    """Measure every network at every length."""
    del argv
    for name in NETWORKS.value:
        if name not in PAPER:
            raise unknown("network", name, PAPER)
    if not FRAMES.value or not all(text.isdigit() and int(text) for text in FRAMES.value):
        raise UserError(f"--frames must be positive whole numbers, separated by commas, not {','.join(FRAMES.value)!r}")
    environment = logbook.environment(processor=platform.processor() or platform.machine())
    record: dict[str, Any] = {"benchmark": "latency", "environment": environment, "rows": []}
    say(
        f"{'':<16}{'parameters':>11}{'file kB':>9}{'printed':>9}"
        + "".join(f"{n + ' frames':>14}{'printed':>9}" for n in FRAMES.value)
    )
    for name in NETWORKS.value:
        row = measure(name, [int(text) for text in FRAMES.value])
        record["rows"].append(row)
        times = "".join(
            f"{ms:>11.3f} ms{printed or '':>9}"
            for ms, printed in zip(row["milliseconds"], row["printed_milliseconds"], strict=True)
        )
        say(f"{name:<16}{row['parameters']:>11,}{row['file_bytes'] / 1e3:>9.1f}{row['printed_kb']:>9}{times}")
    write_record(record)


def measure(name: str, frames: list[int]) -> dict[str, Any]:
    """Return the row of a network: ms of one clip's forward pass at each length in `frames`, and the paper's values."""
    features, printed, printed_kb = PAPER[name]
    config = configs.base(name)
    configs.choose(config, "model", name)
    config.data.samples = 240 + 160 * 200
    model = models.build(name, num_classes=len(LABELS), **component_options(config.model))
    image = len(model.input_shape) == 3
    variables = random_variables(models.abstract_variables(model))
    with tempfile.TemporaryDirectory() as folder:
        saved = pretrained.Trained(config, LABELS, {"batch_stats": {}} | variables)
        size = pretrained.write(saved, Path(folder, "network.safetensors")).stat().st_size
    forward = jax.jit(lambda variables, x: model.apply(variables, x)[0])
    milliseconds = []
    for count in frames:
        shape = (1, count, features, 1) if image else (1, count, features)
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        milliseconds.append(_fastest(lambda x=x: forward(variables, x)) * 1e3)
    printed_at = dict(zip(PRINTED, printed, strict=True))
    return {
        "network": name, "parameters": models.count(variables["params"]), "frames": frames, "milliseconds": milliseconds,
        "printed_milliseconds": [printed_at.get(count) for count in frames], "file_bytes": size, "printed_kb": printed_kb,
    }  # fmt: skip


def _fastest(call: Any) -> float:
    """Return the seconds of the fastest call within `SECONDS`, after one warm-up. Other load can only make calls slower."""
    jax.block_until_ready(call())
    fastest, ends = float("inf"), time.perf_counter() + SECONDS
    while (started := time.perf_counter()) < ends:
        jax.block_until_ready(call())
        fastest = min(fastest, time.perf_counter() - started)
    return fastest
