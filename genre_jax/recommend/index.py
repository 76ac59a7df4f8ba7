"""The index of songs: a folder of immutable segments, and index.json, which says which segments and songs count.

A commit writes a new segment and then replaces index.json. A process that is killed at any moment therefore leaves the former
index or the new one; the folder of a segment that index.json does not name is removed by the next commit. A song that is
removed or replaced is only marked in index.json, and leaves the disk when its segment is joined with others.
"""

import dataclasses
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax.atomic import read_json, write_json
from genre_jax.console import UserError
from genre_jax.recommend.segment import Segment, Song, join

VERSION = 1
LARGE = 1 << 25  # most hashes of a segment that is joined from others: two days of audio; joining them takes 1 GB of memory
FEW = 8  # the smallest segments are joined when there are more than this number
_PASSPORT = "index.json"


@dataclasses.dataclass(frozen=True)
class Network:
    """The network that computed the embeddings of an index.

    Attributes:
      source: what `genre_jax.load` loaded.
      sample_rate: its sample rate in Hz.
      labels: its labels.
      answer: its embedding of a fixed signal, float32 (dims,), by which another network is told apart.
    """

    source: str
    sample_rate: int
    labels: tuple[str, ...]
    answer: np.ndarray

    @classmethod
    def of(cls, tagger: Any, source: str) -> "Network":
        """Returns the network of a `genre_jax.load`ed tagger."""
        noise = 0.1 * np.random.default_rng(0).standard_normal(tagger.sample_rate).astype(np.float32)
        answer = tagger.tags(noise, tagger.sample_rate).embeddings[0]
        return cls(source, tagger.sample_rate, tuple(tagger.labels), np.asarray(answer, np.float32))

    def same_as(self, other: "Network") -> bool:
        """Whether two networks compute the same, up to the rounding of different machines."""
        if (self.sample_rate, self.labels, self.answer.shape) != (other.sample_rate, other.labels, other.answer.shape):
            return False
        return np.allclose(self.answer, other.answer, rtol=0, atol=1e-2 * np.abs(self.answer).max())


class Index:
    """An index of songs. The songs have the numbers 0, 1, …, which change with a commit.

    Attributes:
      folder: the folder of the index.
      network: the network of the embeddings.
    """

    def __init__(self, folder: Path, network: Network):
        """Make an empty index; the first commit writes it. `open` reads one that exists."""
        self.folder, self.network = folder, network
        self._names: list[str] = []
        self._segments: list[Segment] = []
        self._kept: list[np.ndarray] = []
        self._next = 0

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """Open an index. Raises `UserError` if there is none in the folder, or if it is damaged or of another version."""
        try:
            return cls._read(folder)
        except UserError:  # another process may have joined segments while this one opened them
            return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> "Index":
        path = folder / _PASSPORT
        if not path.is_file():
            raise UserError(f"{folder} holds no index: make it by python -m genre_jax.similar build FOLDER --index={folder}")
        values = read_json(path, dict)
        if values.get("version") != VERSION:
            raise UserError(f"{path} is of version {values.get('version')!r}, and {VERSION} is needed: build the index again")
        try:
            network = values["network"] | {"labels": tuple(values["network"]["labels"])}
            index = cls(folder, Network(**network | {"answer": np.array(network["answer"], np.float32)}))
            for name, removed in values["segments"].items():
                segment = Segment.load(folder / name, len(index.network.answer), len(index.network.labels))
                index._append(name, segment)
                index._kept[-1][removed] = False
            index._next = int(values["next"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): build the index again") from error
        return index

    def songs(self) -> tuple[Song, ...]:
        """Returns the songs, by their numbers."""
        return tuple(
            song
            for segment, kept in zip(self._segments, self._kept, strict=True)
            for song, stays in zip(segment.songs, kept, strict=True)
            if stays
        )

    def vectors(self) -> np.ndarray:
        """Returns the mean embedding of each song, float32 (songs, dims)."""
        return self._column("vectors", len(self.network.answer))

    def tags(self) -> np.ndarray:
        """Returns the mean probability of each label of `network.labels` in each song, float32 (songs, labels)."""
        return self._column("tags", len(self.network.labels))

    def windows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the starts (windows,) in seconds and the embeddings float32 (windows, dims) of the windows of a song."""
        segment, row = self._place(number)
        return segment.windows_of(row)

    def moments(self, number: int) -> np.ndarray:
        """Returns the frames (moments,) in which hashes of a song begin, in order."""
        segment, row = self._place(number)
        return segment.moments_of(row)

    def _place(self, number: int) -> tuple[Segment, int]:
        """Returns the segment of a song, and its row there."""
        ends = np.cumsum([kept.sum() for kept in self._kept])
        place = int(np.searchsorted(ends, number, side="right"))
        rows = np.flatnonzero(self._kept[place])
        return self._segments[place], int(rows[number - ends[place]])  # counted from the end of the segment

    def parts(self) -> list[tuple[Segment, np.ndarray]]:
        """Returns the segments, each with the number of every song in it, int64 (songs,); -1 for songs that were removed."""
        parts, first = [], 0
        for segment, kept in zip(self._segments, self._kept, strict=True):
            parts.append((segment, np.where(kept, first + np.cumsum(kept) - 1, -1)))
            first += int(kept.sum())
        return parts

    def commit(self, added: Sequence[Segment] = (), removed: Iterable[str] = ()) -> None:
        """Add and remove songs, and write the index. Call it under a lock.

        Args:
          added: the new songs. A song of the same path is replaced.
          removed: paths of the songs to remove.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        gone = {song.path for segment in added for song in segment.songs} | set(removed)
        for segment, kept in zip(self._segments, self._kept, strict=True):
            kept &= [song.path not in gone for song in segment.songs]
        if added:
            self._write([(segment, np.ones(len(segment.songs), bool)) for segment in added])
        self._join_small()
        self._write_passport()

    def _join_small(self) -> None:
        """Join the smallest segments into one if there are many."""
        sizes = np.array([len(segment.hashes) for segment in self._segments], np.int64)
        by_size = np.argsort(sizes, kind="stable")
        small = sorted(by_size[np.cumsum(sizes[by_size]) <= LARGE].tolist())
        if len(small) <= FEW:
            return
        self._write([(self._segments[number], self._kept[number]) for number in small])
        for number in reversed(small):
            del self._names[number], self._segments[number], self._kept[number]

    def _write(self, parts: list[tuple[Segment, np.ndarray]]) -> None:
        """Join the parts into a new segment on the disk."""
        name = f"segment-{self._next:06d}"
        self._next += 1
        shutil.rmtree(self.folder / name, ignore_errors=True)  # of a process that was killed
        join(parts).save(self.folder / name)
        self._append(name, Segment.load(self.folder / name, len(self.network.answer), len(self.network.labels)))

    def _append(self, name: str, segment: Segment) -> None:
        self._names.append(name)
        self._segments.append(segment)
        self._kept.append(np.ones(len(segment.songs), bool))

    def _write_passport(self) -> None:
        """Replace index.json, and remove the segments that it does not name."""
        removed = {name: np.flatnonzero(~kept).tolist() for name, kept in zip(self._names, self._kept, strict=True)}
        network = dataclasses.asdict(self.network) | {"answer": self.network.answer.tolist()}
        passport = {"version": VERSION, "network": network, "segments": removed, "next": self._next}
        write_json(self.folder / _PASSPORT, passport)
        for folder in self.folder.glob("segment-*"):
            if folder.name not in removed:
                shutil.rmtree(folder)

    def _column(self, name: str, width: int) -> np.ndarray:
        columns = [getattr(segment, name)[kept] for segment, kept in zip(self._segments, self._kept, strict=True)]
        return np.concatenate([np.zeros((0, width), np.float32), *columns])
