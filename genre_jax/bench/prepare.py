"""Speed of `prepare` on stereo mp3 files: `python -m genre_jax.bench prepare [--json=FILE]`.

The benchmark encodes a few stereo files at 44.1 kHz (noise with the spectrum of music, LAME's default bit rate), copies them
until there are `--files`, and times the whole build at 16 kHz: start of the workers, decoding, down-mixing, resampling,
checksums, shards, passport. "factor" is seconds of audio per second of clock time. If the CPU time is much less than the clock
time times the cores, other load slowed the build.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from genre_jax.bench.record import machine, write_record
from genre_jax.console import say
from genre_jax.data import locate

FILES = flags.DEFINE_integer("files", 600, "Number of files of the shortest length.")
SECONDS = flags.DEFINE_list("seconds", ["10", "240"], "Lengths of a file in seconds; each is a row with the same total length.")
WORKERS = flags.DEFINE_integer("workers", None, "Processes that decode; default: one per core.")

RATE, FILE_RATE = 16_000, 44_100
_DISTINCT = 4  # number of encoded files; the other files are copies


def main(argv: list[str]) -> None:
    """Measure and print every row."""
    del argv
    shortest = min(map(float, SECONDS.value))
    rows = []
    say("".join(f"{title:>10}" for title in ("file, s", "files", "audio, s", "clock, s", "cpu, s", "clips/s", "factor")))
    for seconds in map(float, SECONDS.value):
        rows.append(_measure(seconds, max(_DISTINCT, round(FILES.value * shortest / seconds))))
        row = rows[-1]
        cells = (row[key] for key in ("seconds", "files", "audio_seconds", "clock_seconds", "processor_seconds"))
        say("".join(f"{cell:>10,.1f}" for cell in (*cells, row["clips_per_second"], row["real_time_factor"])))
    write_record({"benchmark": "prepare", "environment": machine(), "rows": rows})


def _measure(seconds: float, files: int) -> dict:
    """Return the row of a build from `files` files of `seconds`."""
    from genre_jax.prepare import build  # the other benchmarks need no decoding libraries

    with tempfile.TemporaryDirectory() as top:
        source = Path(top, "source", "music")
        _write(source, seconds, files)
        started, busy = time.perf_counter(), sum(os.times()[:4])
        folder = build.prepare("folder", Path(top, "data"), RATE, source.parent, "bench", workers=WORKERS.value)
        clock, busy = time.perf_counter() - started, sum(os.times()[:4]) - busy
        totals = locate.read_passport(folder)["totals"]
    assert totals["clips"] == files
    return {
        "seconds": seconds,
        "files": files,
        "audio_seconds": totals["seconds"],
        "clock_seconds": clock,
        "processor_seconds": busy,
        "clips_per_second": files / clock,
        "real_time_factor": totals["seconds"] / clock,
    }


def _write(folder: Path, seconds: float, files: int) -> None:
    """Write the mp3 files."""
    import soundfile

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    frequencies = np.fft.rfftfreq(round(seconds * FILE_RATE), 1 / FILE_RATE)
    for number in range(files):
        path = folder / f"{number:05d}.mp3"
        if number >= _DISTINCT:
            shutil.copyfile(folder / f"{number % _DISTINCT:05d}.mp3", path)
            continue
        spectrum = rng.normal(size=(2, len(frequencies), 2)).view(complex)[..., 0] / np.maximum(frequencies, 40)
        samples = np.fft.irfft(spectrum, n=round(seconds * FILE_RATE)).T
        soundfile.write(path, 0.5 * samples / np.abs(samples).max(), FILE_RATE, format="MP3", subtype="MPEG_LAYER_III")
