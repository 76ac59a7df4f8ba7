"""How fast `prepare` makes shards of stereo mp3 files: `python -m genre_jax.bench prepare`.

It encodes a few stereo files at 44.1 kHz (noise with the spectrum of music, LAME's default rate), copies them to as many as
asked for, and times the whole build at 16 kHz: workers' start, decoding, down-mixing, resampling, checksums, shards,
passport. The factor is seconds of audio a second of clock; processor seconds tell it apart from a machine that was busy.
"""

import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from genre_jax.atomic import write_json
from genre_jax.console import say
from genre_jax.data import locate

FILES = flags.DEFINE_integer("files", 600, "Files of the temporary folder.")
SECONDS = flags.DEFINE_list(
    "seconds", ["10", "240"], "Lengths of a file in seconds, a row each; their total length is the same."
)
WORKERS = flags.DEFINE_integer("workers", None, "Processes that decode; by default one per core.")
JSON = flags.DEFINE_string("json", None, "Write the rows to this file too.")

RATE, FILE_RATE = 16_000, 44_100
_DISTINCT = 4  # files that are encoded; the others are copies


def main(argv: list[str]) -> None:
    """Measure and print every row."""
    del argv
    shortest = min(map(float, SECONDS.value))
    rows = []
    say("".join(f"{title:>10}" for title in ("a file, s", "files", "audio, s", "clock, s", "cpu, s", "clips/s", "factor")))
    for seconds in map(float, SECONDS.value):
        rows.append(_measure(seconds, max(_DISTINCT, round(FILES.value * shortest / seconds))))
        row = rows[-1]
        cells = (row[key] for key in ("seconds", "files", "audio_seconds", "clock_seconds", "processor_seconds"))
        say("".join(f"{cell:>10,.1f}" for cell in (*cells, row["clips_per_second"], row["real_time_factor"])))
    if JSON.value:
        environment = {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
        Path(JSON.value).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(JSON.value), {"benchmark": "prepare", "environment": environment, "rows": rows})


def _measure(seconds: float, files: int) -> dict:
    from genre_jax.prepare import build  # decoding libraries are not needed by the other benchmarks

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
