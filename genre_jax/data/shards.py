"""Reading shards: an index of every clip of a split, and the samples of any cut.

Shards are TFRecord files of `tf.train.Example` with 16-bit PCM. One example is one clip:

    audio    bytes   mono PCM, int16 little-endian, at the sample rate of the data set
    labels   int64   class numbers, in the order of the source; single-label training uses the first
    name     bytes   unique in the data set: the path below the source folder, with the start of the clip if it was cut
    track    bytes   all clips of a track are in the same split
    maximum  float   largest sample of the whole clip in [-1, 1] (document 000 caps the gain by it, not by the magnitude)

This module needs NumPy alone, so that training runs where TensorFlow is not installed. The rows of an `Index` are sorted by
clip name, so that the number of a clip depends neither on the writer nor on the number of shards.

Nothing is read that differs from what `prepare` wrote. The passport lists the shards of each split, with a digest of all that
an index holds: names, tracks, labels, lengths, places, and the checksums of the records. `load_index` compares the digests,
also for a cached index. `Index.cut` compares the checksum of a record with its bytes, as `data.verify` sets.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from genre_jax.atomic import write_whole
from genre_jax.console import UserError
from genre_jax.data import tfrecord
from genre_jax.data.bucket import Place, Remote
from genre_jax.data.locate import REMEDY, read_exclude, read_passport

COLUMNS = ("track", "shard", "record", "size", "checksum", "offset", "length", "maximum", "labels", "first_label")
UNREAD, VERIFIED, DAMAGED = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Index:
    """The clips of a split and their places in the shards; arrays have one row per clip, sorted by name."""

    data_set: str
    split: str
    sample_rate: int
    classes: tuple[str, ...]
    shards: tuple[Place, ...]
    # int64 (shards, 3): size in bytes, time of change in ns, inode; updated when a shard changes; zeros for shards in a bucket
    stamps: np.ndarray
    names: tuple[str, ...]
    tracks: tuple[str, ...]  # the distinct tracks, sorted
    track: np.ndarray  # int32, row of `tracks`
    shard: np.ndarray  # int32, row of `shards`
    record: np.ndarray  # int64, byte of the example in its shard
    size: np.ndarray  # int64, bytes of the example
    checksum: np.ndarray  # uint32, CRC-32C of the example
    offset: np.ndarray  # int64, byte of the first sample in its shard
    length: np.ndarray  # int32, samples
    maximum: np.ndarray  # float32
    labels: np.ndarray  # uint8 (clips, classes), multi-hot
    first_label: np.ndarray  # int32, -1 for a clip without labels
    state: np.ndarray  # uint8, UNREAD, VERIFIED or DAMAGED; updated by `cut`

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
        return self.take(np.flatnonzero([name not in names for name in self.names]))

    def take(self, rows: np.ndarray) -> "Index":
        """The index with these rows alone, in this order; int (rows,)."""
        names = tuple(self.names[row] for row in rows)
        return dataclasses.replace(self, names=names, **{key: getattr(self, key)[rows] for key in (*COLUMNS, "state")})

    def cut(self, clip: int, start: int, samples: int, out: np.ndarray | None = None, verify: str = "first") -> np.ndarray:
        """Read samples [start, start + samples) of a clip: int16 (samples,), zeros past its end; into `out`, if given.

        With `verify` "first" the checksum of the whole record is compared when the clip is read for the first time, and again
        after its shard has changed; with "always" at each call; with "never" not at all. Raises `DamagedClip`.
        """
        if out is None:
            out = np.empty(samples, np.int16)
        count = max(0, min(samples, int(self.length[clip]) - start))
        out[count:] = 0
        shard = self.shards[self.shard[clip]]
        if isinstance(shard, Remote):
            record = shard.read_bytes(int(self.record[clip]), int(self.size[clip]))
            if verify == "always" or (verify == "first" and self.state[clip] != VERIFIED) or len(record) != self.size[clip]:
                self.verify(clip, record)
            out[:count] = np.frombuffer(record, np.int16, count, int(self.offset[clip] - self.record[clip]) + 2 * start)
            return out
        # The shard is opened for each cut: the pages of a memory map would count as memory of this process, and the number of
        # open files is limited.
        file = os.open(shard, os.O_RDONLY)
        try:
            self.watch(self.shard[clip], file)
            place = int(self.offset[clip]) + 2 * start
            if verify == "always" or (verify == "first" and self.state[clip] != VERIFIED):
                example = self._verified(file, clip)
                place -= int(self.record[clip])
                out[:count] = np.frombuffer(example[place : place + 2 * count], np.int16)
            else:
                self._read(file, clip, memoryview(out[:count].view(np.uint8)), place)
        finally:
            os.close(file)
        return out

    def watch(self, shard: int, file: int | Path) -> None:
        """Forget what was verified in a local shard if its `file`, open or a path, has another stamp than before."""
        stamp = _stamp(file)
        if not np.array_equal(self.stamps[shard], stamp):
            self.stamps[shard] = stamp
            self.state[self.shard == shard] = UNREAD

    def _verified(self, file: int, clip: int) -> memoryview:
        """The example of a clip, whose checksum is compared and whose `state` is updated."""
        example = bytearray(int(self.size[clip]))
        self._read(file, clip, memoryview(example), int(self.record[clip]))
        self.verify(clip, bytes(example))
        return memoryview(example)

    def verify(self, clip: int, example: bytes) -> None:
        """Compare the size and the checksum of a clip's record with the `example` that was read, and update the clip's `state`.

        Raises `DamagedClip`.
        """
        if not self.matches(clip, example):
            self.state[clip] = DAMAGED
            raise DamagedClip(self, clip, "its bytes differ from its checksum")
        self.state[clip] = VERIFIED

    def matches(self, clip: int, example: bytes) -> bool:
        """Whether `example` has the size and the checksum of a clip's record; without google-crc32c the size alone counts."""
        if len(example) != self.size[clip] or not tfrecord.HAS_CHECKSUM:
            return len(example) == self.size[clip]
        import google_crc32c

        return google_crc32c.value(example) == self.checksum[clip]

    def _read(self, file: int, clip: int, buffer: memoryview, place: int) -> None:
        """Fill `buffer` from byte `place` of the file. A read may return less than was asked for."""
        done = 0
        while done < len(buffer):
            count = os.preadv(file, [buffer[done:]], place + done)
            if not count:
                self.state[clip] = DAMAGED
                raise DamagedClip(self, clip, f"the file ends at byte {place + done}")
            done += count


class DamagedClip(UserError):
    """A clip whose record is not what `prepare` wrote."""

    def __init__(self, index: Index, clip: int, reason: str):
        super().__init__(
            f"clip {index.names[clip]!r} in shard {index.shards[index.shard[clip]]} is damaged ({reason}): {tfrecord.RESTORE}; "
            "data.on_corrupt=skip leaves such clips out"
        )


def load_index(folder: Place, split: str, whole: bool = False) -> Index:
    """The index of a split, from the cached index file if it matches the shards; otherwise the shards are scanned.

    In a bucket the index file must be there, as `prepare` wrote it: a scan would read every shard as a whole.

    Clips that `exclude.csv` lists are left out, unless `whole` is true. Raises `UserError` for an unknown or empty split, and
    if the shards are not those that the passport lists.
    """
    passport = read_passport(folder)
    if split in passport.get("empty_splits", []):
        raise UserError(
            f"split {split!r} of data set {passport['name']!r} is empty: prepare at least three songs of each class, or name "
            "the splits in the column split of a CSV file"
        )
    if split not in passport["splits"]:
        raise UserError(
            f"data set {passport['name']!r} has no split {split!r}: choose one of {', '.join(sorted(passport['splits']))} "
            "for --config.data.train, .validation (or nothing) and .test"
        )
    listed = passport["splits"][split]["shards"]
    paths = _present(folder, split, listed)
    stamps = np.array([_stamp(path) for path in paths], np.int64).reshape(-1, 3)
    cache = folder / f"index-{split}.npz"
    columns = _read_cache(cache, stamps, list(listed.values()))
    if columns is None:
        if isinstance(cache, Remote):
            raise UserError(
                f"{cache} is missing, or is not the index of these shards: copy it from the folder that prepare wrote, where "
                "`genre-jax prepare --check` writes it again if it is missing"
            )
        columns = scan([path for path in paths if isinstance(path, Path)], passport["labels"])
        for path, found, expected in zip(paths, digests(columns, len(paths)), listed.values(), strict=True):
            if found != expected:
                raise UserError(f"shard {path} does not hold the clips that its passport lists: {tfrecord.RESTORE}")
        _write_cache(cache, columns | {"stamps": stamps})
    names, tracks = (_texts(columns[key]) for key in ("names", "tracks"))
    index = Index(
        data_set=passport["name"],
        split=split,
        sample_rate=passport["sample_rate"],
        classes=tuple(passport["labels"]),
        shards=tuple(paths),
        stamps=stamps,
        names=names,
        tracks=tracks,
        state=np.full(len(names), UNREAD, np.uint8),
        **{key: columns[key] for key in COLUMNS},
    )
    return index if whole else index.without(read_exclude(folder).get(split, set()))


def _present(folder: Place, split: str, listed: Collection[str]) -> list[Place]:
    """The paths of the listed shards. Raises `UserError` if one is missing, or another one is there."""
    there = {path.name for path in folder.glob(f"*-{split}.tfrecord-*")}
    if missing := set(listed) - there:
        raise UserError(
            f"{folder} lacks {min(missing)}, {len(missing)} of {len(listed)} shards of split {split!r}: {tfrecord.RESTORE}"
        )
    if strange := there - set(listed):
        raise UserError(f"{folder} holds {min(strange)}, which is not a shard of its passport: take it away, or {REMEDY}")
    return [folder / name for name in listed]


def digest(indices: Iterable[Index]) -> str:
    """A hash of the names, lengths and checksums of all clips, in their order."""
    total = hashlib.sha256()
    for index in indices:
        total.update("\0".join((index.data_set, index.split, *index.names)).encode())
        total.update(index.length.tobytes() + index.checksum.tobytes())
    return total.hexdigest()


def scan(paths: Sequence[Path], classes: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of an index, read from shards without their audio. Raises `UserError` if a shard is damaged."""
    rows = sorted((row[0], number, row) for number, path in enumerate(paths) for row in _rows(path, len(classes)))
    tracks = sorted({row[1] for _, _, row in rows})
    track_row = {track: i for i, track in enumerate(tracks)}
    labels = np.zeros((len(rows), len(classes)), np.uint8)
    for i, (_, _, row) in enumerate(rows):
        labels[i, row[2]] = 1
    column = [np.array([row[place] for _, _, row in rows]) for place in range(3, 9)]
    return {
        "names": np.frombuffer("\0".join(name for name, _, _ in rows).encode(), np.uint8),
        "tracks": np.frombuffer("\0".join(tracks).encode(), np.uint8),
        "track": np.array([track_row[row[1]] for _, _, row in rows], np.int32),
        "shard": np.array([number for _, number, _ in rows], np.int32),
        "maximum": column[0].astype(np.float32),
        "offset": column[1].astype(np.int64),
        "length": column[2].astype(np.int32),
        "record": column[3].astype(np.int64),
        "size": column[4].astype(np.int64),
        "checksum": column[5].astype(np.uint32),
        "labels": labels,
        "first_label": np.array([row[2][0] if row[2] else -1 for _, _, row in rows], np.int32),
    }


Row = tuple[str, str, list[int], float, int, int, int, int, int]


def _rows(shard: Path, classes: int) -> Iterator[Row]:
    """Yield (name, track, labels, maximum, offset, length, record, size, checksum) of each clip of a shard."""
    for data, start, stop, checksum, features in tfrecord.examples(shard):
        try:
            first, last = tfrecord.bytes_span(data, features["audio"])
            maximum = tfrecord.floats(data, features["maximum"])[0]
            labels = tfrecord.integers(data, features["labels"]) if "labels" in features else []
            name, track = (tfrecord.text(data, features[key]) for key in ("name", "track"))
            if max(labels, default=0) >= classes:
                raise ValueError(f"class {max(labels)} of {classes}")
        except (ValueError, IndexError, KeyError) as error:
            raise tfrecord.damaged(shard, start - 12, error) from error
        yield name, track, labels, maximum, first, (last - first) // 2, start, stop - start, checksum


def digests(columns: Mapping[str, np.ndarray], count: int) -> list[str]:
    """A digest of the rows of each of `count` shards: of everything that an index holds."""
    names, tracks = (_texts(columns[key]) for key in ("names", "tracks"))
    found = []
    for number in range(count):
        rows = np.flatnonzero(columns["shard"] == number)
        rows = rows[np.argsort(columns["record"][rows])]
        total = hashlib.sha256("\0".join(f"{names[row]}\0{tracks[columns['track'][row]]}" for row in rows).encode())
        for key in COLUMNS:
            if key not in ("track", "shard"):  # numbers that depend on the other shards
                total.update(columns[key][rows].tobytes())
        found.append(total.hexdigest())
    return found


def _texts(column: np.ndarray) -> tuple[str, ...]:
    return tuple(column.tobytes().decode().split("\0")) if len(column) else ()


def _stamp(file: int | Place) -> tuple[int, int, int]:
    if isinstance(file, Remote):
        return 0, 0, 0
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _read_cache(cache: Place, stamps: np.ndarray, expected: list[str]) -> dict[str, np.ndarray] | None:
    """The columns of a cached index, or None if it is missing, damaged, or of other shards than those with these digests.

    In a bucket the stamps of the shards are not compared, because a copy has others.
    """
    try:
        opening = io.BytesIO(cache.read_bytes()) if isinstance(cache, Remote) else open(cache, "rb")  # noqa: SIM115
        with opening as opened, np.load(opened) as file:  # NumPy does not close a damaged file
            columns = {key: file[key] for key in ("names", "tracks", "stamps", *COLUMNS)}
        same = np.array_equal(columns.pop("stamps"), stamps) or isinstance(cache, Remote)
        whole = same and digests(columns, len(stamps)) == expected
    except UserError:  # a bucket that cannot be read
        raise
    except Exception:  # NumPy and zipfile raise many types for a damaged file
        return None
    return columns if whole else None


def _write_cache(cache: Path, columns: Mapping[str, np.ndarray]) -> None:
    # A read-only data set works too; it only takes longer to open.
    with contextlib.suppress(OSError), write_whole(cache) as file:
        np.savez(file, allow_pickle=False, **columns)
