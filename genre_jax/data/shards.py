"""Reading shards: an index of every clip of a split, and the samples of any cut.

Shards are TFRecord files of `tf.train.Example` with 16-bit PCM. One example is one clip:

    audio    bytes   mono PCM, int16 little-endian, at the sample rate of the data set
    labels   int64   class numbers, in the order of the source; single-label training uses the first
    name     bytes   unique in the data set: the path below the source folder, with the start of the clip if it was cut
    track    bytes   all clips of a track are in the same split
    maximum  float   largest sample of the whole clip in [-1, 1] (document 000 caps the gain by it, not by the magnitude)

This module needs NumPy alone, so that training runs where TensorFlow is not installed. The rows of an `Index` are sorted by
clip name, so that the number of a clip depends neither on the writer nor on the number of shards.
"""

import contextlib
import dataclasses
import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import numpy as np

from genre_jax.atomic import write_whole
from genre_jax.console import UserError
from genre_jax.data.locate import read_exclude, read_passport


@dataclasses.dataclass(frozen=True)
class Index:
    """Where every clip of a split lies, and what is known of it; arrays have one row a clip, sorted by name."""

    data_set: str
    split: str
    sample_rate: int
    classes: tuple[str, ...]
    shards: tuple[Path, ...]
    names: tuple[str, ...]
    tracks: tuple[str, ...]  # the distinct tracks, sorted
    track: np.ndarray  # int32, row of `tracks`
    shard: np.ndarray  # int32, row of `shards`
    offset: np.ndarray  # int64, byte of the first sample in its shard
    length: np.ndarray  # int32, samples
    maximum: np.ndarray  # float32
    labels: np.ndarray  # uint8 (clips, classes), multi-hot
    first_label: np.ndarray  # int32, -1 where a clip has none

    def __len__(self) -> int:
        return len(self.names)

    def without(self, names: Set[str]) -> "Index":
        """The same index less these clips. Raises `UserError` where it has no clip of such a name."""
        if not names:
            return self
        unknown = sorted(names - set(self.names))
        if unknown:
            raise UserError(
                f"exclude.csv of data set {self.data_set!r} lists {unknown[0]!r}, and split {self.split!r} has no such clip: "
                "take the row out"
            )
        kept = np.array([name not in names for name in self.names], bool)
        rows = ("track", "shard", "offset", "length", "maximum", "labels", "first_label")
        left = tuple(name for name, keep in zip(self.names, kept, strict=True) if keep)
        return dataclasses.replace(self, names=left, **{key: getattr(self, key)[kept] for key in rows})

    def cut(self, clip: int, start: int, samples: int, out: np.ndarray | None = None) -> np.ndarray:
        """Samples `[start, start + samples)` of a clip as int16 `(samples,)`, zeros past its end."""
        if out is None:
            out = np.empty(samples, np.int16)
        count = max(0, min(samples, int(self.length[clip]) - start))
        # Opened for each cut: a memory map's pages would count as this process's own, and open files are few.
        file = os.open(self.shards[self.shard[clip]], os.O_RDONLY)
        try:
            os.preadv(file, [out[:count]], int(self.offset[clip]) + 2 * start)
        finally:
            os.close(file)
        out[count:] = 0
        return out


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each length-delimited field of a protobuf message."""
    while at < end:
        tag, at = _varint(data, at)
        if tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7}")
        size, at = _varint(data, at)
        yield tag >> 3, at, at + size
        at += size


def _parse_example(data: mmap.mmap, at: int, end: int) -> dict[str, tuple[int, int, int]]:
    """Feature name → (kind, start, end) of its list, in a serialised `tf.train.Example`."""
    found = {}
    for _, features_at, features_end in _fields(data, at, end):
        for _, entry_at, entry_end in _fields(data, features_at, features_end):
            (_, key_at, key_end), (_, value_at, value_end) = _fields(data, entry_at, entry_end)
            for kind, list_at, list_end in _fields(data, value_at, value_end):
                found[data[key_at:key_end].decode()] = (kind, list_at, list_end)
    return found


def _bytes_span(data: mmap.mmap, where: tuple[int, int, int]) -> tuple[int, int]:
    for _, at, end in _fields(data, where[1], where[2]):
        return at, end
    return where[1], where[1]


def text(data: mmap.mmap, where: tuple[int, int, int]) -> str:
    """The first value of a list of bytes, decoded."""
    at, end = _bytes_span(data, where)
    return data[at:end].decode()


def _floats(data: mmap.mmap, where: tuple[int, int, int]) -> list[float]:
    return [v for _, at, end in _fields(data, where[1], where[2]) for v in np.frombuffer(data[at:end], "<f4").tolist()]


def integers(data: mmap.mmap, where: tuple[int, int, int]) -> list[int]:
    """The values of a list of int64 that are 0 or more."""
    values = []
    for _, at, end in _fields(data, where[1], where[2]):
        while at < end:
            value, at = _varint(data, at)
            values.append(value)
    return values


def examples(shard: Path) -> Iterator[tuple[mmap.mmap, dict[str, tuple[int, int, int]]]]:
    """The open file and, for each record of a shard, feature name → (kind, first byte, end) of its list of values."""
    if shard.stat().st_size == 0:
        return
    with open(shard, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            end = at + 12 + size
            if end + 4 > len(data):
                raise UserError(f"shard {shard} is cut off inside the record at byte {at}: prepare the data set again")
            yield data, _parse_example(data, at + 12, end)
            at = end + 4


def _scan(shard: Path) -> Iterator[tuple[str, str, list[int], float, int, int]]:
    """(name, track, labels, maximum, byte offset, samples) of each record of a shard; the audio is not touched."""
    for data, example in examples(shard):
        start, stop = _bytes_span(data, example["audio"])
        maximum = _floats(data, example["maximum"])[0]
        labels = integers(data, example["labels"]) if "labels" in example else []
        yield text(data, example["name"]), text(data, example["track"]), labels, maximum, start, (stop - start) // 2


def load_index(folder: Path, split: str, whole: bool = False) -> Index:
    """The index of one split: from its cached file where that matches the shards, else by reading their framing.

    Clips that `exclude.csv` lists are left out, unless the `whole` split is wanted.
    """
    passport = read_passport(folder)
    shards = sorted(folder.glob(f"*-{split}.tfrecord-*"))
    if not shards:
        raise UserError(
            f"data set {passport['name']!r} has no split {split!r}: choose one of {', '.join(sorted(passport['splits']))} "
            "for --config.data.train, .validation (or nothing) and .test"
        )
    sizes = np.array([path.stat().st_size for path in shards], np.int64)
    cache = folder / f"index-{split}.npz"
    columns = _read_cache(cache, sizes)
    if columns is None:
        columns = _build_columns(shards, passport["labels"]) | {"sizes": sizes}
        _write_cache(cache, columns)
    names, tracks = (tuple(bytes(columns.pop(key)).decode().split("\0")) for key in ("names", "tracks"))
    columns.pop("sizes")
    index = Index(
        data_set=passport["name"],
        split=split,
        sample_rate=passport["sample_rate"],
        classes=tuple(passport["labels"]),
        shards=tuple(shards),
        names=names,
        tracks=tracks,
        **columns,
    )
    return index if whole else index.without(read_exclude(folder).get(split, set()))


def digest(indices: Iterable[Index]) -> str:
    """A hash of the clips' names and lengths, in their order."""
    total = hashlib.sha256()
    for index in indices:
        total.update("\0".join((index.data_set, index.split, *index.names)).encode() + index.length.tobytes())
    return total.hexdigest()


def _build_columns(shards: list[Path], classes: list[str]) -> dict[str, np.ndarray]:
    rows = sorted((row[0], number, row) for number, path in enumerate(shards) for row in _scan(path))
    tracks = sorted({row[1] for _, _, row in rows})
    track_row = {track: i for i, track in enumerate(tracks)}
    labels = np.zeros((len(rows), len(classes)), np.uint8)
    for i, (_, _, row) in enumerate(rows):
        labels[i, row[2]] = 1
    return {
        "names": np.frombuffer("\0".join(name for name, _, _ in rows).encode(), np.uint8),
        "tracks": np.frombuffer("\0".join(tracks).encode(), np.uint8),
        "track": np.array([track_row[row[1]] for _, _, row in rows], np.int32),
        "shard": np.array([number for _, number, _ in rows], np.int32),
        "offset": np.array([row[4] for _, _, row in rows], np.int64),
        "length": np.array([row[5] for _, _, row in rows], np.int32),
        "maximum": np.array([row[3] for _, _, row in rows], np.float32),
        "labels": labels,
        "first_label": np.array([row[2][0] if row[2] else -1 for _, _, row in rows], np.int32),
    }


def _read_cache(cache: Path, sizes: np.ndarray) -> dict[str, np.ndarray] | None:
    try:
        with np.load(cache) as file:
            columns = dict(file)
    except (OSError, ValueError, EOFError):
        return None
    return columns if np.array_equal(columns.get("sizes"), sizes) else None


def _write_cache(cache: Path, columns: dict[str, np.ndarray]) -> None:
    # A read-only data set works too, and only takes longer to open.
    with contextlib.suppress(OSError), write_whole(cache) as file:
        np.savez(file, allow_pickle=False, **columns)
