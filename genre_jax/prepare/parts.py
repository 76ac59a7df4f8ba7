"""Shards in the making: a plan of fixed parts, each written once, so that a `prepare` that is killed can go on.

A part is a run of the items of a split and becomes one shard. Its records are written first, then a JSON file that tells
what became of each item: where that lies and the sizes agree, the part is done. Items are ordered by a hash of their
file's name, so that a shard is a random sample and containers are read in one go. Parts depend on the source alone, not
on workers, machines or interruptions: the same bytes come out whatever happened on the way.
"""

import contextlib
import dataclasses
import errno
import fcntl
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

from genre_jax.atomic import write_text
from genre_jax.console import UserError, say
from genre_jax.data import locate
from genre_jax.datasets.types import Item, Source
from genre_jax.prepare import tfrecord
from genre_jax.prepare.workers import Limits, Renderer, Result

SHARD_BYTES = 128 << 20
PROBES = 16  # clips rendered beforehand where nothing tells how long they are
_UNMEASURED = 256  # clips a shard where nothing was measured
DECODERS = ("soxr", "soundfile", "av", "numpy")  # what the samples depend on


@dataclasses.dataclass(frozen=True)
class Part:
    """A shard of `split` in the making: `items` in order, and the file `path` of its records."""

    split: str
    items: tuple[Item, ...]
    path: Path

    def told(self) -> dict | None:
        """What became of the items, as `write` left it; None where the part is not done."""
        try:
            told = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
            return told if self.path.stat().st_size == told["bytes"] else None
        except (OSError, ValueError):
            return None


def plan(scratch: Path, splits: Mapping[str, list[Item]], clip_bytes: int) -> list[Part]:
    """The parts of all splits, about `SHARD_BYTES` each where a clip comes to `clip_bytes` (0: not known)."""
    size = max(1, SHARD_BYTES // clip_bytes) if clip_bytes else _UNMEASURED
    parts = []
    for split, items in splits.items():
        ordered = sorted(items, key=_rank)
        for number, start in enumerate(range(0, len(ordered), size)):
            path = scratch / "parts" / f"{split}-{number:05d}.records"
            parts.append(Part(split, tuple(ordered[start : start + size]), path))
    return parts


def _rank(item: Item) -> tuple:
    """Files by the hash of their names, wherever they lie; what is in one file in the order of the file."""
    digest = hashlib.sha256(os.path.basename(item.path or item.name).encode("utf-8", "surrogateescape")).digest()
    return digest, item.path or "", item.member or (0, 0), item.start, item.name


def write(part: Part, labels: tuple[str, ...], results: Iterable[tuple[Item, Result]]) -> None:
    """Write the records of a part, then what became of its items. Raises `UserError` where the disk is full."""
    number = {label: number for number, label in enumerate(labels)}
    files, quarantined, size = [], [], 0
    part.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part.path, "wb") as file:
            for item, result in results:
                if isinstance(result, str):
                    quarantined.append((item.name, result))
                    continue
                numbers = tuple(number[label] for label in result.labels)
                size += file.write(
                    tfrecord.frame(tfrecord.Clip(item.name, item.track, numbers, result.pcm, result.facts.maximum))
                )
                files.append((item.name, numbers, dataclasses.astuple(result.facts)))
        told = json.dumps({"bytes": size, "files": files, "quarantined": quarantined}, ensure_ascii=False)
        write_text(part.path.with_suffix(".json"), told)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"the disk of {part.path} is full: make room, and the same command goes on") from error


def clip_bytes(items: list[Item], sample_rate: int, rendered: Renderer) -> int:
    """The mean size of a clip in its shard: from the durations where all are known, else from a few clips, rendered (0
    where none of these can be used, or where there are few).
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
    """Say what the clips still to be written come to. Raises `UserError` where the disk has no room for them."""
    need, free = clips * clip_bytes, shutil.disk_usage(data_dir).free
    what = f"{clips} clips of about {clip_bytes / 2 / sample_rate:.1f} s at {sample_rate} Hz take about {_gigabytes(need)}"
    if need > free:
        raise UserError(f"{what}, and {data_dir} has {_gigabytes(free)} free: make room, or choose another --data_dir")
    say(f"{what} in {data_dir} ({_gigabytes(free)} free)")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def fingerprint(source: Source, splits: Mapping[str, list[Item]], sample_rate: int, limits: Limits) -> str:
    """A hash of all that the bytes of the shards depend on; files count with their sizes and times."""
    digest = hashlib.sha256()
    about = (locate.VERSION, SHARD_BYTES, sample_rate, source.render.__module__, source.render.__qualname__, limits)
    digest.update(repr((about, source.labels, sorted(versions(DECODERS).items()))).encode())
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
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


# ---------------------------------------------------------------- all or nothing


@contextlib.contextmanager
def staging(data_dir: Path, label: str) -> Iterator[Path]:
    """A hidden folder to build in, locked against a second `prepare`; it outlives an interruption where parts are done."""
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = data_dir / f".preparing-{label}"
    with open(data_dir / f".preparing-{label}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another prepare of {label} is running in {data_dir}: wait for it to end") from None
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        except BaseException:
            if any(folder.glob("parts/*.json")):
                say(f"what is done lies in {folder}: the same command goes on from there")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def resume(scratch: Path, key: str) -> int | None:
    """The bytes a clip that the interrupted `prepare` of the same source planned with, its parts kept; else None, with
    `scratch` cleared. `key` is the `fingerprint`.
    """
    try:
        planned = json.loads((scratch / "plan.json").read_text())
        if planned["key"] == key:
            return planned["clip_bytes"]
    except (OSError, ValueError):
        pass
    for path in scratch.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def keep_plan(scratch: Path, key: str, clip_bytes: int) -> None:
    """Leave what `resume` reads."""
    (scratch / "plan.json").write_text(json.dumps({"key": key, "clip_bytes": clip_bytes}))


# ---------------------------------------------------------------- the finished data set


def assemble(folder: Path, name: str, labels: tuple[str, ...], parts: Iterable[Part]) -> None:
    """Move the records of the parts into `folder` as numbered shards, and describe them as tensorflow-datasets does."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sizes: dict[str, list[tuple[int, int]]] = {}
    for split, members in itertools.groupby(parts, lambda part: part.split):
        full = [(part, told) for part in members if (told := part.told()) and told["files"]]
        for number, (part, told) in enumerate(full):
            os.replace(part.path, folder / f"{name}-{split}.tfrecord-{number:05d}-of-{len(full):05d}")
            sizes.setdefault(split, []).append((len(told["files"]), told["bytes"]))
    with contextlib.suppress(ImportError):  # where TensorFlow is not installed, our own reader needs no description
        _describe(folder, name, labels, sizes)


def _describe(folder: Path, name: str, labels: tuple[str, ...], sizes: Mapping[str, list[tuple[int, int]]]) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow prints four lines about it
    import tensorflow  # noqa: F401  tensorflow-datasets imports without it and fails later
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
    """No prints and log lines of tensorflow-datasets."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
