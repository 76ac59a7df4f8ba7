"""A segment of the index: a folder of arrays about some songs, which is written once and then only read.

The arrays are mapped into memory, and therefore a look-up reads only the hashes of its clip. Segments are joined into larger
ones, because each costs a search.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genre_jax.atomic import write_whole
from genre_jax.console import UserError
from genre_jax.prepare.fingerprint import Print

_SONGS = "songs.jsonl"
_TYPES = {
    "vectors": np.float32, "tags": np.float32, "windows": np.float32, "starts": np.float32,
    "hashes": np.uint32, "owners": np.uint32, "times": np.uint16, "moments": np.uint16,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Song:
    """A song of the index.

    Attributes:
      path: absolute path of the file.
      seconds: length.
      size, modified: bytes of the file and time of its last change in ns, by which a changed file is recognised.
      windows: number of windows that were embedded.
      moments: number of frames in which a hash begins.
    """

    path: str
    seconds: float
    size: int
    modified: int
    windows: int
    moments: int


@dataclasses.dataclass(frozen=True)
class Segment:
    """What the index holds of some songs.

    Attributes:
      songs: the songs.
      vectors: mean embedding of the windows of each song, float32 (songs, dims).
      tags: mean probability of each label, float32 (songs, labels).
      windows: embeddings of the windows of all songs, song after song, float32 (windows, dims).
      starts: start of each window in seconds, float32 (windows,).
      hashes: hashes of all songs, sorted, uint32 (hashes,).
      owners: number of the song of each hash within the segment, uint32 (hashes,).
      times: frame of each hash in its song, uint16 (hashes,).
      moments: frames in which hashes begin, in order, song after song, uint16 (moments,).
    """

    songs: tuple[Song, ...]
    vectors: np.ndarray
    tags: np.ndarray
    windows: np.ndarray
    starts: np.ndarray
    hashes: np.ndarray
    owners: np.ndarray
    times: np.ndarray
    moments: np.ndarray

    @classmethod
    def of(cls, song: Song, embeddings: np.ndarray, probabilities: np.ndarray, starts: np.ndarray, heard: Print) -> "Segment":
        """Returns a segment of one song.

        Args:
          song: the song; its numbers of windows and moments are those of the other arguments.
          embeddings: embedding of each window, (windows, dims).
          probabilities: probability of each label in each window, (windows, labels).
          starts: start of each window in seconds, (windows,).
          heard: the fingerprint.
        """
        order = np.argsort(heard.hashes, kind="stable")
        arrays = {
            "vectors": embeddings.mean(0, keepdims=True), "tags": probabilities.mean(0, keepdims=True),
            "windows": embeddings, "starts": starts,
            "hashes": heard.hashes[order], "owners": np.zeros(len(order)), "times": heard.times[order],
            "moments": np.unique(heard.times),
        }  # fmt: skip
        return cls((song,), **{name: arrays[name].astype(dtype) for name, dtype in _TYPES.items()})

    def save(self, folder: Path) -> None:
        """Write the arrays as .npy files and the songs as JSON lines into a new folder."""
        folder.mkdir(parents=True)
        for name in _TYPES:
            with write_whole(folder / f"{name}.npy") as file:
                np.save(file, getattr(self, name))
        with write_whole(folder / _SONGS, "w") as file:
            # ASCII, because a path may hold bytes that are not UTF-8; they are escapes here.
            file.writelines(json.dumps(dataclasses.asdict(song)) + "\n" for song in self.songs)

    @classmethod
    def load(cls, folder: Path, dims: int, labels: int) -> "Segment":
        """Map the arrays of a folder into memory. Raises `UserError` if a file is missing, cut off, or fits not the others."""
        try:
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _TYPES}
            songs = tuple(Song(**json.loads(line)) for line in (folder / _SONGS).read_text("ascii").splitlines())
            windows, moments = sum(song.windows for song in songs), sum(song.moments for song in songs)
            hashes = len(arrays["hashes"])
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise _damaged(folder, error) from error
        shapes = {
            "vectors": (len(songs), dims), "tags": (len(songs), labels), "windows": (windows, dims), "starts": (windows,),
            "hashes": (hashes,), "owners": (hashes,), "times": (hashes,), "moments": (moments,),
        }  # fmt: skip
        for name, dtype in _TYPES.items():
            if arrays[name].shape != shapes[name] or arrays[name].dtype != dtype:
                held = f"{name}.npy holds {arrays[name].dtype} {arrays[name].shape}"
                raise _damaged(folder, f"{held}, and {np.dtype(dtype)} {shapes[name]} belong to its {len(songs)} songs")
        return cls(songs, **arrays)

    @functools.cached_property
    def _first(self) -> np.ndarray:
        """The index of the first window and of the first moment of each song, and the ends, int64 (2, songs + 1)."""
        counts = np.array([[song.windows for song in self.songs], [song.moments for song in self.songs]], np.int64)
        return np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0)))

    def windows_of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the starts (windows,) in seconds and the embeddings (windows, dims) of the song in this row."""
        part = slice(*self._first[0, row : row + 2])
        return self.starts[part], self.windows[part]

    def moments_of(self, row: int) -> np.ndarray:
        """Returns the frames (moments,) in which hashes of the song in this row begin."""
        return self.moments[slice(*self._first[1, row : row + 2])]


def join(parts: Sequence[tuple[Segment, np.ndarray]]) -> Segment:
    """Returns one segment with the songs of several segments, of which each has a mask (songs,) of the songs to keep."""
    songs: list[Song] = []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _TYPES}
    for part, keep in parts:
        kept = {"vectors": keep, "tags": keep}
        kept["windows"] = kept["starts"] = np.repeat(keep, [song.windows for song in part.songs])
        kept["moments"] = np.repeat(keep, [song.moments for song in part.songs])
        kept["hashes"] = kept["owners"] = kept["times"] = keep[part.owners]
        renumbered = (np.cumsum(keep) - 1 + len(songs)).astype(np.uint32)
        for name, column in columns.items():
            values = getattr(part, name)[kept[name]]
            column.append(renumbered[values] if name == "owners" else values)
        songs += [song for song, stays in zip(part.songs, keep, strict=True) if stays]
    joined = {name: np.concatenate(column) for name, column in columns.items()}
    order = np.argsort(joined["hashes"], kind="stable")
    for name in ("hashes", "owners", "times"):
        joined[name] = joined[name][order]
    return Segment(tuple(songs), **joined)


def _damaged(folder: Path, fault: object) -> UserError:
    return UserError(f"the index is damaged at {folder}: {fault}: build the index again in a new folder")
