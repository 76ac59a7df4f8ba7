"""One process, eight CPU devices, strict types; compilations cached for the session; small data sets made once."""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "allow")

import numpy as np
import pytest

from genre_jax import config as configs
from genre_jax import records

ROOT = Path(__file__).parent.parent
CLASSES = ("low", "mid", "high", "noise")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Child processes compile what this one has compiled already for nothing."""
    folder = tmp_path_factory.mktemp("compiled")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def tone_clip(split: str, genre: int, number: int, samples: int) -> records.Clip:
    """A tone of its class's pitch range under noise, or noise alone."""
    rng = np.random.default_rng([("train", "validation", "test").index(split), genre, number])
    time = np.arange(samples) / 8000
    pitch = (200, 500, 1200)[genre] * rng.uniform(0.9, 1.1) if genre < 3 else 0
    signal = 0.4 * np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6)) + rng.normal(0, 0.05 if pitch else 0.3, samples)
    audio = np.clip(np.round(signal * 32768), -32768, 32767).astype(np.int16)
    name = f"{split}/{CLASSES[genre]}/{number:02d}.wav"
    return records.Clip(name, f"{split}/{CLASSES[genre]}/{number // 2}", (genre,), audio, audio.max() / 32768)


def write_tones(data_dir: Path, name: str = "tones", counts=(("train", 6), ("validation", 3), ("test", 3))) -> Path:
    """A data set of four classes at 8 kHz with clips of differing, odd lengths; two clips a track."""
    folder = records.directory(data_dir, name, 8000)
    for split, count in counts:
        clips = [tone_clip(split, g, n, 2100 + 371 * n + g) for g in range(4) for n in range(count)]
        records.write_shards(folder, name, split, clips, num_shards=2)
    passport = {"name": name, "sample_rate": 8000, "labels": CLASSES, "splits": {split: {} for split, _ in counts}}
    (folder / "passport.json").write_text(json.dumps(passport))
    return folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> Path:
    """The data directory that holds the data set "tones"."""
    data_dir = tmp_path_factory.mktemp("data")
    write_tones(data_dir)
    return data_dir


def small_config(data_dir: Path, model: str = "bytenet", **changes):
    """A run of seconds on the tones; `changes` are dotted keys with `__` for the dot."""
    config = configs.base(f"small_{model}")
    config.data.update(name="tones", data_dir=str(data_dir), sample_rate=8000, samples=2000, reader="threads")
    config.train.update(batch_size=8, duration="6 steps", log_every="2 steps", evaluate_every="3 steps", checkpoint_every="2 steps")
    config.evaluate.batch_size = 8
    if model == "bytenet":
        configs.choose(config, "model", "bytenet", width=4, max_dilation=2, strides=[16], decoder_sets=1, head="pooled")
    else:
        configs.choose(config, "frontend", "log_mel_image", n_fft=256, hop_length=128, n_mels=16, height=16, width=16)
        configs.choose(config, "model", "resnet18", width=4, stages=[1, 1])
    for key, value in changes.items():
        configs.override(config, key.replace("__", "."), value)
    configs.validate(config)
    return config
