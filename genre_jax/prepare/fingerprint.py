"""Find clips that hold the same sound by their acoustic fingerprints.

The method is that of Wang, "An Industrial-Strength Audio Search Algorithm", ISMIR 2003 (Shazam, in document 000):

1. A peak is a bin of the spectrogram that is louder than all its neighbours in time and frequency.
2. A peak and a later peak make a hash of (frequency, interval, delay). Gain, lossy coding and noise change few hashes.
3. Two clips with the same sound share many hashes at the same offset in time. An inverted index of all hashes finds them.

A match is decided by a test against chance. A moment is a frame with peaks, and two clips agree in a moment if they share a
hash that starts there. The probability that two different recordings agree in a moment is estimated from the same two
clips, at the best of all other offsets, and is limited to the range `CHANCE`. (Loops, and music of one key and tempo, agree
at many offsets.) From it follows the number of pairs in the whole audit that are expected to agree as well by chance. A pair
is a match if this number is at most `EXPECTED`, as with the E-value of BLAST. Hashes that many clips share, such as those
of hum, raise the estimated chance as much as the agreement.

Windows and hops are defined in seconds. Therefore clips of different sample rates can be compared.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

WINDOW, HOP = 0.128, 0.016  # window length and hop length of the spectrogram in seconds
LOWEST, HIGHEST = 24, 512  # range of bins, each 1 / WINDOW = 7.8 Hz wide: 190 Hz to 4 kHz
AROUND_TIME, AROUND_FREQUENCY = 8, 8  # frames and bins on each side that a peak must exceed
LEVEL, SPAN = 24.0, 31  # a peak is at most this many dB below the loudest bin within this many frames on each side
FLOOR = 1e-3  # a peak is at least this share of the loudest bin of the clip
AFTER, FAN = 15, 3  # a peak is paired with the first `FAN` of the next `AFTER` peaks that are near enough
INTERVAL, DELAY = 128, 64  # two peaks are near enough if they are fewer bins and fewer frames apart
LONGEST = 1 << 16  # frames (17 minutes); the rest of a longer clip is ignored

CHANCE = (0.05, 0.25)  # the upper limit lets perfect loops match, which agree at many offsets
APART = 4  # smallest distance in frames between the best offset and a rival offset
EXPECTED = 0.01  # most pairs that may agree as well by chance, in the whole audit
COMMON = 50_000  # meetings of equal hashes per clip, on average; above it, the most common hashes are left out
_BLOCK = 1 << 21  # meetings of equal hashes that are processed at once

Tick = Callable[[int, int], None]  # called with (clips done, clips in total)


@dataclasses.dataclass(frozen=True)
class Print:
    """The fingerprint of a clip.

    Attributes:
      hashes: uint32 (hashes,).
      times: uint16 (hashes,), the frame of the first peak of each hash.
      frames: number of frames of the clip.
    """

    hashes: np.ndarray
    times: np.ndarray
    frames: int


@dataclasses.dataclass(frozen=True)
class Match:
    """Two clips that hold the same sound.

    Attributes:
      first, second: indices of the clips in the list, `first` < `second`.
      offset: how much later the sound begins in `second`, in seconds.
      agreeing: number of moments in which the clips agree at this offset.
      peaks: number of moments with peaks in the time that the clips share.
      expected: number of pairs of different recordings in the whole audit that are expected to agree as well by chance.
    """

    first: int
    second: int
    offset: float
    agreeing: int
    peaks: int
    expected: float


def take(audio: np.ndarray, sample_rate: int) -> Print:
    """Returns the fingerprint of a clip, (samples,) of any type and scale; a clip shorter than `WINDOW` has no hashes."""
    time, frequency, frames = peaks(audio, sample_rate)
    count = len(time)
    hashes, times, had = [], [], np.zeros(count, np.int8)
    for after in range(1, min(AFTER, count - 1) + 1):
        delay, interval = time[after:] - time[:-after], frequency[after:] - frequency[:-after]
        fits = (delay > 0) & (delay < DELAY) & (np.abs(interval) < INTERVAL) & (had[:-after] < FAN)
        had[:-after] += fits
        at = np.flatnonzero(fits)
        hashes.append((frequency[at] * 2 * INTERVAL + interval[at] + INTERVAL) * DELAY + delay[at])
        times.append(time[at])
    if not hashes:
        return Print(np.zeros(0, np.uint32), np.zeros(0, np.uint16), frames)
    return Print(np.concatenate(hashes).astype(np.uint32), np.concatenate(times).astype(np.uint16), frames)


def peaks(audio: np.ndarray, sample_rate: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns (frame of each peak, bin of each peak, number of frames); the peaks are int64 and in order of time."""
    from scipy import ndimage

    spectrum = _spectrum(audio, round(WINDOW * sample_rate), round(HOP * sample_rate))
    if not spectrum.size or not spectrum.max():
        return np.zeros(0, np.int64), np.zeros(0, np.int64), len(spectrum)
    around = ndimage.maximum_filter1d(spectrum, 2 * AROUND_TIME + 1, axis=0)
    around = ndimage.maximum_filter1d(around, 2 * AROUND_FREQUENCY + 1, axis=1)
    loudest = ndimage.maximum_filter1d(spectrum.max(1), 2 * SPAN + 1)
    least = np.maximum(loudest * 10 ** (-LEVEL / 20), FLOOR * loudest.max())
    time, frequency = np.nonzero((spectrum == around) & (spectrum > least[:, None]))
    return time, frequency, len(spectrum)


def _spectrum(audio: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Returns the magnitudes float32 (frames, bins) of the bins `LOWEST` to `HIGHEST`, with Hann windows and no padding."""
    from scipy import fft

    frames = min((len(audio) - window) // hop + 1, LONGEST)
    bins = slice(LOWEST, min(HIGHEST, window // 2 + 1))
    if frames < 1 or bins.start >= bins.stop:
        return np.zeros((0, 0), np.float32)
    views = np.lib.stride_tricks.sliding_window_view(audio, window)[::hop][:frames]
    taper = np.hanning(window + 1)[:-1].astype(np.float32)
    parts = [np.abs(fft.rfft(views[at : at + 256] * taper, axis=1)[:, bins]) for at in range(0, frames, 256)]
    return np.concatenate(parts)


# ---------------------------------------------------------------- the search


class _Index:
    """An inverted index of the hashes of all clips: the entries of one hash follow each other, in the order of the clips.

    Two entries of one hash are a meeting of their clips.

    Attributes:
      share_kept: share of the hashes that were rare enough to be used.
      frames: number of frames of each clip, int64 (clips,).
      time: frame of each entry, uint16 (entries,).
      clip: clip of each entry, int32 (entries,).
      entry: the entries sorted by clip, int32 (entries,).
      partners: for each element of `entry`, the number of later entries of the same hash, int32 (entries,).
      first_entry: index in `entry` of the first entry of each clip, (clips + 1,).
      moments: clip * LONGEST + frame of every frame with peaks, sorted, int64 (moments,).
    """

    def __init__(self, prints: Sequence[Print]) -> None:
        sizes = np.array([len(p.hashes) for p in prints], np.int64)
        hashes = np.concatenate([np.zeros(0, np.uint32), *(p.hashes for p in prints)])
        order = np.argsort(hashes, kind="stable")  # stable, to keep the entries of one hash in the order of the clips
        hashes = hashes[order]
        begin = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
        count = np.diff(np.append(begin, len(hashes)))
        kept = count <= _commonest(count, COMMON * len(prints))
        order = order[np.repeat(kept, count)]
        self.share_kept = len(order) / len(hashes) if len(hashes) else 1.0
        del hashes
        self.frames = np.array([p.frames for p in prints], np.int64)
        self.time = np.concatenate([np.zeros(0, np.uint16), *(p.times for p in prints)])[order]
        self.clip = np.repeat(np.arange(len(prints), dtype=np.int32), sizes)[order]
        del order
        size = count[kept]
        end = np.repeat(np.cumsum(size, dtype=np.int32), size)  # end of the run of equal hashes that holds each entry
        partners = end - np.arange(1, len(end) + 1, dtype=np.int32)
        del end
        self.entry = np.argsort(self.clip, kind="stable").astype(np.int32)
        self.partners: np.ndarray = partners[self.entry]
        self.first_entry = np.searchsorted(self.clip[self.entry], np.arange(len(prints) + 1))
        self.moments = _distinct(self.clip.astype(np.int64) * LONGEST + self.time)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges (start, stop) of clips with about `_BLOCK` meetings, few enough that a table can count their pairs."""
        clips = len(self.frames)
        meetings = np.concatenate([[0], np.cumsum(self.partners, dtype=np.int64)])[self.first_entry]
        at = 0
        while at < clips:
            end = int(np.searchsorted(meetings, meetings[at] + _BLOCK, side="right")) - 1
            end = min(max(end, at + 1), at + max(1, (1 << 22) // clips), clips)
            yield at, end
            at = end

    def best_offsets(self, start: int, stop: int, least: int) -> np.ndarray:
        """Returns the best offset of each pair of clips whose first clip is in [start, stop).

        The columns of the rows are first clip, second clip, and those of `align` after the pair.
        """
        entries = slice(self.first_entry[start], self.first_entry[stop])
        first_entries, count = self.entry[entries].astype(np.int64), self.partners[entries]
        here = np.repeat(first_entries, count)
        there = here + 1 + np.arange(len(here)) - np.repeat(np.cumsum(count) - count, count)
        apart = self.clip[here] != self.clip[there]
        here, there = here[apart], there[apart]
        pair = (self.clip[here] - np.int64(start)) * len(self.frames) + self.clip[there]
        rows = align(pair, self.time[here], self.time[there], least)
        first, second = np.divmod(rows[:, 0], len(self.frames))
        return np.stack([first + start, second, *rows[:, 1:].T], axis=1)

    def shared_moments(self, first: np.ndarray, second: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Returns the number of moments in the time that two clips share at an offset in frames: the smaller of both clips."""
        begin = np.maximum(0, -offset)
        end = np.maximum(begin, np.minimum(self.frames[first], self.frames[second] - offset))
        counts = [
            np.searchsorted(self.moments, clip * LONGEST + end + later)
            - np.searchsorted(self.moments, clip * LONGEST + begin + later)
            for clip, later in ((first, 0), (second, offset))
        ]
        return np.minimum(*counts)


def find(prints: Sequence[Print], threads: int = 1, tick: Tick = lambda done, total: None) -> tuple[list[Match], float]:
    """Returns the pairs of clips that hold the same sound, and the share of the hashes that were rare enough to be used.

    Time grows with the square of the number of clips until equal hashes meet `COMMON` times per clip. Above that, the most
    common hashes are left out, and time grows linearly. Memory is about 45 bytes per hash, with some 1,400 hashes in ten
    seconds of audio, and 100 MB per thread.

    Args:
      prints: the fingerprints of the clips.
      threads: number of threads that search.
      tick: called with (clips done, clips in total) after each block of clips.
    """
    if len(prints) < 2:
        return [], 1.0
    index = _Index(prints)
    pairs = len(prints) * (len(prints) - 1) / 2
    least = fewest(pairs)
    offsets = []
    with ThreadPoolExecutor(threads) as pool:
        blocks = list(index.blocks())
        rows = pool.map(lambda block: index.best_offsets(block[0], block[1], least), blocks)
        for (_, stop), some in zip(blocks, rows, strict=True):
            offsets.append(some)
            tick(stop, len(prints))
    first, second, offset, agreeing, following, rival = np.concatenate(offsets).T
    moments = np.maximum(1, index.shared_moments(first, second, offset))
    together, expected = by_chance(pairs, agreeing + following, moments, rival)
    seconds = (offset + following / np.maximum(agreeing + following, 1)) * HOP
    columns = [column.tolist() for column in (first, second, seconds, together, moments, expected)]
    matches = [Match(*row) for row in zip(*columns, strict=True)]
    return [match for match in matches if match.expected <= EXPECTED], index.share_kept


def align(pair: np.ndarray, here: np.ndarray, there: np.ndarray, least: int) -> np.ndarray:
    """Returns the best offset of each pair of clips: the one at which most moments agree, at this frame and the next together.

    Pairs with fewer than `least` such moments are left out. The columns of the rows are: pair, offset in frames, moments that
    agree at this offset, moments that agree at the next offset, and moments that agree at the best rival offset, which is
    `APART` frames or more away. The count of the rival is exact only if it is at least half of `least`.

    Args:
      pair: the pair of clips of each meeting of equal hashes, int64 (meetings,), below 2 ** 30.
      here: frame of the meeting in the first clip, uint16 (meetings,).
      there: frame of the meeting in the second clip, uint16 (meetings,).
      least: least number of agreeing moments.
    """
    cell = pair * (2 * LONGEST) + there + LONGEST - here  # one cell per pair and offset
    likely = _crowded(cell, (least + 1) // 2)
    cell, agreeing = _runs(_distinct(cell[likely] * LONGEST + here[likely]) // LONGEST)
    if not len(cell):
        return np.zeros((0, 5), np.int64)
    following = np.append(np.where(cell[1:] == cell[:-1] + 1, agreeing[1:], 0), 0)
    both = agreeing + following
    pair, offset = np.divmod(cell, 2 * LONGEST)
    begin = np.flatnonzero(np.append(True, pair[1:] != pair[:-1]))
    group = np.repeat(np.arange(len(begin)), np.diff(np.append(begin, len(pair))))
    best = np.lexsort((-both, pair))[begin]
    rival = np.maximum.reduceat(np.where(np.abs(offset - offset[best][group]) < APART, 0, both), begin)
    enough = both[best] >= least
    best, rival = best[enough], rival[enough]
    return np.stack([pair[best], offset[best] - LONGEST, agreeing[best], following[best], rival], axis=1)


def fewest(trials: float) -> int:
    """Returns the least number of agreeing moments that can make a match in this number of comparisons."""
    return int(np.ceil(np.log(trials / EXPECTED) / -np.log(CHANCE[0])))


def by_chance(
    trials: float, agreeing: np.ndarray, moments: np.ndarray | int, rival: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many moments agree, at most `moments`, and how many of the comparisons would agree as well by chance.

    Args:
      trials: number of comparisons.
      agreeing: number of moments that agree at the best offset, (rows,).
      moments: number of moments that could agree, at least 1.
      rival: number of moments that agree at the best rival offset, (rows,).
    """
    from scipy import special

    together = np.minimum(agreeing, moments)
    chance = np.clip(rival / moments, *CHANCE)
    return together, trials * special.betainc(together, moments - together + 1, chance)  # upper tail of a binomial variable


def _commonest(count: np.ndarray, budget: int) -> int:
    """Returns the largest number of entries per hash with which all meetings of equal hashes stay within a budget."""
    sizes, hashes = np.unique(count, return_counts=True)
    meetings = np.cumsum(hashes * sizes * (sizes - 1) / 2)
    within = int(np.searchsorted(meetings, budget, side="right"))
    return int(sizes[within - 1]) if within else 1


def _crowded(cell: np.ndarray, least: int) -> np.ndarray:
    """Returns a mask of the entries that may be in crowded cells. This saves sorting the meetings that happen by chance.

    A crowded cell holds at least `least` entries together with the cell before or after it. Cells are counted in a hash table
    where several cells share a place. Therefore the mask has all entries of crowded cells, and a few others.
    """
    table = 1 << (2 * len(cell) + 16).bit_length()
    place = (cell + cell // (2 * LONGEST) * 7919) % table
    count = np.bincount(place, minlength=table).astype(np.int32)
    both = count + np.roll(count, -1)
    return (np.maximum(both, np.roll(both, 1)) >= least)[place]


def _distinct(values: np.ndarray) -> np.ndarray:
    """Returns the distinct values in order. Sorts `values` in place, to use less memory than `np.unique`."""
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])[: len(values)]]


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct values of a sorted array, and how often each occurs."""
    begin = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    return values[begin], np.diff(np.append(begin, len(values)))
