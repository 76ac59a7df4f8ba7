"""Recordings that hold the same sound, by acoustic fingerprint: pairs of spectral peaks, an inverted index, offsets.

Wang, "An Industrial-Strength Audio Search Algorithm", ISMIR 2003 (the Shazam of document 000). A peak is louder than all its
neighbours in time and frequency; it and the peaks that follow it give hashes (frequency, interval, delay), which gain, lossy
coding and noise mostly leave alone. Two clips with the same sound share many hashes, all at one offset in time.

What counts as a match is a test against chance. That two different recordings agree in a moment is granted the probability
that these two reach at the best of all other offsets (music of one key and beat agrees at many, and so do loops), within
`CHANCE`. The number of pairs in the whole audit that would agree as well as these by that chance must not exceed `EXPECTED`,
as in BLAST's E-value. Hashes that many clips share, such as those of hum, lift the chance along with the agreement.

Frequencies and times are counted in hertz and seconds, so that clips of different rates can be compared.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

WINDOW, HOP = 0.128, 0.016  # seconds of the short-time spectra
LOWEST, HIGHEST = 24, 512  # bins of 1 / WINDOW = 7.8 Hz: 190 Hz to 4 kHz
AROUND_TIME, AROUND_FREQUENCY = 8, 8  # frames and bins on either side that a peak must exceed
LEVEL, SPAN = 24.0, 31  # dB below the loudest bin, this many frames on either side, that a peak may lie
FLOOR = 1e-3  # of the clip's loudest bin: nothing below is a peak
AFTER, FAN = 15, 3  # a peak is paired with the first `FAN` fitting of the `AFTER` peaks that follow it
INTERVAL, DELAY = 128, 64  # bins and frames below which two peaks fit
LONGEST = 1 << 16  # frames (17 minutes); what follows is not looked at

CHANCE = (0.05, 0.25)  # the upper end lets perfect loops match, which agree at every turn
APART = 4  # frames between an offset and its rivals
EXPECTED = 0.01
COMMON = 50_000  # meetings of equal hashes a clip, on average, above which the commonest hashes are left out
_BLOCK = 1 << 21  # meetings looked at at once

Tick = Callable[[int, int], None]  # told (done, total)


@dataclasses.dataclass(frozen=True)
class Print:
    """The fingerprint of a clip: `hashes` uint32 and the frames of their first peaks, `times` uint16, both (hashes,)."""

    hashes: np.ndarray
    times: np.ndarray
    frames: int


@dataclasses.dataclass(frozen=True)
class Match:
    """Clips `first` < `second` (places in the list) that hold the same sound, `offset` seconds later in `second`.

    `agreeing` of the `peaks` moments with peaks in the time they share agree; `expected` pairs of different recordings in
    the whole audit would agree as well.
    """

    first: int
    second: int
    offset: float
    agreeing: int
    peaks: int
    expected: float


def take(audio: np.ndarray, sample_rate: int) -> Print:
    """The fingerprint of a clip, (samples,) of any type and scale; empty for one shorter than `WINDOW`."""
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
    """(frame of each peak, bin of each peak, frames looked at), in order of time; int64."""
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
    """Magnitudes (frames, bins) float32 from `LOWEST` to `HIGHEST`, Hann windows, no padding."""
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
    """All hashes of an audit, sorted, with whose they are and when: which clips meet in a hash is read off it."""

    def __init__(self, prints: Sequence[Print]) -> None:
        sizes = np.array([len(p.hashes) for p in prints], np.int64)
        hashes = np.concatenate([np.zeros(0, np.uint32), *(p.hashes for p in prints)])
        order = np.argsort(hashes, kind="stable")  # so that entries of one hash are in the order of the clips
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
        end = np.repeat(np.cumsum(size, dtype=np.int32), size)  # of the run of equal hashes that each entry is in
        partners = end - np.arange(1, len(end) + 1, dtype=np.int32)
        del end
        self.entry = np.argsort(self.clip, kind="stable").astype(np.int32)  # entries of a clip together again
        self.partners: np.ndarray = partners[self.entry]
        self.first_entry = np.searchsorted(self.clip[self.entry], np.arange(len(prints) + 1))
        self.moments = _distinct(self.clip.astype(np.int64) * LONGEST + self.time)  # with peaks, of all clips

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of clips that meet others about `_BLOCK` times, and whose pairs can be counted in a table."""
        clips = len(self.frames)
        meetings = np.concatenate([[0], np.cumsum(self.partners, dtype=np.int64)])[self.first_entry]
        at = 0
        while at < clips:
            end = int(np.searchsorted(meetings, meetings[at] + _BLOCK, side="right")) - 1
            end = min(max(end, at + 1), at + max(1, (1 << 22) // clips), clips)
            yield at, end
            at = end

    def best_offsets(self, start: int, stop: int, least: int) -> np.ndarray:
        """Rows (first, second, frames, agreeing, agreeing one frame on, rival) of pairs whose first clip is in [start, stop).

        For each pair the offset at which most moments agree, two neighbouring ones together, where these are `least`; and
        how many agree at its best rival, `APART` frames or more away, as far as they are half as many.
        """
        entries = slice(self.first_entry[start], self.first_entry[stop])
        own, count = self.entry[entries].astype(np.int64), self.partners[entries]
        here = np.repeat(own, count)
        there = here + 1 + np.arange(len(here)) - np.repeat(np.cumsum(count) - count, count)
        pair = (self.clip[here] - np.int64(start)) * len(self.frames) + self.clip[there]
        cell = pair * (2 * LONGEST) + self.time[there] + LONGEST - self.time[here]  # the pair at an offset
        likely = _crowded(cell, (least + 1) // 2) & (self.clip[here] != self.clip[there])
        cell, agreeing = _runs(_distinct(cell[likely] * LONGEST + self.time[here[likely]]) // LONGEST)
        if not len(cell):
            return np.zeros((0, 6), np.int64)
        following = np.append(np.where(cell[1:] == cell[:-1] + 1, agreeing[1:], 0), 0)
        both = agreeing + following
        pair, offset = np.divmod(cell, 2 * LONGEST)
        begin = np.flatnonzero(np.append(True, pair[1:] != pair[:-1]))
        group = np.repeat(np.arange(len(begin)), np.diff(np.append(begin, len(pair))))
        best = np.lexsort((-both, pair))[begin]
        rival = np.maximum.reduceat(np.where(np.abs(offset - offset[best][group]) < APART, 0, both), begin)
        enough = both[best] >= least
        best, rival = best[enough], rival[enough]
        first, second = np.divmod(pair[best], len(self.frames))
        return np.stack([first + start, second, offset[best] - LONGEST, agreeing[best], following[best], rival], axis=1)

    def shared_moments(self, first: np.ndarray, second: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """The lesser number of moments with peaks, of either clip, in the time they share at an offset in frames."""
        begin = np.maximum(0, -offset)
        end = np.maximum(begin, np.minimum(self.frames[first], self.frames[second] - offset))
        counts = [
            np.searchsorted(self.moments, clip * LONGEST + end + later)
            - np.searchsorted(self.moments, clip * LONGEST + begin + later)
            for clip, later in ((first, 0), (second, offset))
        ]
        return np.minimum(*counts)


def find(prints: Sequence[Print], threads: int = 1, tick: Tick = lambda done, total: None) -> tuple[list[Match], float]:
    """The pairs of clips that hold the same sound, and the share of the hashes that were rare enough to be used.

    Time grows with the square of the clips until equal hashes meet `COMMON` times a clip, and linearly from there on, where
    the commonest hashes are left out. Memory: about 45 bytes a hash, of which ten seconds have some 1,400, and 100 MB a thread.
    """
    from scipy import special

    if len(prints) < 2:
        return [], 1.0
    index = _Index(prints)
    pairs = len(prints) * (len(prints) - 1) / 2
    least = int(np.ceil(np.log(pairs / EXPECTED) / -np.log(CHANCE[0])))  # fewer agreeing moments are never enough
    found = []
    with ThreadPoolExecutor(threads) as pool:
        blocks = list(index.blocks())
        rows = pool.map(lambda block: index.best_offsets(block[0], block[1], least), blocks)
        for (_, stop), some in zip(blocks, rows, strict=True):
            found.append(some)
            tick(stop, len(prints))
    first, second, offset, agreeing, following, rival = np.concatenate(found).T
    moments = np.maximum(1, index.shared_moments(first, second, offset))
    together = np.minimum(agreeing + following, moments)
    chance = np.clip(rival / moments, *CHANCE)
    expected = pairs * special.betainc(together, moments - together + 1, chance)  # a binomial variable's upper tail
    seconds = (offset + following / np.maximum(agreeing + following, 1)) * HOP
    columns = [column.tolist() for column in (first, second, seconds, together, moments, expected)]
    matches = [Match(*row) for row in zip(*columns, strict=True)]
    return [match for match in matches if match.expected <= EXPECTED], index.share_kept


def _commonest(count: np.ndarray, budget: int) -> int:
    """The most entries that a hash may have, so that the meetings of equal hashes stay within a budget."""
    sizes, hashes = np.unique(count, return_counts=True)
    meetings = np.cumsum(hashes * sizes * (sizes - 1) / 2)
    within = int(np.searchsorted(meetings, budget, side="right"))
    return int(sizes[within - 1]) if within else 1


def _crowded(cell: np.ndarray, least: int) -> np.ndarray:
    """Which entries may lie in a cell that holds, with the cell before or after it, at least so many: all that do, and few
    that do not, because cells are counted in a table where several share a place. Spares sorting what comes of chance.
    """
    table = 1 << (2 * len(cell) + 16).bit_length()
    place = (cell + cell // (2 * LONGEST) * 7919) % table
    count = np.bincount(place, minlength=table).astype(np.int32)
    both = count + np.roll(count, -1)
    return (np.maximum(both, np.roll(both, 1)) >= least)[place]


def _distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, sorted, in less memory than `np.unique` takes; sorts `values` too."""
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])[: len(values)]]


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a sorted array, and how often each occurs."""
    begin = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
    return values[begin], np.diff(np.append(begin, len(values)))
