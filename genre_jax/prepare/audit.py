"""The command `python -m genre_jax.prepare --check DIR`: read prepared data sets back and report their faults.

`check` works in three steps:

1. `audit_clips.read` compares every clip with its checksum and measures it: levels, bandwidth, a hash of the samples, an
   acoustic fingerprint.
2. `pairs` finds clips that hold the same sound, also if one of them is shifted or encoded again (`fingerprint.py`).
3. `audit_report` counts the clips by split and class, and lists clips that are damaged, missing, clipped, silent, identical,
   or have a wrong sample rate. Into the folder of the data set it writes `check.json`, `check.md`, `duplicates.csv` (all
   pairs) and `exclude.csv`, which lists one clip of each pair across splits. Training and evaluation leave out the clips
   in it.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genre_jax import console
from genre_jax.console import UserError, say
from genre_jax.data import locate, tfrecord
from genre_jax.prepare import audit_report, fingerprint
from genre_jax.prepare.audit_clips import SILENT_RMS, STAYS, Clip, Pair, Progress, read
from genre_jax.prepare.workers import cores


def command(place: Path, name: str | None, workers: int | None, strict: bool) -> int:
    """Check data sets and print the findings; returns the exit code, 1 if a data set is damaged.

    `place` is the folder of one data set, or a folder of data sets, of which only `name` is checked unless it is None.
    Raises `UserError` if there is no such data set, and with `strict` if a clip leaks from one split to another.
    """
    if not tfrecord.HAS_CHECKSUM:
        raise UserError("--check needs google-crc32c, which is not installed: pip install google-crc32c")
    faults = 0
    for folder in _folders(place, name):
        try:
            facts = check(folder, workers)
        except UserError as error:  # the other data sets are still checked
            console.complain(error)
            faults += 1
            continue
        say("\n".join([f"{folder}:", *(f"  {line}" for line in audit_report.findings(facts))]))
        leaking = facts["leaks"]["excluded"]
        say(f"  reports: {folder / 'check.md'}, duplicates.csv; exclude.csv lists {leaking} clips, which training leaves out")
        if strict and leaking:
            raise UserError(
                f"{leaking} clips of {folder} are also in another split (see duplicates.csv), and --strict allows none"
            )
        faults += len(facts["audio"]["damaged"])
    return 1 if faults else 0


def check(folder: Path, workers: int | None = None) -> dict[str, Any]:
    """Check the data set in `folder`, write the reports into it, and return the content of check.json."""
    passport = locate.read_passport(folder)
    splits = list(passport["splits"])
    workers = workers or cores()
    clips, damaged = read(folder, splits, workers)
    all_pairs, used = pairs(clips, splits, workers)
    facts = audit_report.account(passport, folder, clips, damaged, all_pairs, used)
    audit_report.write(folder, facts, all_pairs)
    return facts


def pairs(clips: list[Clip], splits: Sequence[str], threads: int = 1) -> tuple[list[Pair], float]:
    """Returns the pairs of clips with the same sound, and the share of the fingerprint hashes that were used.

    Pairs across splits come first, and pairs with high agreement before others. The clip in the split that `STAYS` names
    first stays; among other splits, the clip in the split that comes later in `splits` stays.
    """
    order = {split: (STAYS.index(split) if split in STAYS else len(STAYS), -at) for at, split in enumerate(splits)}
    matches, used = fingerprint.find([c.heard.fingerprint for c in clips], threads, Progress("comparing", len(clips)))
    matched: dict[tuple[int, int], tuple[str, float, float, float]] = {}
    for match in matches:
        matched[match.first, match.second] = ("alike", match.offset, match.agreeing / match.peaks, match.expected)
    same: dict[bytes, list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        if clip.heard.rms >= SILENT_RMS:
            same[clip.heard.digest].append(number)
    for group in same.values():
        first = min(group, key=lambda number: order[clips[number].split])
        for other in group:
            if other != first:
                matched[min(first, other), max(first, other)] = ("identical", 0.0, 1.0, 0.0)
    made = []
    for (a, b), (kind, offset, agreement, expected) in matched.items():
        if order[clips[a].split] > order[clips[b].split]:
            a, b, offset = b, a, -offset
        offset = round(offset, 2) + 0.0  # turns -0.0 into 0.0
        made.append(Pair(clips[a], clips[b], kind, offset, agreement, expected))
    return sorted(made, key=lambda p: (not p.across, -p.agreement, p.stays.name, p.goes.name)), used


def _folders(place: Path, name: str | None) -> list[Path]:
    """Returns the folders of the data sets to check."""
    if (place / "passport.json").exists():
        return [place]
    prepared = locate.prepared(place)
    if not prepared:
        raise UserError(
            f"there is no prepared data set in {str(place)!r}: pass the --data_dir of a prepare, or the folder of one data set"
        )
    if name is not None and name not in prepared:
        raise console.unknown("data set", name, prepared)
    return [locate.directory(place, key, rate) for key, rates in prepared.items() if name in (None, key) for rate in rates]
