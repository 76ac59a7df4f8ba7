"""Any data set to shards: split, render, write, and leave a passport.

Everything is written into a hidden folder beside the data sets and moved into place at the end, so a `prepare` that is
killed leaves no half data set; `shards` tells how the next one goes on from there.
"""

import collections
import csv
import dataclasses
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from genre_jax import records
from genre_jax.console import UserError, say
from genre_jax.datasets import shards
from genre_jax.datasets.rendering import Facts, Limits, Renderer, renderer
from genre_jax.datasets.source import Item, Source

SPLITS = ("train", "validation", "test")
FILE_COLUMNS = ("name", "split", *(field.name for field in dataclasses.fields(Facts)))

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
    beam: Sequence[str] | None = None,
) -> Path:
    """Make the data set `name` from `source`, in place of one that is there; returns its folder.

    `beam` are the options of an Apache Beam pipeline that renders the clips, such as ["--runner=DirectRunner"]; None: this
    machine does it in `workers` processes. The result is the same.
    """
    splits = assign_splits(source.items, validation, test)
    key = shards.fingerprint(source, splits, sample_rate, limits)
    with shards.staging(data_dir, f"{name}-{sample_rate}hz") as scratch:
        with renderer(source.render, sample_rate, workers, limits) as rendered:
            clip_bytes = shards.resume(scratch, key)
            if clip_bytes is None:
                clip_bytes = shards.clip_bytes([item for items in splits.values() for item in items], sample_rate, rendered)
                shards.keep_plan(scratch, key, clip_bytes)
            parts = shards.plan(scratch, splits, clip_bytes)
            todo = [part for part in parts if part.told() is None]
            if len(todo) < len(parts):
                say(f"goes on where an interrupted prepare ended: {len(parts) - len(todo)} of {len(parts)} shards are done")
            if clip_bytes:
                shards.check_disk(data_dir, sum(len(part.items) for part in todo), clip_bytes, sample_rate)
            if beam is None:
                _write(todo, source.labels, _with_progress(rendered, f"prepare {name}", parts, todo))
        if beam is not None:
            from genre_jax.datasets import on_beam

            on_beam.write(todo, source, sample_rate, limits, beam)
        told = [(part.split, part.told() or {}) for part in parts]
        folder = records.directory(scratch, name, sample_rate)
        passport = make_passport(source, name, sample_rate, list(splits), told)
        if not passport["totals"]["clips"]:
            shutil.rmtree(scratch / "parts")
            (path, reason), count = told[0][1]["quarantined"][0], len(source.items)
            raise UserError(f"none of the {count} clips can be used; the first is {path!r}: {reason}")
        shards.assemble(folder, name, source.labels, parts)
        quarantined = [row for _, part in told for row in part["quarantined"]]
        _write_csv(folder / "quarantine.csv", ("path", "reason"), [*quarantined, *source.refused])
        rows = [(item.name, item.split, "|".join(item.labels)) for item in source.missing]
        _write_csv(folder / "missing.csv", ("path", "split", "labels"), rows)
        (folder / "passport.json").write_text(json.dumps(passport, ensure_ascii=False))
        final = records.directory(data_dir, name, sample_rate)
        _move_into_place(folder, final, scratch)
    return final


def _write(todo: list[shards.Part], labels: tuple[str, ...], rendered: Renderer) -> None:
    """All parts in one stream, so that no worker waits at the end of a shard."""
    pairs = rendered(item for part in todo for item in part.items)
    for part in todo:
        shards.write(part, labels, islice(pairs, len(part.items)))


def _with_progress(rendered: Renderer, title: str, parts: list[shards.Part], todo: list[shards.Part]) -> Renderer:
    """The same renderer, which counts its clips on one bar (rate, time left) on standard error."""
    try:
        from tqdm import tqdm
    except ImportError:
        return rendered
    interval = 0.3 if sys.stderr.isatty() else 15.0  # a log file gets a line now and then
    total, left = (sum(len(part.items) for part in some) for some in (parts, todo))
    bar = tqdm(desc=title, total=total, initial=total - left, unit="clip", mininterval=interval, dynamic_ncols=True)

    def counted(items: Iterable[Item]) -> Iterator:
        for pair in rendered(items):
            bar.update()
            if bar.n == bar.total:
                bar.close()
            yield pair

    return counted


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *sorted(map(tuple, rows))])


def _move_into_place(folder: Path, final: Path, scratch: Path) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        final.rename(scratch / "replaced")
    folder.rename(final)


# ---------------------------------------------------------------- the passport


def make_passport(source: Source, name: str, sample_rate: int, planned: list[str], told: list[tuple[str, dict]]) -> dict:
    """The content of passport.json, from what the parts tell of each split; `files` is a table, because it may have
    200,000 rows.
    """
    rows = sorted((file[0], split, *file[2]) for split, part in told for file in part["files"])
    numbers = collections.Counter((split, number) for split, part in told for file in part["files"] for number in file[1])
    facts = [Facts(*row[2:]) for row in rows]
    seconds = sum(fact.seconds for fact in facts)
    absent = {split: [item for item in source.missing if item.split == split] for split in {i.split for i in source.missing}}
    splits = {}
    for split in planned:
        own = [fact for fact, row in zip(facts, rows, strict=True) if row[1] == split]
        if own:
            splits[split] = {
                "clips": len(own),
                "seconds": round(sum(fact.seconds for fact in own), 3),
                "missing": len(absent.get(split, ())),
                "classes": {label: numbers[split, number] for number, label in enumerate(source.labels)},
            }
    return {
        "name": name,
        "dataset": source.kind,
        "protocol": source.protocol,
        "sample_rate": sample_rate,
        "labels": list(source.labels),
        "labels_sha256": hashlib.sha256("\n".join(source.labels).encode()).hexdigest(),
        "splits": splits,
        "empty_splits": [split for split in planned if split not in splits],
        "missing": {split: _count(source.labels, items) for split, items in sorted(absent.items())},
        "totals": {
            "clips": len(rows),
            "seconds": round(seconds, 3),
            "scaled": sum(fact.scaled for fact in facts),
            "quarantined": sum(len(part["quarantined"]) for _, part in told) + len(source.refused),
            "missing": len(source.missing),
        },
        "peak": max((fact.peak for fact in facts), default=0.0),
        "rms": math.sqrt(sum(fact.rms**2 * fact.seconds for fact in facts) / max(seconds, 1e-9)),
        "notes": list(source.notes),
        "created_with": shards.versions(shards.DECODERS),
        "files": {"columns": list(FILE_COLUMNS), "rows": [[_short(cell) for cell in row] for row in rows]},
    }


def _count(labels: tuple[str, ...], items: list[Item]) -> dict:
    """How many clips, and how many of each class."""
    counts = collections.Counter(label for item in items for label in item.labels)
    return {"clips": len(items), "classes": {label: counts[label] for label in labels}}


def _short(cell: object) -> object:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell
