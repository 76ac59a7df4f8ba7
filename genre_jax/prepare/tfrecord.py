"""Write clips as records of TFRecord files, the shards. `data/shards.py` describes the format and reads it."""

import contextlib
import dataclasses
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from genre_jax.data.tfrecord import masked_crc32c

_BYTES, _FLOAT, _INT64 = 1, 2, 3  # field numbers of tf.train.Feature


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip to be written: `audio` int16 (samples,), `labels` class numbers, `maximum` the largest sample in [-1, 1]."""

    name: str
    track: str
    labels: tuple[int, ...]
    audio: np.ndarray
    maximum: float


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(field: int, payload: bytes) -> bytes:
    return _encode_varint(field << 3 | 2) + _encode_varint(len(payload)) + payload


def encode_example(clip: Clip) -> bytes:
    """Serialise a clip as a `tf.train.Example`."""
    values = {
        "audio": (_BYTES, _delimited(1, clip.audio.astype("<i2").tobytes())),
        "labels": (_INT64, _delimited(1, b"".join(map(_encode_varint, clip.labels)))),
        "name": (_BYTES, _delimited(1, clip.name.encode())),
        "track": (_BYTES, _delimited(1, clip.track.encode())),
        "maximum": (_FLOAT, _delimited(1, struct.pack("<f", clip.maximum))),
    }
    entries = (
        _delimited(1, _delimited(1, key.encode()) + _delimited(2, _delimited(kind, value)))
        for key, (kind, value) in values.items()
    )
    return _delimited(1, b"".join(entries))


def write_shards(folder: Path, data_set: str, split: str, clips: Iterable[Clip], num_shards: int = 1) -> None:
    """Write the clips of one split in turn into `num_shards` shards, named as in tensorflow-datasets."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{data_set}-{split}.tfrecord-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "wb")) for path in paths]
        for number, clip in enumerate(clips):
            files[number % num_shards].write(frame(clip))


def frame(clip: Clip) -> bytes:
    """Returns the record of a clip in a TFRecord file: size, checksum of the size, example, checksum of the example."""
    record = encode_example(clip)
    size = struct.pack("<Q", len(record))
    return b"".join([size, struct.pack("<I", masked_crc32c(size)), record, struct.pack("<I", masked_crc32c(record))])
