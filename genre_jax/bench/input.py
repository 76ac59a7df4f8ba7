"""How many clips a second the input reads in random order, cuts and batches: `python -m genre_jax.bench input`.

It writes ten-second clips of noise at 16 kHz, most of them of a few classes, into a temporary data set (read from page cache
then), and reads them with `TrainBatches` alone ("direct", one thread) and through each reader, cut to 3 s and whole; in uniform
and in class-balanced order by turns, so that their ratio does not depend on what else the machine does. The peak of resident
memory is that of the whole process, libraries and all.
"""

import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from genre_jax import config as configs
from genre_jax.atomic import write_json
from genre_jax.bench import resident
from genre_jax.console import say
from genre_jax.data import locate, shards
from genre_jax.data.batches import TrainBatches, prefetch
from genre_jax.prepare import tfrecord

CLIPS = flags.DEFINE_integer("clips", 2000, "Clips of the temporary data set (320 kB each).")
SHARDS = flags.DEFINE_integer("shards", 8, "Files that hold them.")
BATCH = flags.DEFINE_integer("batch", 64, "Clips a batch.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each row; the median is shown.")
JSON = flags.DEFINE_string("json", None, "Write the rows to this file too.")

SAMPLINGS = ("uniform", "balanced")
CLASSES = 10
RATE, SECONDS = 16_000, 10


def main(argv: list[str]) -> None:
    """Measure and print every row."""
    del argv
    rows = []
    readers = ["direct", "threads", *(["tfdata"] if importlib.util.find_spec("tensorflow") else [])]
    with tempfile.TemporaryDirectory() as data_dir:
        folder = _write(Path(data_dir))
        started = time.perf_counter()
        index = shards.load_index(folder, "train")
        say(f"index of {len(index)} clips read from the shards in {time.perf_counter() - started:.2f} s")
        titles = f"{'clips/s (median)':>18}{'least':>10}{'most':>10}{'of uniform':>12}{'peak':>10}"
        say(f"{'reader':<10}{'cut':>8}  {'order':<10}{titles}")
        for samples in (3 * RATE, SECONDS * RATE):
            for reader in readers:
                rows += _measure(index, reader, samples)
                for row in rows[-len(SAMPLINGS) :]:
                    say(
                        f"{reader:<10}{row['seconds']:>6g} s  {row['sampling']:<10}{row['clips_per_second']:>18,.0f}"
                        f"{row['least']:>10,.0f}{row['most']:>10,.0f}{row['of_uniform']:>12.2f}{row['resident_mb']:>7,.0f} MB"
                    )
    if JSON.value:
        environment = {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
        Path(JSON.value).parent.mkdir(parents=True, exist_ok=True)
        write_json(
            Path(JSON.value),
            {"benchmark": "input", "environment": environment, "clips": CLIPS.value, "shards": SHARDS.value, "rows": rows},
        )


def _measure(index: shards.Index, reader: str, samples: int) -> list[dict[str, Any]]:
    """A row for each order."""
    config = configs.base("bench")
    config.data.samples, config.train.batch_size = samples, BATCH.value
    batches: dict[str, TrainBatches] = {}
    speeds: dict[str, list[float]] = {}
    peaks: dict[str, list[int]] = {}
    for sampling in SAMPLINGS:
        config.data.sampling = sampling
        batches[sampling], speeds[sampling], peaks[sampling] = TrainBatches(index, config), [], []
    count = 4 * len(index) // BATCH.value  # four epochs, so that what was read ahead before the clock weighs little
    for repeat in range(REPEATS.value + 1):
        for sampling, batch in batches.items():
            resident.reset_peak()
            start = repeat * count
            ahead = (
                prefetch(batch, start, start + count, reader) if reader != "direct" else map(batch, range(start, start + count))
            )
            next(ahead)  # set-up, and the first batches read ahead
            started = time.perf_counter()
            read = sum(len(found["audio"]) for found in ahead)
            speeds[sampling].append(read / (time.perf_counter() - started))
            peaks[sampling].append(resident.peak())
    for values in speeds.values():
        del values[0]  # it brought the clips into page cache
    return [
        {
            "reader": reader,
            "sampling": sampling,
            "seconds": samples / RATE,
            "batch": BATCH.value,
            "clips_per_second": statistics.median(values),
            "least": min(values),
            "most": max(values),
            "of_uniform": statistics.median(a / b for a, b in zip(values, speeds["uniform"], strict=True)),
            "resident_mb": max(peaks[sampling]) / 1e6,
        }
        for sampling, values in speeds.items()
    ]


def _write(data_dir: Path) -> Path:
    """A data set of noise, half of it of one class, a thirtieth of the rarest."""
    folder = locate.directory(data_dir, "noise", RATE)
    audio = np.random.default_rng(0).integers(-9000, 9000, SECONDS * RATE).astype(np.int16)
    label = [int(CLASSES * (i / CLIPS.value) ** 3) for i in range(CLIPS.value)]
    clips = (tfrecord.Clip(f"{i:06d}", f"{i:06d}", (label[i],), np.roll(audio, 17 * i), 0.3) for i in range(CLIPS.value))
    tfrecord.write_shards(folder, "noise", "train", clips, SHARDS.value)
    passport = {"name": "noise", "sample_rate": RATE, "labels": [str(i) for i in range(CLASSES)], "splits": {"train": {}}}
    (folder / "passport.json").write_text(json.dumps(passport))
    return folder
