"""Reading TFRecord files of `tf.train.Example` without TensorFlow. `prepare/tfrecord.py` writes them."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genre_jax.console import UserError

Span = tuple[int, int, int]  # of a list of values: kind (1 bytes, 2 float, 3 int64), first byte, end


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
    """Yield (field number, start, end) of each length-delimited field of a protobuf message."""
    while at < end:
        tag, at = _varint(data, at)
        if tag & 7 != 2:
            raise ValueError(f"wire type {tag & 7}")
        size, at = _varint(data, at)
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


def examples(shard: Path) -> Iterator[tuple[mmap.mmap, dict[str, Span]]]:
    """Yield, for each record of a shard, the open file and feature name → (kind, first byte, end) of its list of values."""
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
