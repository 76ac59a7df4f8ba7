"""GTZAN: ten genres with 100 tracks of 30 s each (Tzanetakis & Cook 2002), in files such as `blues.00000.wav` or `.au`.

GTZAN has known faults: 50 exact replicas, 22 more excerpts of the same recordings, and 13 versions (Sturm 2013, arXiv
1306.1461). The default split leaves them out and keeps artists apart: it is the fault-filtered split of Kereliuk, Sturm &
Larsen 2015 (arXiv 1507.04761), with 443 / 197 / 290 tracks. The other splits cannot keep artists apart, because this
repository has no list of the artists.
"""

import re
from pathlib import Path

from genre_jax import shipped
from genre_jax.console import UserError
from genre_jax.datasets import table
from genre_jax.datasets.folder import cut_name, printable, walk
from genre_jax.datasets.types import Item, Source, load_file
from genre_jax.prepare import splits, tfds_records
from genre_jax.prepare.audio import EXTENSIONS

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
TRACKS = tuple(f"{genre}.{number:05d}" for genre in GENRES for number in range(100))
PROTOCOLS = {
    "fault_filtered": "",
    "random": "[:SEED]",
    "stratified_80_10_10": "[:SEED]",
    "stratified_750_250": "[:SEED]",
    "clips_4s_20pct": "[:SEED]",
    "folds": ":K[:SEED]",
}
TENTHS = {"train": 0.8, "validation": 0.1, "test": 0.1}
CLIP_SECONDS, CLIP_STARTS = 4.0, tuple(round(2.85 * number, 2) for number in range(10))  # ten clips in each track of 30 s
REPLICAS = (
    "draws single tracks, therefore replicas, excerpts of one recording and works of one artist are in several splits "
    "(Sturm 2013 counts 50 exact replicas and 22 more excerpts; 35 reggae tracks are by Bob Marley), and scores are higher "
    "than with fault_filtered for this reason alone"
)
WINDOWS = (
    "draws single clips, therefore windows of one track are in both splits, as are replicas; accuracy fell by 10 to 15 points "
    "when users kept the windows of a track together (github.com/Hguimaraes/gtzan.keras issue 10), and this split is only "
    "for comparison with such results"
)


def gtzan(source: Path | None, *, split: str = "fault_filtered") -> Source:
    """Returns the tracks of GTZAN with a split protocol of `PROTOCOLS`.

    `source` is a folder with the files in any sub-folder, or with `gtzan` as prepared by tensorflow-datasets.
    """
    protocol, numbers = splits.parse(split, PROTOCOLS)
    if source is None or not source.is_dir():
        raise UserError(f"data set 'gtzan' needs --source=FOLDER with GENRE.NNNNN.wav or .au files (got {source})")
    records = tfds_records.find(source, "gtzan", GENRES)
    tracks, others = (records, 0) if records is not None else _files(source)
    by_track: dict[str, Item] = {}
    for item in tracks:
        by_track.setdefault(item.track, item)
    if not by_track.keys() & set(TRACKS):
        raise UserError(
            f"found none of the 1000 tracks of GTZAN below {source}, expected files such as blues.00000.wav or .au in any "
            "sub-folder, or the folder gtzan/1.0.0 of tensorflow-datasets"
        )
    items: list[Item] = []
    missing: list[Item] = []
    for place, track in _placed(protocol, numbers).items():
        clip = _clip(by_track.get(track[0]), place, *track)
        (items if clip.path else missing).append(clip)
    notes = []
    if protocol == "fault_filtered":
        left = len(by_track.keys() & set(TRACKS)) - len(items)
        notes.append(
            f"split fault_filtered leaves out {left} tracks of the source (replicas, distortions; Kereliuk et al. 2015)"
        )
    else:
        notes.append(f"split {split} {WINDOWS if protocol == 'clips_4s_20pct' else REPLICAS}")
    if missing:
        notes.append(f"{len(missing)} clips of split {split} have no audio file, such as {missing[0].name}")
    if others or len(tracks) > len(by_track):
        notes.append(f"{others} other files and {len(tracks) - len(by_track)} second copies of a track were ignored")
    render = load_file if records is None else tfds_records.render
    return Source("gtzan", GENRES, tuple(items), render, tuple(missing), protocol=split, notes=tuple(notes))


def _files(source: Path) -> tuple[list[Item], int]:
    """Returns one item per file with the name of a track, and the number of other files."""
    items, others = [], 0
    for path in walk(source):
        if path.suffix.lower() in EXTENSIONS and path.stem in _KNOWN:
            items.append(Item(printable(path.relative_to(source).as_posix()), path.stem, (), path=str(path)))
        else:
            others += 1
    return items, others


_KNOWN = frozenset(TRACKS)


def _placed(protocol: str, numbers: list[int]) -> dict[str, tuple[str, str]]:
    """Returns {clip: (track, split)} of all tracks. The split of a track does not depend on which files exist."""
    genre = {track: track.split(".")[0] for track in TRACKS}
    if protocol == "fault_filtered":
        lists = {"train": "train", "validation": "valid", "test": "test"}
        return {track: (track, split) for split, name in lists.items() for track in fault_filtered(name)}
    if protocol == "random":
        placed = splits.drawn(TRACKS, TENTHS, *numbers)
    elif protocol == "stratified_80_10_10":
        placed = splits.stratified(genre, TENTHS, *numbers)
    elif protocol == "stratified_750_250":
        placed = splits.stratified(genre, {"train": 0.75, "test": 0.25}, *numbers)
    elif protocol == "folds":
        placed = splits.folds({track: [genre[track]] for track in TRACKS}, *numbers)
    else:
        clips = {cut_name(track, start, cut=True): genre[track] for track in TRACKS for start in CLIP_STARTS}
        drawn = splits.stratified(clips, {"train": 0.8, "test": 0.2}, *numbers)
        return {clip: (clip.split("@")[0], drawn[clip]) for clip in clips}
    return {track: (track, placed[track]) for track in TRACKS}


def fault_filtered(name: str) -> list[str]:
    """Returns the tracks in one of the lists of Kereliuk et al.: "train", "valid" or "test"."""
    lines = table.lines(shipped.THIRD_PARTY / f"gtzan_{name}_fault_filtered.txt")
    return [re.sub(r"^.*/|\.wav$", "", word) for line in lines for word in line.split()]


def _clip(whole: Item | None, place: str, track: str, split: str) -> Item:
    """Returns the item of a clip; `whole` is the item of its track, None if the track is missing.

    `place` is "TRACK" or "TRACK@START". It becomes the track of the clip, so that every cut clip counts as a track.
    """
    _, cut, start = place.partition("@")
    return Item(
        name=(whole.name if whole else track) + cut + start,
        track=place,
        labels=(track.split(".")[0],),
        split=split,
        path=whole.path if whole else None,
        start=float(start or 0),
        duration=CLIP_SECONDS if cut else None,
        member=whole.member if whole else None,
    )
