"""Write shards in parts, so that an interrupted `prepare` can be resumed.

A part is a sequence of items of one split, and becomes one shard. `write` writes the records of a part first, and then a
JSON file with the outcome of each item. A part is done if the JSON file exists and states the size of the record file.
Items are ordered by a hash of their file name. Therefore each shard is a random sample of its split, and each container is
read from start to end. The parts depend on the source alone: neither workers nor machines nor interruptions change a byte
of the shards.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import io
import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from genre_jax import lock
from genre_jax.atomic import named, write_text
from genre_jax.console import UserError, say
from genre_jax.data import locate
from genre_jax.datasets.types import Item, Source
from genre_jax.prepare import tfrecord
from genre_jax.prepare.workers import Limits, Renderer, Result

SHARD_BYTES = 128 << 20
PROBES = 16  # clips that are decoded in advance to measure their mean length
_UNMEASURED = 256  # clips per shard if the mean length is unknown
DECODERS = ("soxr", "soundfile", "av", "numpy", "scipy")  # packages whose version may change the samples


@dataclasses.dataclass(frozen=True)
class Part:
    """A shard before it is complete: its `split`, its `items` in order, and the `path` of its record file."""

    split: str
    items: tuple[Item, ...]
    path: Path

    def outcome(self) -> dict | None:
        """Returns the outcome of the items that `write` has stored, or None if the part is not done.

        The outcome is {"bytes": …, "files": [(name, class numbers, facts), …], "quarantined": [(name, reason), …]}.
        """
        try:
            outcome = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
            return outcome if self.path.stat().st_size == outcome["bytes"] else None
        except (OSError, ValueError, LookupError, TypeError):  # missing or damaged
            return None


def plan(scratch: Path, splits: Mapping[str, list[Item]], clip_bytes: int) -> list[Part]:
    """Returns the parts of all splits. With a mean clip size of `clip_bytes` (0: unknown), a part has about `SHARD_BYTES`."""
    size = max(1, SHARD_BYTES // clip_bytes) if clip_bytes else _UNMEASURED
    parts = []
    for split, items in splits.items():
        ordered = sorted(items, key=_rank)
        for number, start in enumerate(range(0, len(ordered), size)):
            path = scratch / "parts" / f"{split}-{number:05d}.records"
            parts.append(Part(split, tuple(ordered[start : start + size]), path))
    return parts


def _rank(item: Item) -> tuple:
    """Returns the sort key of an item: the hash of its file name without the folder, then its position in the file."""
    digest = hashlib.sha256(os.path.basename(item.path or item.name).encode("utf-8", "surrogateescape")).digest()
    return digest, item.path or "", item.member or (0, 0), item.start, item.name


def write(part: Part, labels: tuple[str, ...], results: Iterable[tuple[Item, Result]]) -> None:
    """Write the records of a part, then the outcome of its items."""
    number = {label: number for number, label in enumerate(labels)}
    files, quarantined, size = [], [], 0
    part.path.parent.mkdir(parents=True, exist_ok=True)
    with named(part.path), open(part.path, "wb") as file:
        for item, result in results:
            if isinstance(result, str):
                quarantined.append((item.name, result))
                continue
            numbers = tuple(number[label] for label in result.labels)
            size += file.write(tfrecord.frame(tfrecord.Clip(item.name, item.track, numbers, result.pcm, result.facts.maximum)))
            files.append((item.name, numbers, dataclasses.astuple(result.facts)))
    outcome = json.dumps({"bytes": size, "files": files, "quarantined": quarantined}, ensure_ascii=False)
    write_text(part.path.with_suffix(".json"), outcome)


def clip_bytes(items: list[Item], sample_rate: int, rendered: Renderer) -> int:
    """Returns the mean size of a clip in bytes, from the durations if all are known, otherwise from a few decoded clips.

    Returns 0 if there are at most `PROBES` items, or if none of the decoded clips can be used.
    """
    if all(item.duration is not None for item in items):
        return round(2 * sample_rate * sum(item.duration or 0.0 for item in items) / len(items))
    if len(items) <= PROBES:
        return 0
    probes = min(PROBES, math.ceil(len(items) / PROBES))
    sizes = [
        result.pcm.nbytes for _, result in rendered(items[:: len(items) // probes][:probes]) if not isinstance(result, str)
    ]
    return round(np.mean(sizes)) if sizes else 0


def check_disk(data_dir: Path, clips: int, clip_bytes: int, sample_rate: int) -> None:
    """Print the size of the clips that are still to be written. Raises `UserError` if the disk has too little space."""
    need, free = clips * clip_bytes, shutil.disk_usage(data_dir).free
    what = f"{clips} clips of about {clip_bytes / 2 / sample_rate:.1f} s at {sample_rate} Hz take about {_gigabytes(need)}"
    if need > free:
        raise UserError(
            f"{what}, but {data_dir} has only {_gigabytes(free)} free: free some space or choose another --data_dir"
        )
    say(f"{what} in {data_dir} ({_gigabytes(free)} free)")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def fingerprint(source: Source, splits: Mapping[str, list[Item]], sample_rate: int, limits: Limits) -> str:
    """Returns a hash of everything that the bytes of the shards depend on, with the size and time of each source file."""
    digest = hashlib.sha256()
    about = (locate.VERSION, SHARD_BYTES, sample_rate, source.render.__module__, source.render.__qualname__, limits)
    digest.update(repr((about, source.labels, source.conditioning, sorted(versions(DECODERS).items()))).encode())
    stamps: dict[str, tuple[int, int]] = {}
    for split, items in splits.items():
        for item in items:
            if item.path is not None and item.path not in stamps:
                with contextlib.suppress(OSError):
                    stat = os.stat(item.path)
                    stamps[item.path] = (stat.st_size, stat.st_mtime_ns)
            digest.update(repr((split, item, stamps.get(item.path or ""))).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns {package: version} of the packages that are installed."""
    installed = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


# ---------------------------------------------------------------- all or nothing


@contextlib.contextmanager
def staging(data_dir: Path, label: str) -> Iterator[Path]:
    """Yield a hidden folder to build in, and lock it against a second `prepare`.

    The folder is removed at the end. After an interruption it is kept if at least one part is done.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = data_dir / f".preparing-{label}"
    message = f"another prepare of {label} is running in {data_dir}: wait until it ends"
    with lock.hold(data_dir / f".preparing-{label}.lock", message):
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        except BaseException:
            if any(folder.glob("parts/*.json")):
                say(f"the finished shards are kept in {folder}: run the same command again to resume")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def resume(scratch: Path, key: str) -> int | None:
    """Returns the `clip_bytes` of an interrupted `prepare` with the same `key` (a `fingerprint`), whose parts can be reused.

    If there is none, clears the folder `scratch` and returns None.
    """
    try:
        stored = json.loads((scratch / "plan.json").read_text())
        if stored["key"] == key:
            return stored["clip_bytes"]
    except (OSError, ValueError, LookupError, TypeError):  # missing or damaged
        pass
    for path in scratch.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def keep_plan(scratch: Path, key: str, clip_bytes: int) -> None:
    """Write the file that `resume` reads."""
    write_text(scratch / "plan.json", json.dumps({"key": key, "clip_bytes": clip_bytes}))


# ---------------------------------------------------------------- the finished data set


def describe(folder: Path, name: str, labels: tuple[str, ...], parts: Iterable[Part]) -> None:
    """Make `folder`, and write the metadata of tensorflow-datasets into it, if tensorflow-datasets is installed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sizes = {
        split: [(len(outcome["files"]), outcome["bytes"]) for _, outcome in full]
        for split, full in _full(parts).items()
        if full
    }
    with contextlib.suppress(ImportError), named(folder):  # `data/shards.py` needs no metadata, so TensorFlow is optional
        _describe(folder, name, labels, sizes)


def assemble(folder: Path, name: str, parts: Iterable[Part]) -> None:
    """Move the record files of the parts into `folder` as numbered shards."""
    for places in shards(name, parts).values():
        for shard, path in places.items():
            os.replace(path, folder / shard)


def shards(name: str, parts: Iterable[Part]) -> dict[str, dict[str, Path]]:
    """Returns {split: {file name of a shard: its record file}} of the parts with at least one clip."""
    return {
        split: {f"{name}-{split}.tfrecord-{n:05d}-of-{len(full):05d}": part.path for n, (part, _) in enumerate(full)}
        for split, full in _full(parts).items()
    }


def _full(parts: Iterable[Part]) -> dict[str, list[tuple[Part, dict]]]:
    """Returns {split: [(part, outcome)]} of the parts with at least one clip."""
    return {
        split: [(part, outcome) for part in members if (outcome := part.outcome()) and outcome["files"]]
        for split, members in itertools.groupby(parts, lambda part: part.split)
    }


def _describe(folder: Path, name: str, labels: tuple[str, ...], sizes: Mapping[str, list[tuple[int, int]]]) -> None:
    """Write the metadata files with which tensorflow-datasets can read the shards; `sizes`: split → (clips, bytes)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # otherwise TensorFlow prints four lines about oneDNN
    import tensorflow  # noqa: F401  without TensorFlow, tensorflow-datasets can be imported but fails later
    import tensorflow_datasets as tfds

    features = {
        "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
        "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(labels))),
        "name": tfds.features.Text(),
        "track": tfds.features.Text(),
        "maximum": tfds.features.Scalar(np.float32),
    }
    version = tfds.core.Version(locate.VERSION)
    identity = tfds.core.DatasetIdentity(name, version, str(folder), module_name="", config_name=folder.parent.name)
    template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name=name, filetype_suffix="tfrecord")
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[clips for clips, _ in counts],
            num_bytes=sum(size for _, size in counts),
            filename_template=template.replace(split=split),
        )
        for split, counts in sizes.items()
    ]
    with _quiet():
        info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
        info.set_file_format("tfrecord")
        info.set_splits(tfds.core.splits.SplitDict(splits))
        info.write_to_directory(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what tensorflow-datasets prints and logs."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
