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
import os
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import numpy as np

from genre_jax.atomic import write_whole
from genre_jax.console import UserError
from genre_jax.data import tfrecord
from genre_jax.data.locate import read_exclude, read_passport


@dataclasses.dataclass(frozen=True)
class Index:
    """The clips of a split and their places in the shards; arrays have one row per clip, sorted by name."""

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
    first_label: np.ndarray  # int32, -1 for a clip without labels

    def __len__(self) -> int:
        return len(self.names)

    def without(self, names: Set[str]) -> "Index":
        """The index without the clips called `names`. Raises `UserError` for a name that is not in it."""
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
        """Read samples [start, start + samples) of a clip: int16 (samples,), zeros past its end; into `out`, if given."""
        if out is None:
            out = np.empty(samples, np.int16)
        count = max(0, min(samples, int(self.length[clip]) - start))
        # The shard is opened for each cut: the pages of a memory map would count as memory of this process, and the number of
        # open files is limited.
        file = os.open(self.shards[self.shard[clip]], os.O_RDONLY)
        try:
            os.preadv(file, [out[:count]], int(self.offset[clip]) + 2 * start)
        finally:
            os.close(file)
        out[count:] = 0
        return out


def _scan(shard: Path) -> Iterator[tuple[str, str, list[int], float, int, int]]:
    """Yield (name, track, labels, maximum, byte offset, samples) of each record of a shard, without reading its audio."""
    for data, example in tfrecord.examples(shard):
        start, stop = tfrecord.bytes_span(data, example["audio"])
        maximum = tfrecord.floats(data, example["maximum"])[0]
        labels = tfrecord.integers(data, example["labels"]) if "labels" in example else []
        name, track = (tfrecord.text(data, example[key]) for key in ("name", "track"))
        yield name, track, labels, maximum, start, (stop - start) // 2


def load_index(folder: Path, split: str, whole: bool = False) -> Index:
    """The index of a split, from the cached index file if it matches the shards; otherwise the shards are scanned.

    Clips that `exclude.csv` lists are left out, unless `whole` is true. Raises `UserError` for an unknown split.
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
    """A hash of the names and lengths of all clips, in their order."""
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
    # A read-only data set works too; it only takes longer to open.
    with contextlib.suppress(OSError), write_whole(cache) as file:
        np.savez(file, allow_pickle=False, **columns)
