"""Which clip and which cut comes at each position of an endless run: a pure function of (seed, position).

`Rows` are the examples of an epoch: one per clip, k segments per track, or every window, and the augmented copies of a
protocol. `Order` draws rows from lists: one list of all rows, or one list per class, of one data set or several. It goes
through a list in a random order, which it shuffles again for every pass. An epoch has as many draws as there are rows, and
each list gets its share of them, rounded to whole draws. This module needs NumPy alone.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.data.shards import Index

ORDERS = ("global", "by_shard")
SAMPLINGS = ("uniform", "balanced", "sqrt", "weighted")
SEGMENTS = ("random", "fixed", "consecutive")
WINDOWS = ("consecutive", "centre", "fixed", "random")
LAST_WINDOWS = ("aligned", "dropped")
_FIXED = 1 << 48  # draw numbers of fixed segments start here, beyond every visit
_EVALUATION = 1 << 49  # the draw number of the random windows of an evaluation
_BLOCK = 4096  # epochs whose counts are summed at once


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, uint64 → uint64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(seed: int, *parts: np.ndarray) -> np.ndarray:
    """Hash `seed` and integer arrays (B,) to uint64 (B,)."""
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seed, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        for part in parts:
            state = _mix(state ^ (part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    return state


def random_starts(seed: int, clip: np.ndarray, draw: np.ndarray, span: np.ndarray) -> np.ndarray:
    """A uniform start in [0, span] for each (clip, draw), which follows from `seed`; all arrays are (B,), the result int64."""
    return (_hash(seed, clip, draw) % (span + 1).astype(np.uint64)).astype(np.int64)


def random_cuts(seed: int, clip: np.ndarray, draw: np.ndarray, length: np.ndarray, samples: int, margin: int) -> np.ndarray:
    """The start of a random cut of `samples` for each (clip, draw); all arrays are (B,), the result int64.

    No cut uses the first and the last `margin` samples of its clip. In a clip of fewer than `samples` + 2 · `margin` samples
    the margins shrink.
    """
    spare = np.maximum(length.astype(np.int64) - samples, 0)
    before = np.minimum(margin, spare // 2)
    return before + random_starts(seed, clip, draw, spare - 2 * before)


def window_starts(length: int, samples: int, hop: int = 0, last: str = "aligned") -> np.ndarray:
    """First samples of the consecutive windows of a clip of `length` samples: int64, at least one.

    `hop` 0 stands for `samples`. The last window ends with the clip. With `last` "dropped" it is left out if it is less than
    half of `hop` after the window before it.
    """
    hop, end = hop or samples, max(length - samples, 0)
    starts = np.arange(0, end, hop, dtype=np.int64)
    if last == "dropped" and len(starts) and 2 * (end - starts[-1]) < hop:
        return starts
    return np.append(starts, end)


def windows_of(index: Index, data: ConfigDict, hop: int, windows: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(clip, start), both (windows,), of the windows of an evaluation, in ascending order of clip.

    `windows` "consecutive" covers every clip, "centre" takes the middle window of each, "random" a window of each that follows
    from the seed, and "fixed" `data.segments_per_track` windows of each track that follow from the seed.
    """
    every = np.arange(len(index))
    if windows == "fixed":
        clip, start, _ = _fixed(index, data, seed, 0, data.segments_per_track)
        by_clip = np.argsort(clip, kind="stable")
        return clip[by_clip], start[by_clip]
    if windows == "random":
        draw = np.full(len(index), _EVALUATION)
        return every, random_cuts(seed, every, draw, index.length, data.samples, data.margin)
    if windows == "centre":
        return every, np.maximum(index.length.astype(np.int64) - data.samples, 0) // 2
    return _consecutive(index, data, hop)


def _consecutive(index: Index, data: ConfigDict, hop: int) -> tuple[np.ndarray, np.ndarray]:
    """(clip, start) of all consecutive windows."""
    starts = [window_starts(int(n), data.samples, hop, data.last_window) for n in index.length]
    return np.repeat(np.arange(len(index)), [len(s) for s in starts]), np.concatenate([*starts, np.zeros(0, np.int64)])


def check(data: ConfigDict) -> None:
    """Check the sampling, the mix and the copies of `config.data`; reads no data. Raises `UserError`."""
    parse_pairs("data.mix", data.mix)
    weights = parse_pairs("data.class_weights", data.class_weights)
    if bool(weights) != (data.sampling == "weighted"):
        raise UserError(
            "config key 'data.class_weights' goes with data.sampling 'weighted', and one was given without the other: "
            f"{data.class_weights} and {data.sampling!r}"
        )
    for key, values, low, high in (("semitones", data.copies.semitones, -24, 24), ("stretches", data.copies.stretches, 0.1, 4)):
        if not all(type(value) in (int, float) and low <= value <= high for value in values):
            raise UserError(
                f"config key 'data.copies.{key}' must hold numbers in [{low}, {high}], and was given {list(values)}"
            )


# ---------------------------------------------------------------- the rows of an epoch


class Rows(NamedTuple):
    """The examples of an epoch; arrays (rows,).

    `start` is the first sample, or -1 if it is drawn anew at each visit. `variant` is segment · (1 + versions) + version:
    the segments of a clip are numbered from 0; version 0 is the recording itself, and the other versions are augmented
    copies, which `augment.waveform.copy` makes on the device.
    """

    clip: np.ndarray
    start: np.ndarray
    variant: np.ndarray

    def __len__(self) -> int:
        return len(self.clip)


def versions(copies: ConfigDict) -> int:
    """Number of augmented copies of each segment (`config.data.copies`)."""
    count = max(1, len(copies.stretches)) * max(1, len(copies.semitones)) if copies.stretches or copies.semitones else 0
    return min(count, 1) if copies.draw == "one" else count


def rows_of(index: Index, data: ConfigDict, seed: int) -> Rows:
    """The rows of a split under `data.segments` and `data.copies`."""
    if data.segments == "fixed":
        clip, start, segment = _fixed(index, data, seed, 0, data.segments_per_track)
    elif data.segments == "consecutive":
        clip, start = _consecutive(index, data, data.segment_hop)
        segment = _rank(clip)
    else:
        clip, start, segment = np.arange(len(index)), np.full(len(index), -1, np.int64), np.zeros(len(index), np.int64)
    number = versions(data.copies)
    if not number:
        return Rows(clip, start, segment)
    copied = clip, start, segment
    if data.copies.segments:
        first = int(segment.max(initial=0)) + 1
        copied = _fixed(index, data, seed, first, data.copies.segments)
    version = np.tile(np.arange(1, number + 1), len(copied[0]))
    clip, start, segment = (
        np.concatenate([a, np.repeat(b, number)]) for a, b in zip((clip, start, segment), copied, strict=True)
    )
    return Rows(clip, start, segment * (number + 1) + np.concatenate([np.zeros(len(clip) - len(version), np.int64), version]))


def _fixed(index: Index, data: ConfigDict, seed: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(clip, start, segment) of `count` segments per track, drawn once, from the clips of a track in turn.

    The segments are numbered from `first`.
    """
    by_track = np.argsort(index.track, kind="stable")
    tracks, begin, clips = np.unique(index.track[by_track], return_index=True, return_counts=True)
    turn = np.tile(np.arange(count), len(tracks))
    clip = by_track[np.repeat(begin, count) + turn % np.repeat(clips, count)]
    segment = first + turn
    span = np.maximum(index.length[clip].astype(np.int64) - data.samples, 0)
    return clip, random_starts(seed, clip, _FIXED + segment, span), segment


def _rank(values: np.ndarray) -> np.ndarray:
    """For each value, the number of equal values before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(values) else np.zeros(0, np.int64)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - np.repeat(first, np.diff(np.append(first, len(values))))
    return rank


# ---------------------------------------------------------------- their order


def parse_pairs(key: str, pairs: Sequence[str]) -> dict[str, float]:
    """Parse the value of config key `key`, a list such as ["rock=2", "jazz=0.5"], to name → number ≥ 0. Raises `UserError`."""
    values: dict[str, float] = {}
    for pair in pairs:
        name, equals, number = str(pair).rpartition("=")
        try:
            values[name] = float(number)
        except ValueError:
            values[name] = math.nan
        if not equals or not name or not 0 <= values[name] < math.inf:
            raise UserError(f"config key {key!r} must hold name=number with numbers of at least 0, and was given {pair!r}")
    return values


def named_weights(key: str, pairs: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The numbers of `pairs` in the order of `names`, 1 for a name without one. Raises `UserError` for an unknown name."""
    values = parse_pairs(key, pairs)
    for name in values:
        if name not in names:
            raise console.unknown(f"class in {key}", name, names)
    return np.array([values.get(name, 1.0) for name in names])


class Lists(NamedTuple):
    """Lists of rows that are drawn together, and the probability of each list; a row of several classes is in several lists."""

    rows: list[np.ndarray]
    shares: np.ndarray


def lists_of(
    labels: np.ndarray, sampling: str, class_weights: np.ndarray, source: np.ndarray, source_weights: Sequence[float]
) -> Lists:
    """The lists that `data.sampling` draws from.

    Args:
      labels: multi-hot (rows, classes).
      sampling: "uniform": all rows with equal probability; "balanced": all classes with equal probability; "sqrt": each class
        by the square root of its number of rows; "weighted": each class by its weight.
      class_weights: (classes,), for "weighted".
      source: (rows,) the number of the data set of each row; `sampling` applies within a data set.
      source_weights: probability of each data set, up to a factor.

    Classes without rows are not drawn. Rows without a class are in the "uniform" list alone.
    """
    rows: list[np.ndarray] = []
    shares: list[float] = []
    for number, weight in enumerate(source_weights):
        inside = np.flatnonzero(source == number)
        groups = [inside] if sampling == "uniform" else [inside[labels[inside, c] > 0] for c in range(labels.shape[1])]
        size = np.array([len(members) for members in groups], np.float64)
        wanted = class_weights if sampling == "weighted" else np.sqrt(size) if sampling == "sqrt" else 1.0
        share = np.where(size > 0, wanted, 0.0)
        if weight and not share.sum():
            raise UserError(f"data.sampling {sampling!r} finds no clip to draw: no class of a weight above 0 has one")
        kept = np.flatnonzero(share * weight)
        rows += [groups[c] for c in kept]
        shares += (weight * share[kept] / share.sum()).tolist()
    return Lists(rows, np.array(shares) / np.sum(shares))


class Order:
    """(row, visit) at each position of an endless sequence; `visit` counts how often the row was drawn before.

    Args:
      lists: the lists of rows, with their probabilities.
      size: draws per epoch.
      seed: of all random choices.

    An epoch is computed as a whole, in time and memory proportional to its draws, and the last few epochs are cached.
    """

    def __init__(self, lists: Lists, size: int, seed: int):
        self.lists, self.size, self.seed = lists, size, seed
        self._edges = np.append(0.0, np.cumsum(lists.shares))
        self._edges[-1] = 1.0
        self._epoch = functools.lru_cache(4)(self._draw_epoch)
        self._drawn = functools.lru_cache(64)(self._count_drawn)

    def __call__(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and visits, int64 (B,) each, of the positions (B,)."""
        epoch, place = np.divmod(position, self.size)
        row, visit = np.empty(len(position), np.int64), np.empty(len(position), np.int64)
        for number in np.unique(epoch):
            here = epoch == number
            rows, visits = self._epoch(int(number))
            row[here], visit[here] = rows[place[here]], visits[place[here]]
        return row, visit

    def _counts(self, epochs: np.ndarray) -> np.ndarray:
        """Draws (epochs, lists) of each list: size · share, rounded at random so that the counts add up (Madow 1949)."""
        offset = _hash(self.seed, epochs) / 2.0**64
        return np.diff(np.floor(self.size * self._edges + offset[:, None]).astype(np.int64), axis=1)

    def _count_drawn(self, epoch: int) -> np.ndarray:
        """Draws (lists,) of each list before `epoch`."""
        if not epoch:
            return np.zeros(len(self.lists.rows), np.int64)
        since = (epoch - 1) // _BLOCK * _BLOCK
        return self._drawn(since) + self._counts(np.arange(since, epoch)).sum(0)

    def _pass(self, number: int, turn: int) -> np.ndarray:
        """The rows of list `number` in the order of its pass `turn`."""
        rows = self.lists.rows[number]
        generator = np.random.Generator(np.random.Philox(key=[self.seed, turn], counter=[0, 0, 0, number]))
        return rows[generator.permutation(len(rows))]

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and visits (size,) of an epoch."""
        drawn, until = self._drawn(epoch), self._drawn(epoch + 1)
        visits = np.zeros(1 + max(int(rows.max()) for rows in self.lists.rows), np.int64)
        parts = []
        for number, members in enumerate(self.lists.rows):
            first, last = int(drawn[number]), int(until[number])
            turn, inside = divmod(first, len(members))
            turns = [self._pass(number, t) for t in range(turn, -(-last // len(members)))] or [self._pass(number, turn)]
            visits[members] += turn
            visits[turns[0][:inside]] += 1
            parts.append(np.concatenate(turns)[inside : inside + last - first])
        turns_of = np.repeat(np.arange(len(parts)), until - drawn)
        chance = np.random.Generator(np.random.Philox(key=[self.seed, epoch], counter=[0, 0, 1, 0]))
        row = np.empty(self.size, np.int64)
        row[np.argsort(chance.permutation(turns_of), kind="stable")] = np.concatenate(parts)
        return row, visits[row] + _rank(row)
