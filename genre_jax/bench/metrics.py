"""Time and memory of the scores of a large table: `python -m genre_jax.bench metrics [--json=FILE]`.

The table is random: float32 logits, two labels a clip. Each row is `metrics.summarise` for one task: all metrics of windows,
clips and tracks. "memory" is the peak of the whole process so far, in GB (10^9 bytes), with the table itself and Python.
"""

import time

import numpy as np
from absl import flags

from genre_jax import logbook, metrics
from genre_jax.bench.record import machine, write_record
from genre_jax.console import say

CLIPS = flags.DEFINE_integer("clips", 1_000_000, "Number of clips.", lower_bound=1)
CLASSES = flags.DEFINE_integer("classes", 67, "Number of classes.", lower_bound=1)
WINDOWS = flags.DEFINE_integer("windows_per_clip", 1, "Windows of each clip.", lower_bound=1)
TRACK = flags.DEFINE_integer("clips_per_track", 1, "Clips of each track.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Measure and print a row for each task."""
    del argv
    table = make_table(CLIPS.value, CLASSES.value, WINDOWS.value, TRACK.value)
    size = {"clips": CLIPS.value, "classes": CLASSES.value, "windows": len(table["loss"])}
    say(", ".join(f"{count:,} {name}" for name, count in size.items()))
    say(f"{'task':<10}{'clock, s':>10}{'cpu, s':>10}{'memory, GB':>12}")
    rows = []
    for task in ("single", "multi"):
        started, busy = time.perf_counter(), time.process_time()
        metrics.summarise(table, task)
        clock, busy = time.perf_counter() - started, time.process_time() - busy
        rows.append({"task": task, "clock_seconds": clock, "processor_seconds": busy, "peak_bytes": logbook.peak_resident()})
        say(f"{task:<10}{clock:>10.2f}{busy:>10.2f}{logbook.peak_resident() / 1e9:>12.2f}")
    settings = {"clips_per_track": TRACK.value} | size
    write_record({"benchmark": "metrics", "environment": machine(), "settings": settings, "rows": rows})


def make_table(clips: int, classes: int, windows_per_clip: int, clips_per_track: int) -> dict[str, np.ndarray]:
    """Return the columns that `metrics.summarise` reads, with random logits and labels."""
    rng = np.random.default_rng(0)
    clip = np.repeat(np.arange(clips, dtype=np.int32), windows_per_clip)
    drawn = rng.integers(0, classes, (clips, 2), dtype=np.int32)
    labels = np.zeros((len(clip), classes), np.uint8)
    for column in drawn.T:
        labels[np.arange(len(clip)), column[clip]] = 1
    logits = rng.standard_normal((len(clip), classes), dtype=np.float32)
    loss, track = np.ones(len(clip), np.float32), clip // clips_per_track
    return {"logits": logits, "labels": labels, "target": drawn[clip, 0], "loss": loss, "clip": clip, "track": track}
