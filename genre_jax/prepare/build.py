"""Make the shards of a data set: assign the splits, decode the clips, write the shards and the passport.

All files are written into a hidden folder beside the data sets, which is moved into place at the end. Therefore an
interrupted `prepare` leaves no incomplete data set. `prepare/parts.py` describes how the next `prepare` resumes.
"""

import collections
import csv
import dataclasses
import hashlib
import inspect
import math
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from genre_jax import console
from genre_jax.atomic import write_whole
from genre_jax.console import UserError, say
from genre_jax.data import locate, shards
from genre_jax.datasets import DATASETS
from genre_jax.datasets.types import Item, Source
from genre_jax.prepare import audio, parts
from genre_jax.prepare import condition as conditions
from genre_jax.prepare import passport as passports
from genre_jax.prepare.splits import hashed
from genre_jax.prepare.workers import Facts, Limits, Renderer, cores, renderer

SPLITS = ("train", "validation", "test")
FILE_COLUMNS = ("name", "split", *(field.name for field in dataclasses.fields(Facts)))

NAME = re.compile(r"[a-z][a-z0-9_]*")


def prepare(
    dataset: str,
    data_dir: str | Path,
    sample_rate: int,
    source: str | Path | None = None,
    name: str | None = None,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    workers: int | None = None,
    timeout: float = 60.0,
    memory_gb: float = 4.0,
    overwrite: bool = False,
    beam: Sequence[str] | None = None,
    condition: Sequence[str] = (),
    **options: str,
) -> Path:
    """Make a data set in `data_dir` and return its folder. An existing data set is kept unless `overwrite` is set.

    Worker processes import the main module of the calling program again; it should therefore be light.

    Args:
      dataset: kind of the data set, a key of `datasets.DATASETS`.
      data_dir: folder of all prepared data sets.
      sample_rate: sample rate of the shards in Hz.
      source: path of the source files; None for data sets that are synthesised.
      name: name of the prepared data set; None: see `default_name`.
      validation, test: shares in [0, 1) of the tracks in these splits, among tracks whose split the source leaves open.
      workers: number of processes that decode; None: one per core.
      timeout, memory_gb: limits of the time for one clip in seconds, and of the memory of one worker process in GiB.
      overwrite: make the data set again if it already exists.
      beam: options of an Apache Beam pipeline that decodes the clips; None: this machine decodes them.
      condition: steps of `conditions.STEPS` that are applied to each decoded file, in this order.
      **options: options of the data set: `split`, `labels`, `subset`.

    Raises:
      UserError: an argument is not legal, the source does not have the expected form, or no clip can be used.
    """
    if dataset not in DATASETS:
        raise console.unknown("data set", dataset, DATASETS)
    path = None if source is None else Path(source)
    _check_options(dataset, options)
    steps = conditions.parse(condition)
    name = name or default_name(dataset, path, options, steps)
    _check(name, sample_rate, validation, test, workers, timeout, memory_gb)
    folder = locate.directory(data_dir, name, sample_rate)
    if not overwrite and _is_there(folder):
        return folder
    build(
        dataclasses.replace(DATASETS[dataset](path, **options), conditioning=steps),
        Path(data_dir),
        name,
        sample_rate,
        validation=validation,
        test=test,
        workers=workers or cores(),
        limits=Limits(timeout, memory_gb),
        beam=beam,
    )
    return folder


def _is_there(folder: Path) -> bool:
    """Whether the data set in `folder` is complete and is kept. Prints what follows."""
    if not (folder / "passport.json").exists():
        return False
    try:
        locate.read_passport(folder)
    except UserError as error:
        say(f"the data set is made again, because {error}")
        return False
    say(f"{folder} already exists and is kept: use --overwrite to make it again with these flags")
    return True


def default_name(dataset: str, source: Path | None, options: Mapping[str, str] | None = None, steps: Sequence[str] = ()) -> str:
    """Returns the name of a data set if the user gives no name.

    It is the name of the kind with the options that differ from their defaults and the steps of conditioning, such as
    "gtzan_folds_10_3", so that two protocols never share a folder. For the kind "folder" it begins with the name of the
    source folder or CSV in lower snake case.
    """
    words = [dataset]
    if dataset == "folder" and source is not None:
        snake = _snake(source.resolve().stem if source.suffix.lower() == ".csv" else source.resolve().name)
        words = [snake if NAME.fullmatch(snake) else f"data_{snake}".rstrip("_")]
    for key, value in sorted((options or {}).items()):
        if value != _defaults(dataset)[key]:
            words.append(_snake({"labels": Path(value).stem, "subset": f"subset {value}"}.get(key, value)))
    return "_".join([*words, *steps])


def _snake(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _defaults(dataset: str) -> dict[str, str | None]:
    """Returns {option: default} of a data set, from the keyword-only arguments of its finder."""
    parameters = inspect.signature(DATASETS[dataset]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def _check_options(dataset: str, options: Mapping[str, str]) -> None:
    """Raise `UserError` if the data set does not support an option."""
    legal = _defaults(dataset)
    for key, value in options.items():
        if key not in legal:
            supported = ", ".join(f"--{name}" for name in legal) or "none of --split, --labels, --subset"
            raise UserError(f"data set {dataset!r} does not support --{key}={value}: it supports {supported}")


def _check(
    name: str, sample_rate: int, validation: float, test: float, workers: int | None, timeout: float, memory_gb: float
) -> None:
    """Raise `UserError` if an argument of `prepare` is not legal."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name={name} is not a legal name: use lower-case letters, digits and _, beginning with a letter")
    low, high = audio.RATES
    if not low <= sample_rate <= high:
        raise UserError(f"--sample_rate={sample_rate} is not between {low} and {high} Hz")
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UserError(
            f"--validation={validation} and --test={test} are not legal shares: each must be 0 or more, and their sum below 1"
        )
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers} is not a legal number of processes: it must be 1 or more")
    if not (timeout > 0 and memory_gb > 0):
        raise UserError(f"--timeout={timeout:g} (seconds) and --memory_gb={memory_gb:g} (GiB) must be above 0")


# ---------------------------------------------------------------- splits


def assign_splits(items: Iterable[Item], validation: float, test: float, more: Iterable[str] = ()) -> dict[str, list[Item]]:
    """Returns {split: items}, with the splits in the order train, validation, test, others. A split may be empty by chance.

    `more` names splits that are made even if they have no clip. A split that the source gives for one clip of a track applies
    to all clips of the track. `hashed` decides for the other tracks, and for all tracks of an artist at once. Raises
    `UserError` if the clips of one track have two splits, or if two clips have the same name.
    """
    items = list(items)
    names: set[str] = set()
    track_splits: dict[str, str] = {}
    for item in items:
        if item.name in names:
            raise UserError(f"two clips have the name {item.name!r}: names must be unique in a data set")
        names.add(item.name)
        if item.split and track_splits.setdefault(item.track, item.split) != item.split:
            raise UserError(
                f"track {item.track!r} is in both split {track_splits[item.track]!r} and split {item.split!r}: "
                "all clips of one track must be in one split"
            )
    some_open = any(item.track not in track_splits for item in items)
    shares = {"train": 1 - validation - test, "test": test, "validation": validation}
    groups: dict[str, list[str]] = {}
    for item in items:
        if item.track not in track_splits:
            groups.setdefault(item.artist or item.track, []).extend(item.labels)
    placed = hashed(groups, {split: share for split, share in shares.items() if share})
    members: dict[str, list[Item]] = {split: [] for split in SPLITS if some_open and shares[split]}
    for item in items:
        split = track_splits.get(item.track) or placed[item.artist or item.track]
        members.setdefault(split, []).append(item)
    for split in more:
        members.setdefault(split, [])
    return {split: members[split] for split in sorted(members, key=_position)}


def _position(split: str) -> tuple[int, int]:
    """Returns the sort key of a split: fold2 comes before fold10."""
    number = re.search("[0-9]*$", split)
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), int(number[0] or 0) if number else 0


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
    """Make the data set `name` from `source`, replace an existing one, and return its folder.

    The arguments are those of `prepare`. With `beam`, such as ["--runner=DirectRunner"], an Apache Beam pipeline decodes the
    clips instead of `workers` processes on this machine. The result is the same.
    """
    splits = assign_splits(source.items, validation, test, [item.split for item in source.missing if item.split])
    key = parts.fingerprint(source, splits, sample_rate, limits)
    with parts.staging(data_dir, f"{name}-{sample_rate}hz") as scratch:
        with renderer(source.render, sample_rate, workers, limits, source.conditioning) as rendered:
            clip_bytes = parts.resume(scratch, key)
            if clip_bytes is None:
                clip_bytes = parts.clip_bytes([item for items in splits.values() for item in items], sample_rate, rendered)
                parts.keep_plan(scratch, key, clip_bytes)
            planned = parts.plan(scratch, splits, clip_bytes)
            todo = [part for part in planned if part.outcome() is None]
            if len(todo) < len(planned):
                say(f"resuming an interrupted prepare: {len(planned) - len(todo)} of {len(planned)} shards are done")
            if clip_bytes:
                parts.check_disk(data_dir, sum(len(part.items) for part in todo), clip_bytes, sample_rate)
            if beam is None:
                _write(todo, source.labels, _with_progress(rendered, f"prepare {name}", planned, todo))
        if beam is not None:
            from genre_jax.prepare.beam import write as write_with_beam

            write_with_beam(todo, source, sample_rate, limits, beam)
        outcomes = [(part.split, part.outcome() or {}) for part in planned]
        folder = locate.directory(scratch, name, sample_rate)
        passport = make_passport(source, name, sample_rate, list(splits), outcomes)
        if not passport["totals"]["clips"]:
            shutil.rmtree(scratch / "parts")
            (path, reason), count = outcomes[0][1]["quarantined"][0], len(source.items)
            raise UserError(f"none of the {count} clips can be used; the first clip is {path!r}: {reason}")
        parts.describe(folder, name, source.labels, planned)
        quarantined = [row for _, outcome in outcomes for row in outcome["quarantined"]]
        _write_csv(folder / "quarantine.csv", ("path", "reason"), [*quarantined, *source.refused])
        rows = [(item.name, item.split, "|".join(item.labels)) for item in source.missing]
        _write_csv(folder / "missing.csv", ("path", "split", "labels"), rows)
        passports.write(folder, passport, parts.shards(name, planned))
        parts.assemble(folder, name, planned)  # last, because the parts are lost to the next `prepare` if it fails
        final = locate.directory(data_dir, name, sample_rate)
        _move_into_place(folder, final, scratch)
    for split in passport["splits"]:
        shards.load_index(final, split, whole=True)  # writes index-SPLIT.npz, which a copy in a bucket needs
    return final


def _write(todo: list[parts.Part], labels: tuple[str, ...], rendered: Renderer) -> None:
    """Write all parts from one stream of clips, so that no worker waits at the end of a shard."""
    pairs = rendered(item for part in todo for item in part.items)
    for part in todo:
        parts.write(part, labels, islice(pairs, len(part.items)))


def _with_progress(rendered: Renderer, title: str, parts: list[parts.Part], todo: list[parts.Part]) -> Renderer:
    """Returns the same renderer with a progress bar (clips, rate, time left) on standard error."""
    try:
        from tqdm import tqdm
    except ImportError:
        return rendered
    interval = 0.3 if sys.stderr.isatty() else 15.0  # seconds; a log file gets fewer lines
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
    with write_whole(path, "w") as file:
        csv.writer(file).writerows([columns, *sorted(map(tuple, rows))])


def _move_into_place(folder: Path, final: Path, scratch: Path) -> None:
    """Move the new data set to `final`, and move an existing data set into `scratch`, which is removed later."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        final.rename(scratch / "replaced")
    folder.rename(final)


# ---------------------------------------------------------------- the passport


def make_passport(source: Source, name: str, sample_rate: int, planned: list[str], outcomes: list[tuple[str, dict]]) -> dict:
    """Returns the content of passport.json; `planned` are the splits, `outcomes` are (split, `Part.outcome()`) of every part.

    `files` is a table of columns and rows because it may have 200,000 rows.
    """
    rows = sorted((file[0], split, *file[2]) for split, part in outcomes for file in part["files"])
    numbers = collections.Counter((split, number) for split, part in outcomes for file in part["files"] for number in file[1])
    facts = [Facts(*row[2:]) for row in rows]
    seconds = sum(fact.seconds for fact in facts)
    absent = {split: [item for item in source.missing if item.split == split] for split in {i.split for i in source.missing}}
    splits = {}
    for split in planned:
        of_split = [fact for fact, row in zip(facts, rows, strict=True) if row[1] == split]
        if of_split:
            splits[split] = {
                "clips": len(of_split),
                "seconds": round(sum(fact.seconds for fact in of_split), 3),
                "missing": len(absent.get(split, ())),
                "classes": {label: numbers[split, number] for number, label in enumerate(source.labels)},
            }
    return {
        "name": name,
        "dataset": source.kind,
        "protocol": source.protocol,
        "conditioning": list(source.conditioning),
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
            "warned": sum(bool(fact.warning) for fact in facts),
            "quarantined": sum(len(part["quarantined"]) for _, part in outcomes) + len(source.refused),
            "missing": len(source.missing),
        },
        "peak": max((fact.peak for fact in facts), default=0.0),
        "rms": math.sqrt(sum(fact.rms**2 * fact.seconds for fact in facts) / max(seconds, 1e-9)),
        "notes": [*source.notes, *_warnings([row[0] for row in rows], facts)],
        "created_with": parts.versions(parts.DECODERS),
        "files": {"columns": list(FILE_COLUMNS), "rows": [[_short(cell) for cell in row] for row in rows]},
    }


def _warnings(names: list[str], facts: list[Facts]) -> list[str]:
    """Returns a sentence for each kind of warning, with the number of clips and the first of them."""
    warned: dict[str, list[str]] = {}
    for name, fact in zip(names, facts, strict=True):
        if fact.warning:
            warned.setdefault(fact.warning, []).append(name)
    return [f"warning: {len(clips)} clips are used although {text}; the first is {clips[0]}" for text, clips in warned.items()]


def _count(labels: tuple[str, ...], items: list[Item]) -> dict:
    """Returns the number of clips, in total and by class."""
    counts = collections.Counter(label for item in items for label in item.labels)
    return {"clips": len(items), "classes": {label: counts[label] for label in labels}}


def _short(cell: object) -> object:
    """Round a float to six significant digits."""
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell
