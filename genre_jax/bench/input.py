"""How many clips a second the input reads in random order, cuts and batches: `python -m genre_jax.bench input`.

It writes ten-second clips of noise at 16 kHz into a temporary data set (read from page cache then), and reads them with
`TrainBatches` alone ("direct", one thread) and through each reader, cut to 3 s and whole.
"""

import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from genre_jax import config as configs
from genre_jax import records
from genre_jax.console import say
from genre_jax.input_pipeline import TrainBatches, import_tensorflow, prefetch
from genre_jax.logbook import write_json

CLIPS = flags.DEFINE_integer("clips", 2000, "Clips of the temporary data set (320 kB each).")
BATCH = flags.DEFINE_integer("batch", 64, "Clips a batch.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each row; the median is shown.")
JSON = flags.DEFINE_string("json", None, "Write the rows to this file too.")

RATE, SECONDS = 16_000, 10


def main(argv: list[str]) -> None:
    """Measure and print every row."""
    del argv
    rows = []
    readers = ["direct", "threads", *(["tfdata"] if importlib.util.find_spec("tensorflow") else [])]
    with tempfile.TemporaryDirectory() as data_dir:
        folder = _write(Path(data_dir))
        started = time.perf_counter()
        index = records.load_index(folder, "train")
        say(f"index of {len(index)} clips read from the shards in {time.perf_counter() - started:.2f} s")
        say(f"{'reader':<10}{'cut':>8}{'clips/s (median)':>20}{'least':>10}{'most':>10}")
        for samples in (3 * RATE, SECONDS * RATE):
            for reader in readers:
                rows.append(_measure(index, reader, samples))
                row = rows[-1]
                say(
                    f"{reader:<10}{row['seconds']:>6g} s{row['clips_per_second']:>20,.0f}"
                    f"{row['least']:>10,.0f}{row['most']:>10,.0f}"
                )
    if JSON.value:
        environment = {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
        Path(JSON.value).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(JSON.value), {"benchmark": "input", "environment": environment, "rows": rows})


def _measure(index: records.Index, reader: str, samples: int) -> dict[str, Any]:
    config = configs.base("bench")
    config.data.samples, config.train.batch_size = samples, BATCH.value
    batches = TrainBatches(index, config)
    count = 4 * len(index) // BATCH.value  # four epochs, so that what was read ahead before the clock weighs little
    speeds = []
    for repeat in range(REPEATS.value + 1):
        start = repeat * count
        stream = (
            map(batches, range(start, start + count)) if reader == "direct" else prefetch(batches, start, start + count, reader)
        )
        next(stream)  # set-up, and the first batches read ahead
        started = time.perf_counter()
        read = sum(len(batch["audio"]) for batch in stream)
        speeds.append(read / (time.perf_counter() - started))
    speeds = speeds[1:]  # the first brought the clips into page cache
    return {
        "reader": reader,
        "seconds": samples / RATE,
        "batch": BATCH.value,
        "clips_per_second": statistics.median(speeds),
        "least": min(speeds),
        "most": max(speeds),
    }


def _write(data_dir: Path) -> Path:
    """A data set of noise; through TensorFlow's writer where there is one, which checks sums faster."""
    folder = records.directory(data_dir, "noise", RATE)
    audio = np.random.default_rng(0).integers(-9000, 9000, SECONDS * RATE).astype(np.int16)

    def clips() -> Iterator[records.Clip]:
        for i in range(CLIPS.value):
            yield records.Clip(f"{i:06d}", f"{i:06d}", (i % 10,), np.roll(audio, 17 * i), 0.3)

    if importlib.util.find_spec("tensorflow"):
        tf = import_tensorflow()
        folder.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / "noise-train.tfrecord-00000-of-00001")) as writer:
            for clip in clips():
                writer.write(records.encode_example(clip))
    else:
        records.write_shards(folder, "noise", "train", clips())
    passport = {"name": "noise", "sample_rate": RATE, "labels": [str(i) for i in range(10)], "splits": {"train": {}}}
    (folder / "passport.json").write_text(json.dumps(passport))
    return folder
