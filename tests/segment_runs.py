"""Networks with random weights in files of `save_pretrained`, and signals, for the tests of segmentation."""

import functools
from pathlib import Path

import jax
import numpy as np
from conftest import ROOT

from genre_jax import config as configs
from genre_jax import forward
from genre_jax.weights import pretrained

RATE = 16_000
LABELS = ("music", "noise", "speech")


def write(path: Path, config: str = "swishnet.py", labels=LABELS, gain: float = 2.0, **changes) -> Path:
    """Write a network of configs/`config` with random weights, `gain` times the initial ones, so that its outputs differ.

    `changes` are config keys with `__` for each dot.
    """
    keys = {"data__conditioning": []} | changes
    loaded = configs.load(str(ROOT / "configs" / config), {key.replace("__", "."): value for key, value in keys.items()})
    network = forward.build(loaded, len(labels))
    variables = {"batch_stats": {}} | jax.device_get(network.init(jax.random.key(0), loaded.data.samples))
    variables["params"] = jax.tree.map(lambda leaf: gain * leaf, variables["params"])
    if loaded.frontend.scale == "standardise":
        waves = np.stack([signal(2.0, seed)[: loaded.data.samples] for seed in range(4)])
        x = np.asarray(network.frontend.clone(scale="none").apply({}, waves))
        variables["frontend"] = {"mean": x.mean((0, 1)), "std": x.std((0, 1))}
    return pretrained.write(pretrained.Trained(loaded, labels, variables), path)


@functools.cache
def signal(seconds: float, seed: int = 0) -> np.ndarray:
    """Return noise and tones whose loudness and pitch change several times a second, float32 (samples,), with silence after 1 s."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE) + 240
    parts = []
    while sum(map(len, parts)) < count:
        length = int(rng.integers(800, 6_000))
        tone = np.sin(2 * np.pi * rng.uniform(100, 3_000) * np.arange(length) / RATE)
        parts.append(rng.uniform(0.01, 0.4) * (rng.choice([0.1, 1]) * tone + rng.choice([0, 1]) * rng.normal(0, 0.5, length)))
    wave = np.concatenate(parts)[:count].astype(np.float32)
    wave[RATE : RATE + 3_200] = 0
    return wave


def split(wave: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Return the signal in blocks of these sizes, again and again."""
    blocks, at = [], 0
    while at < len(wave):
        blocks.append(wave[at : at + sizes[len(blocks) % len(sizes)]])
        at += sizes[(len(blocks) - 1) % len(sizes)]
    return blocks
