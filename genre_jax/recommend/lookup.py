"""Which recording a clip is from, by its fingerprint: the look-up of Shazam (Wang 2003, in document 000).

The hashes, and the test against chance, are those of `prepare/fingerprint.py`. The clip is compared with every recording, and
the number of other recordings that are expected to agree as well by chance decides. A clip starts anywhere between two frames
of its recording. Therefore its hashes are taken at `PHASES` phases of a frame, which changes nothing in the index.
"""

import dataclasses
from pathlib import Path

import numpy as np

from genre_jax.console import UserError
from genre_jax.prepare import audio, fingerprint
from genre_jax.prepare.fingerprint import HOP, LONGEST, Print
from genre_jax.recommend.index import Index

RATE = 8000  # sample rate of the audio, in Hz, because the hashes end at 4 kHz
PHASES = 2  # with four, more clips of absent recordings agree by chance
MEETINGS = 1 << 20  # most meetings of equal hashes in a look-up (100 MB); above it, the most common hashes are left out


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording that holds the sound of the clip.

    Attributes:
      number: number of the song in the index.
      offset: where the clip begins in the recording, in seconds.
      agreement: share of the moments of the recording, in the time of the clip, that agree, in [0, 1].
      expected: number of other recordings in the index that are expected to agree as well by chance.
    """

    number: int
    offset: float
    agreement: float
    expected: float


def listen(source: str | Path | bytes) -> Print:
    """Returns the fingerprint of the first 17 minutes of a file, or of its content. Raises `UserError` if it cannot be read."""
    return fingerprint.take(_audio(source), RATE)


def listen_to_clip(source: str | Path | bytes) -> Print:
    """Returns the fingerprint at all phases of a file, or of its content. Raises `UserError` if it cannot be read."""
    return at_all_phases(_audio(source))


def _audio(source: str | Path | bytes) -> np.ndarray:
    try:
        with audio.explained():
            return audio.load(source, RATE, duration=LONGEST * HOP).samples
    except audio.AudioError as error:
        raise UserError(f"{'the audio' if isinstance(source, bytes) else source}: {error}") from error


def at_all_phases(clip: np.ndarray) -> Print:
    """Returns the hashes of a clip, (samples,) at `RATE`, with frames that begin at `PHASES` different times."""
    shifts = [round(phase / PHASES * HOP * RATE) for phase in range(PHASES)]
    prints = [fingerprint.take(clip[shift:], RATE) for shift in shifts]
    hashes, times = np.concatenate([p.hashes for p in prints]), np.concatenate([p.times for p in prints])
    return Print(hashes, times, prints[0].frames)


def search(index: Index, heard: Print) -> list[Recording]:
    """Returns the recordings of an index that hold the sound with this fingerprint, the most certain first.

    For a sound that the index does not hold, at most `fingerprint.EXPECTED` recordings are expected by chance.
    """
    songs = index.songs()
    if not songs or not len(heard.hashes):
        return []
    number, here, there = _meetings(index, heard)
    rows = fingerprint.align(number, there, here, fingerprint.fewest(len(songs)))
    number, offset, agreeing, following, rival = rows.T
    moments = [_inside(index.moments(n), -at, heard) for n, at in rows[:, :2].tolist()]
    shared = np.maximum(1, np.array(moments, np.int64))
    together, expected = fingerprint.by_chance(len(songs), agreeing + following, shared, rival)
    seconds = -(offset + following / np.maximum(agreeing + following, 1)) * HOP
    columns = [column.tolist() for column in (number, np.maximum(seconds, 0), together / shared, expected)]
    found = [Recording(*row) for row in zip(*columns, strict=True)]
    return sorted((r for r in found if r.expected <= fingerprint.EXPECTED), key=lambda r: (r.expected, -r.agreement))


def _inside(moments: np.ndarray, start: int, clip: Print) -> int:
    """Returns the number of moments of a recording in the time of a clip that begins at the frame `start`."""
    first, last = np.searchsorted(moments, [start + int(clip.times.min()), start + int(clip.times.max()) + 1])
    return int(last - first)


def _meetings(index: Index, heard: Print) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the meetings of equal hashes: number of the song, frame in the clip, frame in the song, each (meetings,)."""
    parts = index.parts()
    order = np.argsort(heard.hashes, kind="stable")  # in order, neighbouring hashes are read from the same pages of the disk
    hashes, times = heard.hashes[order], heard.times[order]
    first = [np.searchsorted(segment.hashes, hashes, "left") for segment, _ in parts]
    counts = [np.searchsorted(segment.hashes, hashes, "right") - left for (segment, _), left in zip(parts, first, strict=True)]
    total = np.sum(counts, axis=0)
    rare = np.zeros(len(total), bool)
    by_rarity = np.argsort(total, kind="stable")
    rare[by_rarity] = np.cumsum(total[by_rarity]) <= MEETINGS
    columns = []
    for (segment, numbers), left, every in zip(parts, first, counts, strict=True):
        count = every * rare
        at = np.repeat(left - np.cumsum(count) + count, count) + np.arange(count.sum())
        number = numbers[segment.owners[at]]
        stays = number >= 0
        columns.append((number[stays], np.repeat(times, count)[stays], segment.times[at][stays]))
    number, here, there = (np.concatenate(column) for column in zip(*columns, strict=True))
    return number, here, there
