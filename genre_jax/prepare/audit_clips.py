"""What the audit measures in every clip of a prepared data set: levels, bandwidth, a hash of the samples, a fingerprint.

`read` measures all clips in worker processes. `prepare/audit.py` compares the clips with each other, and
`prepare/audit_report.py` writes the reports.
"""

import dataclasses
import functools
import hashlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from genre_jax.console import say
from genre_jax.data import shards
from genre_jax.logbook import clock
from genre_jax.prepare import fingerprint

STAYS = ("test", "eval", "validation", "balanced")  # of a pair across splits, the clip in the first of these splits stays
FULL_SCALE = 32735  # 99.9 % of the largest int16 magnitude
SILENT_RMS = 1e-3  # -60 dB of full scale
_CHUNK = 32  # clips per task of a worker process
_FEW = 200  # up to this number of clips, one process is faster than starting worker processes


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was measured in one clip.

    Attributes:
      digest: SHA-256 of the samples.
      rms: root mean square in [0, 1].
      clipped: share of the samples whose magnitude is `FULL_SCALE` or more.
      highest: highest frequency with power, in Hz.
      fingerprint: the acoustic fingerprint.
    """

    digest: bytes
    rms: float
    clipped: float
    highest: float
    fingerprint: fingerprint.Print


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip of the data set, with `labels` uint8 (classes,) and what was measured in it."""

    name: str
    split: str
    track: str
    seconds: float
    labels: np.ndarray
    heard: Heard


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two clips with the same sound.

    Attributes:
      stays: the clip that stays in its split.
      goes: the clip that is left out of its split, if the pair is across splits.
      kind: "identical" (the same samples) or "alike".
      offset: how much later the sound begins in `goes`, in seconds.
      agreement: share of the moments with peaks that agree, in [0, 1].
      expected: number of pairs in the whole audit that are expected to agree as well by chance.
    """

    stays: Clip
    goes: Clip
    kind: str
    offset: float
    agreement: float
    expected: float

    @property
    def across(self) -> bool:
        """Whether the clips are in different splits."""
        return self.stays.split != self.goes.split


def listen(audio: np.ndarray, sample_rate: int) -> Heard:
    """Measure one clip, int16 (samples,)."""
    wide = audio.astype(np.float32)
    return Heard(
        digest=hashlib.sha256(audio.tobytes()).digest(),
        rms=float(np.sqrt(np.mean(np.square(wide), dtype=np.float64))) / 32768 if len(audio) else 0.0,
        clipped=float(np.mean(np.abs(wide) >= FULL_SCALE)) if len(audio) else 0.0,
        highest=_highest(wide, sample_rate),
        fingerprint=fingerprint.take(audio, sample_rate),
    )


def _highest(audio: np.ndarray, sample_rate: int, window: int = 1024, frames: int = 64) -> float:
    """Returns the highest frequency in Hz whose mean power over the frames is ten times that of rounding to 16 bits."""
    starts = np.linspace(0, max(0, len(audio) - window), frames).astype(np.int64)
    cut = np.stack([np.pad(audio[at : at + window], (0, max(0, window - len(audio)))) for at in starts])
    taper = np.hanning(window + 1)[:-1].astype(np.float32)
    power = np.mean(np.abs(np.fft.rfft(cut * taper)) ** 2, axis=0)
    above = np.flatnonzero(power > 10 / 12 * np.sum(taper**2))
    return float(above[-1] * sample_rate / window) if len(above) else 0.0


@functools.lru_cache(maxsize=8)
def _index(folder: Path, split: str) -> shards.Index:
    return shards.load_index(folder, split, whole=True)


def _listen_to(task: tuple[Path, str, int, int]) -> list[Heard | None]:
    """Measure the clips of one task, (folder, split, first row, last row + 1); None stands for a damaged clip."""
    folder, split, start, stop = task
    index = _index(folder, split)
    results: list[Heard | None] = []
    for row in range(start, stop):
        try:
            audio = index.cut(row, 0, int(index.length[row]), verify="always")
        except shards.DamagedClip:
            results.append(None)
            continue
        results.append(listen(audio, index.sample_rate))
    return results


def read(folder: Path, splits: Sequence[str], workers: int = 1) -> tuple[list[Clip], list[str]]:
    """Read and measure every clip of these splits in `workers` processes. Clips in exclude.csv are included.

    Returns the clips that are whole, and the names of those whose bytes differ from their checksums.
    """
    _index.cache_clear()  # the folder may have been prepared again
    indices = [_index(folder, split) for split in splits]
    tasks = [
        (folder, index.split, start, min(start + _CHUNK, len(index)))
        for index in indices
        for start in range(0, len(index), _CHUNK)
    ]
    rows = [(index, row) for index in indices for row in range(len(index))]
    progress = Progress("listening", len(rows))
    clips: list[Clip] = []
    damaged: list[str] = []
    for part in _mapped(tasks, workers if len(rows) > _FEW else 1):
        for heard in part:
            index, row = rows[len(clips) + len(damaged)]
            if heard is None:
                damaged.append(index.names[row])
                continue
            seconds = float(index.length[row]) / index.sample_rate
            track = index.tracks[index.track[row]]
            clips.append(Clip(index.names[row], index.split, track, seconds, index.labels[row], heard))
        progress(len(clips) + len(damaged), len(rows))
    return clips, damaged


def _mapped(tasks: list, workers: int) -> Iterator[list[Heard | None]]:
    """Yield the results of the tasks in order."""
    if workers == 1:
        yield from map(_listen_to, tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_listen_to, tasks)


class Progress:
    """Print a line with clips done, rate and time left at most every `EVERY` seconds."""

    EVERY = 3.0

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.started = self.said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.said < self.EVERY:
            return
        self.said, rate = now, done / (now - self.started)
        left = clock((total - done) / rate) if rate else "?"
        say(f"{self.title}: {done:,}/{total:,} clips  {rate:,.0f} clips/s  ETA {left}")
