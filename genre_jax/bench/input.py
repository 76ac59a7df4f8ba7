"""Clips per second that the input pipeline reads, cuts and batches: `python -m genre_jax.bench input [--json=FILE]`.

The benchmark writes ten-second clips of noise at 16 kHz to a temporary data set with unbalanced classes, which is then read
from the page cache. It reads whole clips and cuts of 3 s, with `TrainBatches` alone ("direct", one thread) and through each
reader. Uniform and class-balanced order alternate, so that other load on the machine does not change their ratio. "peak" is
the resident memory of the whole process. The reader "sequential" has the order "by_shard", which is uniform, and reads whole
clips also for short cuts. A second table shows the readers in one process and in four processes at once, each with the share
of a host. A third table shows what `data.verify` costs in the first epoch, in which "first" compares the checksum of every
clip.
"""

import importlib.util
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from genre_jax import config as configs
from genre_jax.bench import input_hosts, resident
from genre_jax.bench.record import machine, write_record
from genre_jax.console import say
from genre_jax.data import locate, shards
from genre_jax.data.batches import TrainBatches, prefetch
from genre_jax.prepare import passport, tfrecord

CLIPS = flags.DEFINE_integer("clips", 2000, "Clips of the temporary data set (320 kB each).")
SHARDS = flags.DEFINE_integer("shards", 8, "Shard files of the data set.")
BATCH = flags.DEFINE_integer("batch", 64, "Clips per batch.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs per row; the table shows medians.")

SAMPLINGS = ("uniform", "balanced")
CLASSES = 10
RATE, SECONDS = 16_000, 10


def main(argv: list[str]) -> None:
    """Measure and print every row."""
    del argv
    rows = []
    readers = ["direct", "threads", *(["tfdata", "sequential"] if importlib.util.find_spec("tensorflow") else [])]
    with tempfile.TemporaryDirectory() as data_dir:
        folder = _write(Path(data_dir))
        started = time.perf_counter()
        index = shards.load_index(folder, "train")
        say(f"index of {len(index)} clips read from the shards in {time.perf_counter() - started:.2f} s")
        titles = f"{'clips/s (median)':>18}{'least':>10}{'most':>10}{'of uniform':>12}{'peak':>10}"
        say(f"{'reader':<10}{'cut':>8}  {'order':<10}{titles}")
        for samples in (3 * RATE, SECONDS * RATE):
            for reader in readers:
                measured = _measure(index, reader, samples)
                rows += measured
                for row in measured:
                    say(
                        f"{reader:<10}{row['seconds']:>6g} s  {row['sampling']:<10}{row['clips_per_second']:>18,.0f}"
                        f"{row['least']:>10,.0f}{row['most']:>10,.0f}{row['of_uniform']:>12.2f}{row['resident_mb']:>7,.0f} MB"
                    )
        hosts = [
            row for samples in (3 * RATE, SECONDS * RATE)
            for row in input_hosts.measure(folder, readers[1:], samples, BATCH.value, RATE)
        ]  # fmt: skip
        verification = [row for samples in (3 * RATE, SECONDS * RATE) for row in _verification(index, samples)]
    settings = {"benchmark": "input", "environment": machine(), "clips": CLIPS.value, "shards": SHARDS.value}
    write_record(settings | {"rows": rows, "hosts": hosts, "verification": verification})


def _measure(index: shards.Index, reader: str, samples: int) -> list[dict[str, Any]]:
    """Return a row for each order."""
    config = configs.base("bench")
    config.data.samples, config.train.batch_size = samples, BATCH.value
    batches: dict[str, TrainBatches] = {}
    speeds: dict[str, list[float]] = {}
    peaks: dict[str, list[int]] = {}
    if reader == "sequential":
        # The clips of the first blocks are read before the clock starts: few.
        config.data.update(order="by_shard", streams=math.gcd(config.data.streams, BATCH.value), shuffle_buffer=16)
    for sampling in SAMPLINGS[:1] if reader == "sequential" else SAMPLINGS:
        config.data.sampling = sampling
        batches[sampling], speeds[sampling], peaks[sampling] = TrainBatches(index, config), [], []
    count = 4 * len(index) // BATCH.value  # four epochs, so that batches read before the clock starts matter little
    for repeat in range(REPEATS.value + 1):
        for sampling, batch in batches.items():
            resident.reset_peak()
            start = repeat * count
            ahead = (
                prefetch(batch, start, start + count, reader) if reader != "direct" else map(batch, range(start, start + count))
            )
            next(ahead)  # excludes the set-up and the first batches
            started = time.perf_counter()
            read = sum(len(arrays["audio"]) for arrays in ahead)
            speeds[sampling].append(read / (time.perf_counter() - started))
            peaks[sampling].append(resident.peak())
    for values in speeds.values():
        del values[0]  # the first run filled the page cache
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


def _verification(index: shards.Index, samples: int) -> list[dict[str, Any]]:
    """Print and return, for each value of `data.verify`, how long one thread takes for the first epoch."""
    config = configs.base("bench")
    config.data.samples, config.train.batch_size = samples, BATCH.value
    seconds: dict[str, list[float]] = {mode: [] for mode in ("never", "first", "always")}
    for _ in range(REPEATS.value + 1):
        for mode, values in seconds.items():
            config.data.verify = mode
            index.state[:] = shards.UNREAD
            batches = TrainBatches(index, config)
            started = time.perf_counter()
            for number in range(len(index) // BATCH.value):
                batches(number)
            values.append(time.perf_counter() - started)
    rows = []
    for mode, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values[1:], seconds["never"][1:], strict=True))
        micros = 1e6 * statistics.median(values[1:]) / (len(index) // BATCH.value * BATCH.value)
        say(f"verify={mode:<8}{samples / RATE:>4g} s of {SECONDS} s clips  {micros:>8.1f} µs a clip  {ratio:>6.2f} times never")
        rows.append({"verify": mode, "seconds": samples / RATE, "us_per_clip": micros, "of_never": ratio})
    return rows


def _write(data_dir: Path) -> Path:
    """Write a data set of noise; half of the clips are of one class, and 1 in 30 is of the rarest class."""
    folder = locate.directory(data_dir, "noise", RATE)
    audio = np.random.default_rng(0).integers(-9000, 9000, SECONDS * RATE).astype(np.int16)
    label = [int(CLASSES * (i / CLIPS.value) ** 3) for i in range(CLIPS.value)]
    clips = (tfrecord.Clip(f"{i:06d}", f"{i:06d}", (label[i],), np.roll(audio, 17 * i), 0.3) for i in range(CLIPS.value))
    tfrecord.write_shards(folder, "noise", "train", clips, SHARDS.value)
    facts = {"name": "noise", "sample_rate": RATE, "labels": [str(i) for i in range(CLASSES)], "splits": {"train": {}}}
    passport.write(folder, facts)
    return folder
