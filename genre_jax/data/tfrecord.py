"""Reading TFRecord files of `tf.train.Example` without TensorFlow. `prepare/tfrecord.py` writes them.

A record is the size of the example (8 bytes), the checksum of the size (4), the example, and the checksum of the example (4).
"""

import importlib.util
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genre_jax.console import UserError

Span = tuple[int, int, int]  # of a list of values: kind (1 bytes, 2 float, 3 int64), first byte, end
RESTORE = "restore the file, or prepare the data set again with --overwrite"
HAS_CHECKSUM = importlib.util.find_spec("google_crc32c") is not None  # training runs without this package, too


class Record(NamedTuple):
    """A record of an open file: first byte and end of the example in `data`, its stored CRC-32C, and its features."""

    data: mmap.mmap
    start: int
    stop: int
    checksum: int
    features: dict[str, Span]


def masked_crc32c(data: bytes | memoryview) -> int:
    """Returns the checksum of the TFRecord format: CRC-32C, rotated and offset. It needs the package google-crc32c."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _unmasked(checksum: int) -> int:
    """The CRC-32C in a checksum of the TFRecord format."""
    rotated = (checksum - 0xA282EAD8) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("an integer has more than 64 bits")


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end) of each length-delimited field of a protobuf message."""
    while at < end:
        tag, at = _varint(data, at)
        if tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7}")
        size, at = _varint(data, at)
        if at + size > end:
            raise ValueError("a field ends outside of the message")
        yield tag >> 3, at, at + size
        at += size


def _parse_example(data: mmap.mmap, at: int, end: int) -> dict[str, Span]:
    """Map each feature of a serialised `tf.train.Example` to (kind, start, end) of its list of values."""
    lists = {}
    for _, features_at, features_end in _fields(data, at, end):
        for _, entry_at, entry_end in _fields(data, features_at, features_end):
            (_, key_at, key_end), (_, value_at, value_end) = _fields(data, entry_at, entry_end)
            for kind, list_at, list_end in _fields(data, value_at, value_end):
                lists[data[key_at:key_end].decode()] = (kind, list_at, list_end)
    return lists


def bytes_span(data: mmap.mmap, where: Span) -> tuple[int, int]:
    """(first byte, end) of the first value of a list of bytes."""
    for _, at, end in _fields(data, where[1], where[2]):
        return at, end
    return where[1], where[1]


def text(data: mmap.mmap, where: Span) -> str:
    """The first value of a list of bytes, as text."""
    at, end = bytes_span(data, where)
    return data[at:end].decode()


def floats(data: mmap.mmap, where: Span) -> list[float]:
    """The values of a list of floats."""
    return [v for _, at, end in _fields(data, where[1], where[2]) for v in np.frombuffer(data[at:end], "<f4").tolist()]


def integers(data: mmap.mmap, where: Span) -> list[int]:
    """The values of a list of non-negative int64."""
    values = []
    for _, at, end in _fields(data, where[1], where[2]):
        while at < end:
            value, at = _varint(data, at)
            values.append(value)
    return values


def damaged(shard: Path, at: int, reason: object) -> UserError:
    """The error for a record that starts at byte `at` and cannot be read."""
    return UserError(f"shard {shard} is damaged in the record at byte {at} ({reason}): {RESTORE}")


def examples(shard: Path) -> Iterator[Record]:
    """Yield the records of a shard. Raises `UserError` if the file is cut off or damaged; the audio is not verified here."""
    if shard.stat().st_size == 0:
        return
    with open(shard, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        while at < len(data):
            header, start = data[at : at + 8], at + 12
            stop = start + int.from_bytes(header, "little")
            if stop + 4 > len(data):
                raise damaged(shard, at, "it is cut off")
            stored, checksum = (int.from_bytes(data[place : place + 4], "little") for place in (at + 8, stop))
            if HAS_CHECKSUM and stored != masked_crc32c(header):
                raise damaged(shard, at, "its size is wrong")
            try:
                features = _parse_example(data, start, stop)
            except (ValueError, IndexError) as error:
                raise damaged(shard, at, error) from error
            yield Record(data, start, stop, _unmasked(checksum), features)
            at = stop + 4
