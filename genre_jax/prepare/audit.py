"""`python -m genre_jax.prepare --check DIR`: reads prepared data sets back, and says what is missing, wrong or leaking.

The passport check counts clips by split and class beside the published numbers, and listens to every clip: clipped, silent,
of a wrong rate, the same samples twice. The leak audit (`fingerprint`) finds recordings that lie in two splits, shifted or
re-encoded. Into the data set's folder go `check.json`, `check.md`, `duplicates.csv` (all pairs) and `exclude.csv` (the clip
of each pair across splits that goes, so that the test stays), which every reader of the shards honours.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax import console, metrics
from genre_jax.console import UserError, say
from genre_jax.data import locate, shards
from genre_jax.logbook import clock
from genre_jax.prepare import fingerprint
from genre_jax.prepare.workers import cores

# Clips of AudioSet's music that document 000 counts in each official list.
PUBLISHED = {"balanced": 3146, "eval": 2574, "unbalanced": 224155}
STAYS = ("test", "eval", "validation", "balanced")  # of a pair across splits the clip in the first of these stays
FULL_SCALE, CLIPPED = 32735, 1e-4  # a clip is clipped where this share of its samples reaches 99.9 % of full scale
SILENT_RMS = 1e-3  # -60 dB of full scale
NARROW = 0.7  # of the highest frequency there could be: a clip with nothing above came from a lower rate
AUDIOSET_SECONDS = 10.5  # a longer clip of AudioSet has been read at a wrong rate, or not been cut
D_PRIME = 2.7  # audax's on AudioSet, 2.65 to 2.73 (its recipes/audioset_classification/README)
_DRAWS = 60
_CHUNK = 32  # clips a worker is handed at once
_FEW = 200  # clips below which worker processes cost more than they bring
_SHOWN = 40  # pairs in the report for people; all are in duplicates.csv


@dataclasses.dataclass(frozen=True)
class Heard:
    """What one clip was found to hold: levels in [0, 1], the highest frequency in Hz, the hash of its samples."""

    digest: bytes
    rms: float
    clipped: float  # share of the samples
    highest: float
    fingerprint: fingerprint.Print


@dataclasses.dataclass(frozen=True)
class Clip:
    """A row of the data set with what was heard in it; `labels` uint8 (classes,)."""

    name: str
    split: str
    track: str
    seconds: float
    labels: np.ndarray
    heard: Heard


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two clips with the same sound; of a pair across splits `goes` is the one to leave out. Offset in seconds: how much
    later the sound comes in `goes`. `agreement` is the share of moments with peaks that agree.
    """

    stays: Clip
    goes: Clip
    kind: str  # identical samples, or alike
    offset: float
    agreement: float
    expected: float

    @property
    def across(self) -> bool:
        return self.stays.split != self.goes.split


# ---------------------------------------------------------------- listening


def listen(audio: np.ndarray, sample_rate: int) -> Heard:
    """What int16 `audio` (samples,) holds."""
    wide = audio.astype(np.float32)
    return Heard(
        digest=hashlib.sha256(audio.tobytes()).digest(),
        rms=float(np.sqrt(np.mean(np.square(wide), dtype=np.float64))) / 32768 if len(audio) else 0.0,
        clipped=float(np.mean(np.abs(wide) >= FULL_SCALE)) if len(audio) else 0.0,
        highest=_highest(wide, sample_rate),
        fingerprint=fingerprint.take(audio, sample_rate),
    )


def _highest(audio: np.ndarray, sample_rate: int, window: int = 1024, frames: int = 64) -> float:
    """The highest frequency with ten times the power of rounding to 16 bits, on average over frames of the clip."""
    starts = np.linspace(0, max(0, len(audio) - window), frames).astype(np.int64)
    cut = np.stack([np.pad(audio[at : at + window], (0, max(0, window - len(audio)))) for at in starts])
    taper = np.hanning(window + 1)[:-1].astype(np.float32)
    power = np.mean(np.abs(np.fft.rfft(cut * taper)) ** 2, axis=0)
    above = np.flatnonzero(power > 10 / 12 * np.sum(taper**2))
    return float(above[-1] * sample_rate / window) if len(above) else 0.0


@functools.lru_cache(maxsize=8)
def _index(folder: Path, split: str) -> shards.Index:
    return shards.load_index(folder, split, whole=True)


def _listen_to(task: tuple[Path, str, int, int]) -> list[Heard]:
    folder, split, start, stop = task
    index = _index(folder, split)
    return [listen(index.cut(row, 0, int(index.length[row])), index.sample_rate) for row in range(start, stop)]


def read(folder: Path, splits: Sequence[str], workers: int = 1) -> list[Clip]:
    """Every clip of these splits, listened to by so many processes."""
    _index.cache_clear()  # the folder may have been prepared anew
    indices = [_index(folder, split) for split in splits]
    tasks = [
        (folder, index.split, start, min(start + _CHUNK, len(index)))
        for index in indices
        for start in range(0, len(index), _CHUNK)
    ]
    rows = [(index, row) for index in indices for row in range(len(index))]
    progress = Progress("listening", len(rows))
    clips: list[Clip] = []
    for part in _mapped(tasks, workers if len(rows) > _FEW else 1):
        for heard in part:
            index, row = rows[len(clips)]
            seconds = float(index.length[row]) / index.sample_rate
            track = index.tracks[index.track[row]]
            clips.append(Clip(index.names[row], index.split, track, seconds, index.labels[row], heard))
        progress(len(clips), len(rows))
    return clips


def _mapped(tasks: list, workers: int) -> Iterator[list[Heard]]:
    if workers == 1:
        yield from map(_listen_to, tasks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_listen_to, tasks)


class Progress:
    """A line every few seconds, from the third second on: done, rate, time left."""

    EVERY = 3.0

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.started = self.said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.said < self.EVERY:
            return
        self.said, rate = now, done / (now - self.started)
        left = clock((total - done) / rate) if rate else "?"
        say(f"{self.title}: {done:,}/{total:,} clips  {rate:,.0f} clips/s  ETA {left}")


# ---------------------------------------------------------------- pairs


def pairs(clips: list[Clip], splits: Sequence[str], threads: int = 1) -> tuple[list[Pair], float]:
    """Clips that hold the same sound, pairs across splits and near certain ones first; and the share of hashes used."""
    order = {split: (STAYS.index(split) if split in STAYS else len(STAYS), -at) for at, split in enumerate(splits)}
    matches, used = fingerprint.find([c.heard.fingerprint for c in clips], threads, Progress("comparing", len(clips)))
    found: dict[tuple[int, int], tuple[str, float, float, float]] = {}
    for match in matches:
        found[match.first, match.second] = ("alike", match.offset, match.agreeing / match.peaks, match.expected)
    same: dict[bytes, list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        if clip.heard.rms >= SILENT_RMS:
            same[clip.heard.digest].append(number)
    for group in same.values():
        first = min(group, key=lambda number: order[clips[number].split])
        for other in group:
            if other != first:
                found[min(first, other), max(first, other)] = ("identical", 0.0, 1.0, 0.0)
    made = []
    for (a, b), (kind, offset, agreement, expected) in found.items():
        if order[clips[a].split] > order[clips[b].split]:
            a, b, offset = b, a, -offset
        offset = round(offset, 2) + 0.0  # no -0.00
        made.append(Pair(clips[a], clips[b], kind, offset, agreement, expected))
    return sorted(made, key=lambda p: (not p.across, -p.agreement, p.stays.name, p.goes.name)), used


# ---------------------------------------------------------------- the account


def missing_error(labels: np.ndarray, missing: int, seed: int = 0, draws: int = _DRAWS) -> float:
    """Half the width of the 95 % interval of mean average precision that comes of `missing` clips, by Monte Carlo.

    `labels` (clips, classes) are those that are there. The full set is these and as many more drawn from them as are
    missing. A classifier scores it with normal scores `D_PRIME` apart; then `missing` clips are taken away at random. The
    spread of the change is what chance alone does: clips that vanish for a reason (blocked, deleted) can do more.
    """
    if not missing or not len(labels):
        return 0.0
    rng = np.random.default_rng(seed)
    changes = []
    for _ in range(draws):
        full = np.concatenate([labels, labels[rng.integers(len(labels), size=missing)]])
        scores = D_PRIME * full + rng.standard_normal(full.shape)
        there = rng.permutation(len(full))[: len(labels)]
        whole, part = (metrics.mean_average_precision(*rows)[0] for rows in ((full, scores), (full[there], scores[there])))
        changes.append(part - whole)
    return float(1.96 * np.std(changes))


def account(passport: dict, folder: Path, clips: list[Clip], found: list[Pair], used: float) -> dict[str, Any]:
    """The content of check.json."""
    classes = passport["labels"]
    official = passport.get("dataset") == "audioset_music" and len(classes) == 67 and not passport.get("protocol")
    splits = {}
    for split in passport["splits"]:
        labels = np.array([clip.labels for clip in clips if clip.split == split], np.uint8).reshape(-1, len(classes))
        absent = passport.get("missing", {}).get(split, {"clips": 0, "classes": {}})
        published = PUBLISHED.get(split) if official else None
        missing = max(absent["clips"], (published or 0) - len(labels))
        splits[split] = {
            "clips": len(labels),
            "published": published,
            "missing": missing,
            "classes": {
                name: {"clips": int(count), "missing": absent["classes"].get(name, 0)}
                for name, count in zip(classes, labels.sum(0), strict=True)
            },
        }
        if split in STAYS and missing:
            say(f"error bar of {split}: {missing} missing clips by Monte Carlo")
            splits[split]["map_error"] = round(missing_error(labels, missing), 4)
    groups: dict[bytes, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.heard.digest].append(clip)
    copies = [group for group in groups.values() if len(group) > 1]
    across = [pair for pair in found if pair.across]
    return {
        "schema": 1,
        "data_set": passport["name"],
        "folder": str(folder.resolve()),
        "sample_rate": passport["sample_rate"],
        "clips": len(clips),
        "splits": splits,
        "labels": _labels(passport),
        "audio": _audio(passport, folder, clips)
        | {
            "identical": sum(len(group) - 1 for group in copies),
            "identical_with_other_labels": sum(len({clip.labels.tobytes() for clip in group}) > 1 for group in copies),
        },
        "leaks": {
            "across_splits": len(across),
            "within_splits": len(found) - len(across),
            "of_one_track": sum(pair.stays.track == pair.goes.track for pair in found),
            "excluded": len({(pair.goes.split, pair.goes.name) for pair in across}),
            "hashes_used": round(used, 4),
            "expected_false_pairs": fingerprint.EXPECTED,
        },
    }


def _labels(passport: dict) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join(passport["labels"]).encode()).hexdigest()
    order = "as prepared" if passport.get("labels_sha256", digest) == digest else "changed since it was prepared"
    if passport.get("dataset") == "audioset_music":
        from genre_jax.datasets.audioset import music_labels

        official = passport["labels"] == list(music_labels().values())
        order += ", AudioSet's 67 in their order" if official else ", not AudioSet's 67 in their order"
    return {"sha256": digest, "order": order}


def _audio(passport: dict, folder: Path, clips: list[Clip]) -> dict[str, Any]:
    """What was heard: names of clips by fault, and what speaks for a wrong rate."""
    rate = passport["sample_rate"]
    stated = folder.parent.name.removesuffix("hz")
    files = passport.get("files")
    rates = [row[files["columns"].index("rate")] for row in files["rows"]] if files else []
    limit = AUDIOSET_SECONDS if passport.get("dataset") == "audioset_music" else np.inf
    loud = [clip for clip in clips if clip.heard.rms >= SILENT_RMS]
    return {
        "clipped": [clip.name for clip in clips if clip.heard.clipped > CLIPPED],
        "silent": [clip.name for clip in clips if clip.heard.rms < SILENT_RMS],
        "narrow": [clip.name for clip in loud if clip.heard.highest < NARROW * rate / 2],
        "too_long": [clip.name for clip in clips if clip.seconds > limit],
        "from_a_lower_rate": sum(value < rate for value in rates),
        "folder_says_hz": int(stated) if stated.isdigit() else None,
    }


def findings(facts: dict[str, Any]) -> list[str]:
    """The sentences of a report: what is there, missing and wrong."""
    audio, leaks, lines = facts["audio"], facts["leaks"], []
    for split, content in facts["splits"].items():
        published = content["published"]
        share = f" of {published:,} published ({content['clips'] / published:.1%})" if published else ""
        lines.append(f"{split}: {content['clips']:,} clips{share}, {content['missing']:,} missing")
        if "map_error" in content:
            lines.append(
                f"{split}: the missing clips put ±{content['map_error']:.3f} on its mean average precision (95 %), were they "
                f"missing at random (Monte Carlo, normal scores {D_PRIME} apart); audioset/ontology issue 8 quotes about ±5 % "
                "from arXiv 2203.13448 for missing evaluation clips, and d' to move less"
            )
    lines.append(f"label order {facts['labels']['order']} (sha256 {facts['labels']['sha256'][:16]})")
    if audio["folder_says_hz"] not in (None, facts["sample_rate"]):
        lines.append(f"wrong rate: the folder says {audio['folder_says_hz']} Hz, the passport {facts['sample_rate']} Hz")
    told = {
        "clipped": f"clipped clips (over {CLIPPED:.2%} of the samples at full scale)",
        "silent": "silent clips (below -60 dB)",
        "narrow": f"clips with nothing above {NARROW:.0%} of the band: from a lower rate?",
        "too_long": f"clips over {AUDIOSET_SECONDS} s, where AudioSet's are 10 s: read at a wrong rate, or not cut?",
    }
    lines += [f"{len(audio[key]):,} {text}" for key, text in told.items() if audio[key]]
    lines.append(f"{audio['from_a_lower_rate']:,} clips from files of a lower rate than {facts['sample_rate']} Hz")
    lines.append(
        f"{audio['identical']:,} clips whose samples are there already; {audio['identical_with_other_labels']:,} sets of "
        "copies differ in their labels"
    )
    lines.append(
        f"leak audit: {leaks['across_splits']:,} pairs across splits, {leaks['within_splits']:,} within one, of these "
        f"{leaks['of_one_track']:,} of one track; by chance {leaks['expected_false_pairs']:g} pairs are expected"
    )
    if leaks["hashes_used"] < 1:
        lines.append(f"{1 - leaks['hashes_used']:.1%} of the fingerprints' hashes were too common to be compared")
    return lines


# ---------------------------------------------------------------- what is written


PAIR_COLUMNS = ("stays", "stays_split", "goes", "goes_split", "kind", "offset_seconds", "agreement", "expected_by_chance")
EXCLUDE_COLUMNS = ("name", "split", "duplicate_of", "duplicate_split", "offset_seconds", "agreement")


def write(folder: Path, facts: dict[str, Any], found: list[Pair]) -> None:
    """The reports, and `exclude.csv`, in which rows written by hand (without `duplicate_of`) stay."""
    cells = [
        (*(cell for clip in (pair.stays, pair.goes) for cell in (clip.name, clip.split)),
         pair.kind, f"{pair.offset:.2f}", f"{pair.agreement:.3f}", f"{pair.expected:.2g}")
        for pair in found
    ]  # fmt: skip
    _write_csv(folder / "duplicates.csv", PAIR_COLUMNS, cells)
    rows = {(row["name"], row["split"]): tuple(row.get(key) or "" for key in EXCLUDE_COLUMNS) for row in _by_hand(folder)}
    for pair in found:  # the surest pair of a clip comes first
        if pair.across:
            goes, stays = pair.goes, pair.stays
            row = (goes.name, goes.split, stays.name, stays.split, f"{pair.offset:.2f}", f"{pair.agreement:.3f}")
            rows.setdefault((goes.name, goes.split), row)
    _write_csv(folder / "exclude.csv", EXCLUDE_COLUMNS, list(rows.values()))
    (folder / "check.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1))
    (folder / "check.md").write_text(_page(facts, cells), encoding="utf-8")


def _by_hand(folder: Path) -> list[dict[str, str]]:
    path = folder / "exclude.csv"
    if not path.exists():
        return []
    locate.read_exclude(folder)  # whose errors tell what is wrong with it
    with open(path, encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if not row.get("duplicate_of")]


def _page(facts: dict[str, Any], cells: list[tuple]) -> str:
    """check.md."""
    splits = facts["splits"]
    lines = [f"# {facts['data_set']} at {facts['sample_rate']} Hz", "", *(f"- {line}" for line in findings(facts)), ""]
    lines += ["## Clips by class: there (missing)", "", *_table(("class", *splits), _class_rows(splits)), ""]
    lines += ["## Pairs of clips with the same sound", ""]
    if cells:
        lines += ["`goes` is the clip that exclude.csv lists where the pair is across splits; offsets in seconds.", ""]
        lines += _table(PAIR_COLUMNS, cells[:_SHOWN])
    else:
        lines.append("None were found.")
    if len(cells) > _SHOWN:
        lines.append(f"\nand {len(cells) - _SHOWN} more in duplicates.csv")
    faults = {key: names for key, names in facts["audio"].items() if isinstance(names, list) and names}
    for key, names in faults.items():
        more = f", and {len(names) - _SHOWN} more in check.json" if len(names) > _SHOWN else ""
        lines += ["", f"## {key.replace('_', ' ').capitalize()}", "", ", ".join(names[:_SHOWN]) + more]
    return "\n".join(lines) + "\n"


def _class_rows(splits: dict[str, Any]) -> list[tuple[str, ...]]:
    names = list(next(iter(splits.values()))["classes"]) if splits else []
    counts = [[content["classes"][name] for content in splits.values()] for name in names]
    return [
        (name, *(f"{count['clips']:,} ({count['missing']:,})" for count in row))
        for name, row in zip(names, counts, strict=True)
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells]


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


# ---------------------------------------------------------------- the command


def check(folder: Path, workers: int | None = None) -> dict[str, Any]:
    """Check the data set in `folder`, write the reports there, and return the content of check.json."""
    passport = locate.read_passport(folder)
    splits = list(passport["splits"])
    workers = workers or cores()
    clips = read(folder, splits, workers)
    found, used = pairs(clips, splits, workers)
    facts = account(passport, folder, clips, found, used)
    write(folder, facts, found)
    return facts


def command(place: Path, name: str | None, workers: int | None, strict: bool) -> int:
    """Check the data set that lies in `place`, or the one called `name` among those there, or all of them.

    With `strict`, raises `UserError` where clips leak from split to split.
    """
    for folder in _folders(place, name):
        facts = check(folder, workers)
        say("\n".join([f"{folder}:", *(f"  {line}" for line in findings(facts))]))
        leaking = facts["leaks"]["excluded"]
        say(f"  reports: {folder / 'check.md'}, duplicates.csv; exclude.csv lists {leaking} clips, which training leaves out")
        if strict and leaking:
            raise UserError(f"{leaking} clips of {folder} are in another split too (duplicates.csv), and --strict allows none")
    return 0


def _folders(place: Path, name: str | None) -> list[Path]:
    if (place / "passport.json").exists():
        return [place]
    there = locate.prepared(place)
    if not there:
        raise UserError(f"no prepared data set in {str(place)!r}: give the --data_dir of a prepare, or a data set's own folder")
    if name is not None and name not in there:
        raise console.unknown("data set", name, there)
    return [locate.directory(place, key, rate) for key, rates in there.items() if name in (None, key) for rate in rates]
