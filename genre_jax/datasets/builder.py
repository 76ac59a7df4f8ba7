"""Any data set to shards: split, render, write through tensorflow-datasets, and leave a passport.

Everything is written into a hidden folder beside the data sets and moved into place at the end, so a `prepare` that is
killed leaves no half data set.
"""

import contextlib
import csv
import dataclasses
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
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from genre_jax import records
from genre_jax.console import UserError
from genre_jax.datasets.rendering import Facts, Limits, Renderer, renderer
from genre_jax.datasets.source import Item, Source

SHARD_BYTES = 128 << 20
SPLITS = ("train", "validation", "test")
FILE_COLUMNS = ("name", "split", *(field.name for field in dataclasses.fields(Facts)))
_WRITERS = ("soxr", "soundfile", "av", "numpy", "tensorflow", "tensorflow-cpu", "tensorflow-datasets")


# ---------------------------------------------------------------- splits


def split_of(track: str, validation: float, test: float) -> str:
    """The split of a track, from the hash of its name alone: adding or removing other tracks moves nothing.

    Every class therefore gets the same shares in expectation, but exact shares only in the limit: rounding them would
    have to move tracks that are already placed.
    """
    position = int.from_bytes(hashlib.sha256(track.encode()).digest()[:8], "big") / 2**64
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def assign_splits(items: Iterable[Item], validation: float, test: float) -> dict[str, list[Item]]:
    """Split → items, none where chance gave none. A split given for one clip of a track holds for all its clips; else
    `split_of` decides.

    Raises `UserError` where a track is given two splits or a name is used twice.
    """
    items = list(items)
    names: set[str] = set()
    given: dict[str, str] = {}
    for item in items:
        if item.name in names:
            raise UserError(f"two clips are called {item.name!r}: names are unique in a data set")
        names.add(item.name)
        if item.split and given.setdefault(item.track, item.split) != item.split:
            raise UserError(
                f"track {item.track!r} is in both split {given[item.track]!r} and split {item.split!r}: "
                "clips of one track belong to one split"
            )
    open_ended = any(item.track not in given for item in items)
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    splits: dict[str, list[Item]] = {split: [] for split in SPLITS if open_ended and shares[split]}
    for item in items:
        split = given.get(item.track) or split_of(item.track, validation, test)
        splits.setdefault(split, []).append(item)
    return {split: splits[split] for split in [*SPLITS, *splits] if split in splits}


# ---------------------------------------------------------------- what is learnt on the way


class Ledger:
    """Keeps account of every clip while it passes from the workers to the shards."""

    def __init__(self, source: Source, rendered: Renderer) -> None:
        self._source, self._rendered = source, rendered
        self._number = {label: number for number, label in enumerate(source.labels)}
        self.files: list[tuple] = []
        self.quarantined: list[tuple[str, str]] = []
        self.classes: dict[str, dict[str, int]] = {}

    def clips(self, split: str, items: Iterable[Item]) -> Iterator[records.Clip]:
        """The usable clips of a split, as they are written."""
        for item, result in self._rendered(items):
            if isinstance(result, str):
                self.quarantined.append((item.name, result))
                continue
            counts = self.classes.setdefault(split, dict.fromkeys(self._source.labels, 0))
            for label in result.labels:
                counts[label] += 1
            self.files.append((item.name, split, *dataclasses.astuple(result.facts)))
            labels = tuple(self._number[label] for label in result.labels)
            yield records.Clip(item.name, item.track, labels, result.pcm, result.facts.maximum)

    def passport(self, name: str, sample_rate: int, planned: list[str]) -> dict:
        """The content of passport.json; `files` is a table, because it may have 200,000 rows."""
        rows = sorted(self.files)
        facts = [Facts(*row[2:]) for row in rows]
        seconds = sum(fact.seconds for fact in facts)
        splits = {
            split: {
                "clips": sum(row[1] == split for row in rows),
                "seconds": round(sum(f.seconds for f, row in zip(facts, rows, strict=True) if row[1] == split), 3),
                "missing": self._source.missing.get(split, 0),
                "classes": counts,
            }
            for split, counts in self.classes.items()
        }
        return {
            "name": name,
            "dataset": self._source.kind,
            "sample_rate": sample_rate,
            "labels": list(self._source.labels),
            "labels_sha256": hashlib.sha256("\n".join(self._source.labels).encode()).hexdigest(),
            "splits": splits,
            "empty_splits": [split for split in planned if split not in splits],
            "totals": {
                "clips": len(rows),
                "seconds": round(seconds, 3),
                "scaled": sum(fact.scaled for fact in facts),
                "quarantined": len(self.quarantined),
                "missing": sum(self._source.missing.values()),
            },
            "peak": max(fact.peak for fact in facts),
            "rms": math.sqrt(sum(fact.rms**2 * fact.seconds for fact in facts) / seconds),
            "notes": list(self._source.notes),
            "created_with": dict(_versions()),
            "files": {"columns": list(FILE_COLUMNS), "rows": [[_short(cell) for cell in row] for row in rows]},
        }


def _short(cell: object) -> object:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def _versions() -> Iterator[tuple[str, str]]:
    for package in _WRITERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)


# ---------------------------------------------------------------- the build


def build(
    source: Source,
    data_dir: Path,
    name: str,
    sample_rate: int,
    *,
    validation: float,
    test: float,
    workers: int,
    limits: Limits,
) -> Path:
    """Make the data set `name` from `source`, in place of one that is there; returns its folder."""
    splits = assign_splits(source.items, validation, test)
    with (
        staging(data_dir, f"{name}-{sample_rate}hz") as scratch,
        renderer(source.render, sample_rate, workers, limits) as rendered,
    ):
        ledger = Ledger(source, _with_progress(rendered, f"prepare {name}", sum(map(len, splits.values()))))
        folder = records.directory(scratch, name, sample_rate)
        parts = list(_parts(ledger, splits))
        if not parts:
            (path, reason), count = ledger.quarantined[0], len(ledger.quarantined)
            raise UserError(f"none of the {count} clips can be used; the first is {path!r}: {reason}")
        _write(folder, scratch, name, source.labels, parts)
        _write_quarantine(folder / "quarantine.csv", ledger.quarantined)
        (folder / "passport.json").write_text(json.dumps(ledger.passport(name, sample_rate, list(splits)), ensure_ascii=False))
        final = records.directory(data_dir, name, sample_rate)
        _move_into_place(folder, final, scratch)
    return final


def _with_progress(rendered: Renderer, title: str, total: int) -> Renderer:
    """The same renderer, which counts its clips on one bar (rate, time left) on standard error."""
    try:
        from tqdm import tqdm
    except ImportError:
        return rendered
    interval = 0.3 if sys.stderr.isatty() else 15.0  # a log file gets a line now and then
    bar = tqdm(desc=title, total=total, unit="clip", mininterval=interval, dynamic_ncols=True)

    def counted(items: Iterable[Item]) -> Iterator:
        for pair in rendered(items):
            bar.update()
            if bar.n == bar.total:
                bar.close()
            yield pair

    return counted


@dataclasses.dataclass(frozen=True)
class Part:
    """A split with at least one usable clip (no writer takes an empty one), and the bytes it will about come to."""

    split: str
    clips: Iterator[records.Clip]
    size: int


def _parts(ledger: Ledger, splits: Mapping[str, list[Item]]) -> Iterator[Part]:
    for split, items in splits.items():
        clips = ledger.clips(split, items)
        first = next(clips, None)
        if first is not None:
            yield Part(split, itertools.chain([first], clips), first.audio.nbytes * len(items))


def _write(folder: Path, scratch: Path, name: str, labels: tuple[str, ...], parts: list[Part]) -> None:
    """The shards of all splits, below `scratch`; without TensorFlow in the same layout by `records.write_shards`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow prints four lines about it
    try:
        import tensorflow  # noqa: F401  tensorflow-datasets imports without it and fails later
        import tensorflow_datasets as tfds
    except ImportError:
        for part in parts:
            records.write_shards(folder, name, part.split, part.clips, math.ceil(part.size / SHARD_BYTES))
        return
    with _quiet(tfds):
        builder = _builder_class(tfds, name, folder.parent.name, labels, parts)(data_dir=scratch)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False, min_shard_size=SHARD_BYTES // 2, max_shard_size=SHARD_BYTES
            )
        )


def _builder_class(tfds, data_set: str, config: str, labels: tuple[str, ...], parts: list[Part]):
    """The one builder for every data set, as a class made at run time because TFDS takes the name from the class."""

    class AudioClips(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Clips as 16-bit mono audio, made by genre_jax.prepare."""

        name = data_set
        VERSION = tfds.core.Version(records.VERSION)
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name=config),)

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
                    "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(labels))),
                    "name": tfds.features.Text(),
                    "track": tfds.features.Text(),
                    "maximum": tfds.features.Scalar(np.float32),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {part.split: self._generate_examples(part.clips) for part in parts}

        def _generate_examples(self, clips):
            for clip in clips:
                yield clip.name, vars(clip)

    return AudioClips


@contextlib.contextmanager
def _quiet(tfds) -> Iterator[None]:
    """No bars, prints and log lines of tensorflow-datasets beside our own bar."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logger.setLevel(level)


def _write_quarantine(path: Path, rows: list[tuple[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "reason"), *sorted(rows)])


# ---------------------------------------------------------------- all or nothing


@contextlib.contextmanager
def staging(data_dir: Path, label: str) -> Iterator[Path]:
    """A hidden folder to build in, cleared of what a killed run left, and locked against a second `prepare`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = data_dir / f".preparing-{label}"
    with open(data_dir / f".preparing-{label}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another prepare of {label} is running in {data_dir}: wait for it to end") from None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(folder: Path, final: Path, scratch: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        final.rename(scratch / "replaced")
    folder.rename(final)
