"""Read `gtzan` and `gtzan_music_speech` as tensorflow-datasets has prepared them, without TensorFlow.

Both data sets hold one record per file, with `audio` as int64 samples at 22,050 Hz, `audio/filename` and `label`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genre_jax.console import UserError
from genre_jax.data import tfrecord
from genre_jax.datasets.types import Item, Render
from genre_jax.prepare.audio import Audio, AudioError, Format, resample

RATE = 22_050  # Hz, fixed by the builders of both data sets in tensorflow-datasets
FEATURES = ("audio", "audio/filename", "label")


def find(source: Path, name: str, labels: tuple[str, ...]) -> list[Item] | None:
    """Returns one item per record of the data set `name` with the class names `labels`.

    `source` is the data_dir of tensorflow-datasets, or the folder of the data set or of one version of it. Returns None if
    the data set is not there. The track of an item is the file name without extension. Raises `UserError` if the records
    have other features.
    """
    folders = [source, *sorted(source.glob("*/"), reverse=True), *sorted(source.glob(f"{name}/*/"), reverse=True)]
    folder = next((folder for folder in folders if _holds(folder, name)), None)
    if folder is None:
        return None
    paths = sorted(folder.glob(f"{name}-*.tfrecord-*"))
    if not paths:
        raise UserError(
            f"{folder} holds no {name}-*.tfrecord-* files: prepare it in tensorflow-datasets with file_format='tfrecord'"
        )
    items: list[Item] = []
    for shard in paths:
        try:
            items += _items(shard, name, labels)
        except (ValueError, IndexError):
            raise UserError(f"{shard} is damaged: prepare {name} in tensorflow-datasets again") from None
    return items


def _items(shard: Path, name: str, labels: tuple[str, ...]) -> Iterator[Item]:
    """Yield the items of one file of records."""
    for data, *_, example in tfrecord.examples(shard):
        if not set(FEATURES) <= example.keys():
            raise UserError(
                f"{shard} holds the features {', '.join(sorted(example))}, expected {', '.join(FEATURES)} for {name}"
            )
        _, first, end = example["audio"]
        file = tfrecord.text(data, example["audio/filename"])
        label = labels[tfrecord.integers(data, example["label"])[0]]
        yield Item(file, Path(file).stem, (label,), path=str(shard), member=(first, end - first))


def _holds(folder: Path, name: str) -> bool:
    """Whether `folder` holds one version of the data set `name`."""
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(info, dict) and info.get("name") == name


def render(item: Item, sample_rate: int) -> Render:
    """Returns the audio of the clip in a record. Raises `AudioError` if a sample of the record is outside 16 bits."""
    assert item.path is not None and item.member is not None
    with open(item.path, "rb") as file:
        file.seek(item.member[0])
        samples = int64_list(file.read(item.member[1]))
    if len(samples) and not -32768 <= samples.min() <= samples.max() <= 32767:
        raise AudioError(
            f"the record holds samples from {samples.min()} to {samples.max()}, where 16 bits allow -32768 to 32767"
        )
    first = round(item.start * RATE)
    last = len(samples) if item.duration is None else first + round(item.duration * RATE)
    mono = samples[first:last].astype(np.float32) / np.float32(32768)
    return Render(Audio(resample(mono, RATE, sample_rate), sample_rate, Format("tfds/int64", RATE, 1)))


def int64_list(data: bytes) -> np.ndarray:
    """Returns the values of a serialised `tf.train.Int64List` with one packed field, as int64 (values,)."""
    raw = np.frombuffer(data, np.uint8)
    raw = raw[1 + int(np.argmax(raw[1:] < 0x80)) + 1 :] if len(raw) else raw  # skip the field number and the size
    if not len(raw):
        return np.zeros(0, np.int64)
    last = np.flatnonzero(raw < 0x80)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(raw)) - np.repeat(first, last - first + 1)
    parts = (raw & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, first).view(np.int64)
