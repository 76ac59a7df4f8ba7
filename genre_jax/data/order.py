"""What an epoch is made of, and which of it comes at each position of an endless run: a pure function of (seed, position).

`Rows` are the examples of an epoch: one a clip, k segments a track, every window, and the augmented copies of a protocol.
`Order` draws them from lists: one list of all rows, or one a class, of one data set or several. A list is gone through in an
order of its own, reshuffled every time; an epoch has as many draws as there are rows, and each list gets its share of them, to
within one draw. NumPy alone.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.data.shards import Index

SAMPLINGS = ("uniform", "balanced", "sqrt", "weighted")
SEGMENTS = ("random", "fixed", "consecutive")
_FIXED = 1 << 48  # draws of fixed segments, beyond every visit
_BLOCK = 4096  # epochs whose counts are summed at once


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 → uint64, well mixed (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(seed: int, *parts: np.ndarray) -> np.ndarray:
    """uint64 (B,) from `seed` and integers (B,), well mixed."""
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seed, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        for part in parts:
            state = _mix(state ^ (part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    return state


def random_starts(seed: int, clip: np.ndarray, draw: np.ndarray, span: np.ndarray) -> np.ndarray:
    """A start in [0, span] for each (clip, draw), uniform, from `seed` alone. All arrays (B,); int64 out."""
    return (_hash(seed, clip, draw) % (span + 1).astype(np.uint64)).astype(np.int64)


def window_starts(length: int, samples: int, hop: int = 0, windows: str = "consecutive") -> np.ndarray:
    """First samples of the windows of a clip of `length` samples (int64, at least one)."""
    last = max(length - samples, 0)
    if windows == "centre":
        return np.array([last // 2], np.int64)
    return np.append(np.arange(0, last, hop or samples, dtype=np.int64), last)


def check(data: ConfigDict) -> None:
    """Raise `UserError` where `config.data` asks for an order or segments that make no sense; reads no data."""
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


# ---------------------------------------------------------------- what an epoch is made of


class Rows(NamedTuple):
    """The examples of an epoch; arrays (rows,).

    `start` is the first sample, -1 where it is drawn anew at each visit. `variant` is segment · (1 + versions) + version:
    the clip's segments are counted from 0, version 0 is the recording as it is, the others are a protocol's copies of it,
    which `augment.copy` makes on the device.
    """

    clip: np.ndarray
    start: np.ndarray
    variant: np.ndarray

    def __len__(self) -> int:
        return len(self.clip)


def versions(copies: ConfigDict) -> int:
    """Copies of a segment that `config.data.copies` asks for: every stretch with every shift, or one of those."""
    count = max(1, len(copies.stretches)) * max(1, len(copies.semitones)) if copies.stretches or copies.semitones else 0
    return min(count, 1) if copies.draw == "one" else count


def rows_of(index: Index, data: ConfigDict, seed: int) -> Rows:
    """The rows that `data.segments` and `data.copies` make of a split."""
    if data.segments == "fixed":
        clip, start, segment = _fixed(index, data, seed, 0, data.segments_per_track)
    elif data.segments == "consecutive":
        starts = [window_starts(int(n), data.samples, data.segment_hop) for n in index.length]
        counts = np.array([len(s) for s in starts], np.int64)
        clip, start = np.repeat(np.arange(len(index)), counts), np.concatenate([*starts, np.zeros(0, np.int64)])
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


def merge(indices: Sequence[Index]) -> Index:
    """Splits of several data sets as one, in that order; raises `UserError` unless the classes are those of the first.

    The classes may stand in another order, and some may be missing.
    """
    first = indices[0]
    if len(indices) == 1:
        return first
    for index in indices[1:]:
        if extra := sorted(set(index.classes) - set(first.classes)):
            raise UserError(
                f"data.mix: data set {index.data_set!r} has classes that {first.data_set!r} lacks, {', '.join(extra[:5])}"
                f"{' …' if len(extra) > 5 else ''}: only data sets of the same classes, or of some of them, can be mixed"
            )
        if index.sample_rate != first.sample_rate:
            raise UserError(f"data.mix: data set {index.data_set!r} has {index.sample_rate} Hz, not {first.sample_rate} Hz")
    columns = [[first.classes.index(name) for name in index.classes] for index in indices]
    labels = [np.zeros((len(index), len(first.classes)), np.uint8) for index in indices]
    for matrix, index, column in zip(labels, indices, columns, strict=True):
        matrix[:, column] = index.labels
    firsts = [np.append(column, -1)[index.first_label] for index, column in zip(indices, columns, strict=True)]

    def shifted(field: str, counted: str) -> np.ndarray:
        before = np.cumsum([0, *(len(getattr(index, counted)) for index in indices[:-1])])
        parts = [getattr(index, field) + shift for index, shift in zip(indices, before, strict=True)]
        return np.concatenate(parts).astype(np.int32)

    alike: Any = {
        field: np.concatenate([getattr(index, field) for index in indices]) for field in ("offset", "length", "maximum")
    }
    return dataclasses.replace(
        first,
        data_set="+".join(index.data_set for index in indices),
        shards=tuple(shard for index in indices for shard in index.shards),
        names=tuple(f"{index.data_set}:{name}" for index in indices for name in index.names),
        tracks=tuple(f"{index.data_set}:{track}" for index in indices for track in index.tracks),
        track=shifted("track", "tracks"),
        shard=shifted("shard", "shards"),
        labels=np.concatenate(labels),
        first_label=np.concatenate(firsts).astype(np.int32),
        **alike,
    )


def _fixed(index: Index, data: ConfigDict, seed: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(clip, start, segment) of `count` segments a track, numbered from `first`, drawn once; in turn from a track's clips."""
    by_track = np.argsort(index.track, kind="stable")
    tracks, begin, clips = np.unique(index.track[by_track], return_index=True, return_counts=True)
    turn = np.tile(np.arange(count), len(tracks))
    clip = by_track[np.repeat(begin, count) + turn % np.repeat(clips, count)]
    segment = first + turn
    span = np.maximum(index.length[clip].astype(np.int64) - data.samples, 0)
    return clip, random_starts(seed, clip, _FIXED + segment, span), segment


def _rank(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(values) else np.zeros(0, np.int64)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - np.repeat(first, np.diff(np.append(first, len(values))))
    return rank


# ---------------------------------------------------------------- in which order it comes


def parse_pairs(key: str, pairs: Sequence[str]) -> dict[str, float]:
    """Name → number ≥ 0 of a list such as ["rock=2", "jazz=0.5"], the value of the config key `key`. Raises `UserError`."""
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
    """(names,) the numbers of `pairs`, 1 for names that it lacks. Raises `UserError` for a name that is none of `names`."""
    values = parse_pairs(key, pairs)
    for name in values:
        if name not in names:
            raise console.unknown(f"class in {key}", name, names)
    return np.array([values.get(name, 1.0) for name in names])


class Lists(NamedTuple):
    """Rows that are drawn together, and the probability of each list; a row of several classes is on several lists."""

    rows: list[np.ndarray]
    shares: np.ndarray


def lists_of(
    labels: np.ndarray, sampling: str, class_weights: np.ndarray, source: np.ndarray, source_weights: Sequence[float]
) -> Lists:
    """The lists that `data.sampling` draws from.

    Args:
      labels: multi-hot (rows, classes).
      sampling: "uniform": all rows alike; "balanced": each class alike; "sqrt": each class by the root of its rows;
        "weighted": each class by its weight.
      class_weights: (classes,), of "weighted".
      source: (rows,) number of the data set that each row is of; within a data set `sampling` holds.
      source_weights: probability of each data set, up to a factor.

    Classes without rows count for nothing; rows without a class are on no list but the "uniform" one.
    """
    rows: list[np.ndarray] = []
    shares: list[float] = []
    for number, weight in enumerate(source_weights):
        own = np.flatnonzero(source == number)
        found = [own] if sampling == "uniform" else [own[labels[own, c] > 0] for c in range(labels.shape[1])]
        size = np.array([len(members) for members in found], np.float64)
        wanted = class_weights if sampling == "weighted" else np.sqrt(size) if sampling == "sqrt" else 1.0
        share = np.where(size > 0, wanted, 0.0)
        if weight and not share.sum():
            raise UserError(f"data.sampling {sampling!r} finds no clip to draw: no class of a weight above 0 has one")
        kept = np.flatnonzero(share * weight)
        rows += [found[c] for c in kept]
        shares += (weight * share[kept] / share.sum()).tolist()
    return Lists(rows, np.array(shares) / np.sum(shares))


class Order:
    """(row, visit) at each position of an endless sequence; `visit` counts how often the row came before.

    Args:
      lists: what is drawn, and how often.
      size: draws an epoch.
      seed: of everything.

    An epoch is computed whole, in time and memory of the order of its draws, and kept a while.
    """

    def __init__(self, lists: Lists, size: int, seed: int):
        self.lists, self.size, self.seed = lists, size, seed
        self._edges = np.append(0.0, np.cumsum(lists.shares))
        self._edges[-1] = 1.0
        self._epoch = functools.lru_cache(4)(self._draw_epoch)
        self._drawn = functools.lru_cache(64)(self._count_drawn)

    def __call__(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 (B,) each, of positions (B,)."""
        epoch, place = np.divmod(position, self.size)
        row, visit = np.empty(len(position), np.int64), np.empty(len(position), np.int64)
        for number in np.unique(epoch):
            here = epoch == number
            rows, visits = self._epoch(int(number))
            row[here], visit[here] = rows[place[here]], visits[place[here]]
        return row, visit

    def _counts(self, epochs: np.ndarray) -> np.ndarray:
        """Draws (epochs, lists) of each list: size · share, rounded down or up at random so that they add up (Madow 1949)."""
        offset = _hash(self.seed, epochs) / 2.0**64
        return np.diff(np.floor(self.size * self._edges + offset[:, None]).astype(np.int64), axis=1)

    def _count_drawn(self, epoch: int) -> np.ndarray:
        """Draws (lists,) of each list before `epoch`."""
        if not epoch:
            return np.zeros(len(self.lists.rows), np.int64)
        since = (epoch - 1) // _BLOCK * _BLOCK
        return self._drawn(since) + self._counts(np.arange(since, epoch)).sum(0)

    def _pass(self, number: int, turn: int) -> np.ndarray:
        """The rows of a list in the order of its pass `turn`."""
        rows = self.lists.rows[number]
        return rows[
            np.random.Generator(np.random.Philox(key=[self.seed, turn], counter=[0, 0, 0, number])).permutation(len(rows))
        ]

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(row, visit) of an epoch, arrays (size,)."""
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
