"""The reports of `prepare --check`: check.json for programs, check.md for people, duplicates.csv and exclude.csv."""

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax import metrics
from genre_jax.atomic import write_text, write_whole
from genre_jax.console import say
from genre_jax.data import locate
from genre_jax.prepare import fingerprint
from genre_jax.prepare.audit_clips import SILENT_RMS, STAYS, Clip, Pair

PUBLISHED = {"balanced": 3146, "eval": 2574, "unbalanced": 224155}  # AudioSet's music clips by official list (document 000)
CLIPPED = 1e-4  # a clip is clipped if a larger share of its samples is at full scale
NARROW = 0.7  # of half the sample rate; a clip without power above it was probably made from a lower sample rate
AUDIOSET_SECONDS = 10.5  # a longer clip of AudioSet was read at a wrong sample rate, or was not cut
D_PRIME = 2.7  # d' of audax on AudioSet, 2.65 to 2.73 (recipes/audioset_classification/README of audax)
PAIR_COLUMNS = ("stays", "stays_split", "goes", "goes_split", "kind", "offset_seconds", "agreement", "expected_by_chance")
EXCLUDE_COLUMNS = ("name", "split", "duplicate_of", "duplicate_split", "offset_seconds", "agreement")
_DRAWS = 60  # of the Monte Carlo estimate
_SHOWN = 40  # the most pairs, and the most clips with a fault, in check.md


# ---------------------------------------------------------------- check.json


def account(
    passport: dict, folder: Path, clips: list[Clip], damaged: list[str], all_pairs: list[Pair], used: float
) -> dict[str, Any]:
    """Returns the content of check.json.

    `damaged` are the names of damaged clips, and `used` is the share of the fingerprint hashes that were compared.
    """
    groups: dict[bytes, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.heard.digest].append(clip)
    copies = [group for group in groups.values() if len(group) > 1]
    across = [pair for pair in all_pairs if pair.across]
    return {
        "schema": 1,
        "data_set": passport["name"],
        "folder": str(folder.resolve()),
        "sample_rate": passport["sample_rate"],
        "clips": len(clips),
        "splits": _splits(passport, clips),
        "labels": _labels(passport),
        "audio": {"damaged": damaged}
        | _audio(passport, folder, clips)
        | {
            "identical": sum(len(group) - 1 for group in copies),
            "identical_with_other_labels": sum(len({clip.labels.tobytes() for clip in group}) > 1 for group in copies),
        },
        "leaks": {
            "across_splits": len(across),
            "within_splits": len(all_pairs) - len(across),
            "of_one_track": sum(pair.stays.track == pair.goes.track for pair in all_pairs),
            "excluded": len({(pair.goes.split, pair.goes.name) for pair in across}),
            "hashes_used": round(used, 4),
            "expected_false_pairs": fingerprint.EXPECTED,
        },
    }


def _splits(passport: dict, clips: list[Clip]) -> dict[str, Any]:
    """Returns the clips by split and class that are present, and those that are missing."""
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
            say(f"{split}: estimating the effect of {missing} missing clips on the score by Monte Carlo")
            splits[split]["map_error"] = round(missing_error(labels, missing), 4)
    return splits


def missing_error(labels: np.ndarray, missing: int, seed: int = 0, draws: int = _DRAWS) -> float:
    """Estimate by Monte Carlo how much `missing` clips change the mean average precision of a split.

    The full split is simulated by the clips that are present, `labels` (clips, classes), and `missing` more clips drawn from
    them. A simulated classifier gives normal scores whose means are `D_PRIME` apart. Then `missing` clips are removed at
    random, and the change of the score is recorded. Returns half the width of the 95 % interval of the change.

    This is the effect of chance alone. Clips that are missing for a reason (blocked, deleted) may change the score more.
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


def _labels(passport: dict) -> dict[str, Any]:
    """Returns a hash of the class names, and a sentence on their order."""
    digest = hashlib.sha256("\n".join(passport["labels"]).encode()).hexdigest()
    order = "unchanged since the data set was prepared"  # otherwise the passport would not have been read
    if passport.get("dataset") == "audioset_music":
        from genre_jax.datasets.audioset import music_labels

        official = passport["labels"] == list(music_labels().values())
        order += f", {'equal to' if official else 'different from'} the order of AudioSet's 67 music classes"
    return {"sha256": digest, "order": order}


def _audio(passport: dict, folder: Path, clips: list[Clip]) -> dict[str, Any]:
    """Returns the names of the clips with each fault, and the signs of a wrong sample rate."""
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
    """Returns the sentences of check.md and of the console, from the content of check.json."""
    audio, leaks, lines = facts["audio"], facts["leaks"], []
    for split, content in facts["splits"].items():
        published = content["published"]
        share = f" of {published:,} published ({content['clips'] / published:.1%})" if published else ""
        lines.append(f"{split}: {content['clips']:,} clips{share}, {content['missing']:,} missing")
        if "map_error" in content:
            lines.append(
                f"{split}: the missing clips change the mean average precision by ±{content['map_error']:.3f} (95 %) if they "
                f"are missing at random (Monte Carlo, normal scores {D_PRIME} apart); issue 8 of audioset/ontology quotes "
                "about ±5 % from arXiv 2203.13448 for missing evaluation clips, and a smaller change of d'"
            )
    lines.append(f"label order: {facts['labels']['order']} (sha256 {facts['labels']['sha256'][:16]})")
    if audio["folder_says_hz"] not in (None, facts["sample_rate"]):
        lines.append(
            f"wrong sample rate: the folder name says {audio['folder_says_hz']} Hz, the passport says {facts['sample_rate']} Hz"
        )
    faults = {
        "damaged": "damaged clips, whose bytes differ from their checksums",
        "clipped": f"clipped clips (more than {CLIPPED:.2%} of the samples at full scale)",
        "silent": "silent clips (RMS below -60 dB of full scale)",
        "narrow": f"clips without power above {NARROW:.0%} of the band, probably made from a lower sample rate",
        "too_long": f"clips longer than {AUDIOSET_SECONDS} s, where AudioSet has 10 s: read at a wrong sample rate, or not cut",
    }
    lines += [f"{len(audio[key]):,} {text}" for key, text in faults.items() if audio[key]]
    lines.append(f"{audio['from_a_lower_rate']:,} clips from files with a sample rate below {facts['sample_rate']} Hz")
    lines.append(
        f"{audio['identical']:,} clips repeat the samples of another clip; {audio['identical_with_other_labels']:,} sets of "
        "identical clips differ in their labels"
    )
    lines.append(
        f"leak audit: {leaks['across_splits']:,} pairs across splits, {leaks['within_splits']:,} pairs within a split; "
        f"{leaks['of_one_track']:,} of all pairs are of one track; {leaks['expected_false_pairs']:g} are expected by chance"
    )
    if leaks["hashes_used"] < 1:
        lines.append(f"{1 - leaks['hashes_used']:.1%} of the fingerprint hashes were too common to be compared")
    return lines


# ---------------------------------------------------------------- the files


def write(folder: Path, facts: dict[str, Any], all_pairs: list[Pair]) -> None:
    """Write the four reports into `folder`. Rows of exclude.csv that were written by hand (no `duplicate_of`) are kept."""
    cells = [
        (*(cell for clip in (pair.stays, pair.goes) for cell in (clip.name, clip.split)),
         pair.kind, f"{pair.offset:.2f}", f"{pair.agreement:.3f}", f"{pair.expected:.2g}")
        for pair in all_pairs
    ]  # fmt: skip
    _write_csv(folder / "duplicates.csv", PAIR_COLUMNS, cells)
    rows = {(row["name"], row["split"]): tuple(row.get(key) or "" for key in EXCLUDE_COLUMNS) for row in _by_hand(folder)}
    for pair in all_pairs:  # in order of agreement, so that the best pair of a clip is the one in exclude.csv
        if pair.across:
            goes, stays = pair.goes, pair.stays
            row = (goes.name, goes.split, stays.name, stays.split, f"{pair.offset:.2f}", f"{pair.agreement:.3f}")
            rows.setdefault((goes.name, goes.split), row)
    _write_csv(folder / "exclude.csv", EXCLUDE_COLUMNS, list(rows.values()))
    write_text(folder / "check.json", json.dumps(facts, ensure_ascii=False, indent=1))
    write_text(folder / "check.md", _page(facts, cells))


def _by_hand(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of exclude.csv that were written by hand."""
    path = folder / "exclude.csv"
    if not path.exists():
        return []
    locate.read_exclude(folder)  # raises `UserError` if the file is malformed
    with open(path, encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if not row.get("duplicate_of")]


def _page(facts: dict[str, Any], cells: list[tuple]) -> str:
    """Returns the text of check.md."""
    splits = facts["splits"]
    lines = [f"# {facts['data_set']} at {facts['sample_rate']} Hz", "", *(f"- {line}" for line in findings(facts)), ""]
    lines += ["## Clips by class: present (missing)", "", *_table(("class", *splits), _class_rows(splits)), ""]
    lines += ["## Pairs of clips with the same sound", ""]
    if cells:
        lines += ["For a pair across splits, exclude.csv lists the clip in the column `goes`. Offsets are in seconds.", ""]
        lines += _table(PAIR_COLUMNS, cells[:_SHOWN])
    else:
        lines.append("No pairs were found.")
    if len(cells) > _SHOWN:
        lines.append(f"\nand {len(cells) - _SHOWN} more in duplicates.csv")
    faults = {key: names for key, names in facts["audio"].items() if isinstance(names, list) and names}
    for key, names in faults.items():
        more = f", and {len(names) - _SHOWN} more in check.json" if len(names) > _SHOWN else ""
        lines += ["", f"## {key.replace('_', ' ').capitalize()}", "", ", ".join(names[:_SHOWN]) + more]
    return "\n".join(lines) + "\n"


def _class_rows(splits: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns one row of the table per class: its name, and its clips in each split."""
    names = list(next(iter(splits.values()))["classes"]) if splits else []
    counts = [[content["classes"][name] for content in splits.values()] for name in names]
    return [
        (name, *(f"{count['clips']:,} ({count['missing']:,})" for count in row))
        for name, row in zip(names, counts, strict=True)
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    cells = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells]


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
    with write_whole(path, "w") as file:
        csv.writer(file).writerows([columns, *rows])
