"""Time and memory of the leak audit of `prepare --check`: `python -m genre_jax.bench audit [--clips=N] [--json=FILE]`.

The clips are synthetic ten-second tracks at 16 kHz. Each track is rendered once and played at ten speeds 7 % apart, which
makes ten thousand different clips quickly. The test split gets copies of some clips. A copy starts up to 4 s later, has
another level, and has noise at an SNR of 10 dB. The benchmark prints how many copies the audit finds, and how many other pairs.
"""

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from genre_jax.bench import resident
from genre_jax.bench.record import write_record
from genre_jax.console import say
from genre_jax.data import locate
from genre_jax.datasets.synthetic import music
from genre_jax.logbook import environment
from genre_jax.prepare import audit, passport, tfrecord
from genre_jax.prepare.workers import cores

CLIPS = flags.DEFINE_integer("clips", 10_000, "Clips of the temporary data set (320 kB each), without the copies.")
COPIES = flags.DEFINE_integer("copies", 20, "Copies that are added to the test split.")

RATE, SECONDS, SPEEDS = 16_000, 10, 10
LATEST, SNR_DB = 4.0, 10.0


def main(argv: list[str]) -> None:
    """Make the data set, audit it, and print time and memory."""
    del argv
    with tempfile.TemporaryDirectory() as data_dir:
        folder = locate.directory(data_dir, "audit", RATE)
        originals = _write(folder)
        row = _measure(folder, originals)
    write_record({"benchmark": "audit", "environment": environment(), "row": row})


def _measure(folder: Path, originals: dict[str, str]) -> dict[str, Any]:
    """Audit the data set in `folder`, print the results and return them as a row."""
    resident.reset_peak()
    processes, splits = cores(), ["train", "test"]
    clock, busy = [time.perf_counter()], [_core_seconds()]
    clips, _ = audit.read(folder, splits, processes)
    clock, busy = [*clock, time.perf_counter()], [*busy, _core_seconds()]
    pairs, used = audit.pairs(clips, splits, processes)
    clock, busy = [*clock, time.perf_counter()], [*busy, _core_seconds()]
    (listening, comparing), (listening_cores, comparing_cores) = np.diff(clock).tolist(), np.diff(busy).tolist()
    right = {pair.stays.name for pair in pairs if originals.get(pair.stays.name) == pair.goes.name}
    row = {
        "clips": len(clips),
        "workers": processes,
        "listening_s": round(listening, 1),
        "comparing_s": round(comparing, 1),
        "listening_core_s": round(listening_cores, 1),
        "comparing_core_s": round(comparing_cores, 1),
        "hashes": sum(len(clip.heard.fingerprint.hashes) for clip in clips),
        "hashes_used": used,
        "planted": len(originals),
        "found": len(right),
        "other_pairs": [(p.stays.name, p.goes.name, p.agreement, p.expected) for p in pairs if p.stays.name not in right],
        "peak_mb": round(resident.peak() / 1e6),
        "peak_of_a_worker_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3),
        "load_average": os.getloadavg()[0],
    }
    say(f"{len(clips):,} clips, {row['hashes']:,} hashes: {listening:.0f} s to fingerprint, {comparing:.0f} s to compare")
    say(f"CPU time of all processes: {listening_cores:.0f} s to fingerprint, {comparing_cores:.0f} s to compare")
    say(
        f"{row['workers']} cores, load {row['load_average']:.1f}; {row['peak_mb']:,} MB, "
        f"{row['peak_of_a_worker_mb']:,} MB in a worker"
    )
    say(f"{len(right)} of {len(originals)} copies found, {len(pairs) - len(right)} other pairs")
    return row


def _core_seconds() -> float:
    """Return the CPU seconds of this process and its ended workers, which other load on the machine changes little."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _write(folder: Path) -> dict[str, str]:
    """Write the data set; return the name of each copy → the name of its original."""
    chosen = np.random.default_rng(0).choice(CLIPS.value, COPIES.value, replace=False)
    copies: dict[int, tfrecord.Clip] = {}

    def clips() -> Iterator[tfrecord.Clip]:
        progress = audit.Progress("rendering", CLIPS.value)
        with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
            for track, played in enumerate(pool.map(_play, range(-(-CLIPS.value // SPEEDS)))):
                for speed, pcm in enumerate(played):
                    number = SPEEDS * track + speed
                    if number < CLIPS.value:
                        if number in chosen:
                            copies[number] = _clip(f"copy of {number:06d}", _copy(pcm, number))
                        yield _clip(f"{number:06d}", pcm)
                progress(min(SPEEDS * (track + 1), CLIPS.value), CLIPS.value)

    tfrecord.write_shards(folder, "audit", "train", clips(), num_shards=16)
    tfrecord.write_shards(folder, "audit", "test", [copies[number] for number in sorted(copies)])
    facts = {"name": "audit", "sample_rate": RATE, "labels": ["music"], "splits": {"train": {}, "test": {}}}
    passport.write(folder, facts)
    return {f"copy of {number:06d}": f"{number:06d}" for number in copies}


def _play(track: int) -> list[np.ndarray]:
    """Return a track at every speed, each as int16 of shape (RATE * SECONDS,)."""
    genre = music.GENRES[track % len(music.GENRES)]
    whole = music.render(genre, track // len(music.GENRES), sample_rate=RATE, seconds=1.5 * SECONDS)
    speeds = 2 ** (np.arange(SPEEDS) / SPEEDS - 0.5)
    time = np.arange(RATE * SECONDS)
    return [np.round(np.interp(time * speed, np.arange(len(whole)), whole) * 32767).astype(np.int16) for speed in speeds]


def _copy(pcm: np.ndarray, number: int) -> np.ndarray:
    """Return a later, quieter and noisier copy of a clip; `number` is the random seed."""
    rng = np.random.default_rng(number)
    late = pcm[int(rng.uniform(0, LATEST) * RATE) :].astype(np.float64)
    noise = rng.standard_normal(len(late)) * np.std(late) * 10 ** (-SNR_DB / 20)
    return np.clip(np.round((late + noise) * rng.uniform(0.5, 1.0)), -32768, 32767).astype(np.int16)


def _clip(name: str, pcm: np.ndarray) -> tfrecord.Clip:
    return tfrecord.Clip(name, name, (0,), pcm, float(pcm.max()) / 32768)
