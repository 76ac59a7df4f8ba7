"""GTZAN: ten genres of 100 tracks of 30 s (Tzanetakis & Cook 2002), `blues.00000.wav` or `.au` in any sub-folder.

Its faults are known (Sturm 2013, arXiv 1306.1461: 50 exact replicas, 22 more excerpts of the same recordings, 13
versions), hence the default split: the artist-disjoint, fault-filtered one of Kereliuk, Sturm & Larsen 2015
(arXiv 1507.04761), 443 / 197 / 290 tracks. No list of GTZAN's artists comes with this code, so no other split knows them.
"""

import re
from pathlib import Path

from genre_jax.console import UserError
from genre_jax.datasets.folder import cut_name, printable, walk
from genre_jax.datasets.types import Item, Source, load_file
from genre_jax.prepare import splits, tfds_records
from genre_jax.prepare.audio import EXTENSIONS

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
TRACKS = tuple(f"{genre}.{number:05d}" for genre in GENRES for number in range(100))
PROTOCOLS = {
    "fault_filtered": "",
    "random": "[:SEED]",
    "stratified_750_250": "[:SEED]",
    "clips_4s_20pct": "[:SEED]",
    "folds": ":K:INDEX[:SEED]",
}
LISTS = Path(__file__).parents[2] / "third_party"
CLIP_SECONDS, CLIP_STARTS = 4.0, tuple(round(2.85 * number, 2) for number in range(10))  # ten clips in the 30 s of a track
REPLICAS = (
    "tracks are drawn, so that replicas, excerpts of one recording and works of one artist lie on both sides (Sturm 2013 "
    "counts 50 exact replicas and 22 more excerpts; 35 reggae tracks are Bob Marley's): its scores are higher than "
    "fault_filtered's for that alone"
)
WINDOWS = (
    "clips are drawn, so that windows of one track lie on both sides (10 to 15 points of accuracy went when users kept "
    "them together, github.com/Hguimaraes/gtzan.keras issue 10), beside the replicas: for comparison with such results only"
)


def gtzan(source: Path | None, *, split: str = "fault_filtered") -> Source:
    """GTZAN's tracks under a split protocol of `PROTOCOLS`; `source` holds the files, or tensorflow-datasets' `gtzan`."""
    protocol, numbers = splits.parse(split, PROTOCOLS)
    if source is None or not source.is_dir():
        raise UserError(f"data set 'gtzan' needs --source=FOLDER with GENRE.NNNNN.wav or .au files (got {source})")
    found = tfds_records.find(source, "gtzan", GENRES)
    recorded, others = (found, 0) if found is not None else _files(source)
    by_track: dict[str, Item] = {}
    for item in recorded:
        by_track.setdefault(item.track, item)
    if not by_track.keys() & set(TRACKS):
        raise UserError(
            f"found none of GTZAN's 1000 tracks below {source}, looking for blues.00000.wav or .au, and so on, in any "
            "sub-folder, and for tensorflow-datasets' gtzan/1.0.0"
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
            f"split fault_filtered leaves out {left} of the tracks found (replicas, distortions; Kereliuk et al. 2015)"
        )
    else:
        notes.append(f"split {split}: {WINDOWS if protocol == 'clips_4s_20pct' else REPLICAS}")
    if missing:
        notes.append(f"{len(missing)} of the clips that split {split} names have no file, the first is {missing[0].name}")
    if others or len(recorded) > len(by_track):
        notes.append(f"{others} other files were ignored, and {len(recorded) - len(by_track)} second copies of a track")
    render = load_file if found is None else tfds_records.render
    return Source("gtzan", GENRES, tuple(items), render, tuple(missing), protocol=split, notes=tuple(notes))


def _files(source: Path) -> tuple[list[Item], int]:
    """An item for each file that is called as a track is, and how many are not."""
    items, others = [], 0
    for path in walk(source):
        if path.suffix.lower() in EXTENSIONS and path.stem in _KNOWN:
            items.append(Item(printable(path.relative_to(source).as_posix()), path.stem, (), path=str(path)))
        else:
            others += 1
    return items, others


_KNOWN = frozenset(TRACKS)


def _placed(protocol: str, numbers: list[int]) -> dict[str, tuple[str, str]]:
    """Clip → (track, split), whatever files there are: a file more or less moves no other."""
    genre = {track: track.split(".")[0] for track in TRACKS}
    if protocol == "fault_filtered":
        lists = {"train": "train", "validation": "valid", "test": "test"}
        return {track: (track, split) for split, name in lists.items() for track in fault_filtered(name)}
    if protocol == "random":
        placed = splits.stratified(genre, {"train": 0.8, "validation": 0.1, "test": 0.1}, *numbers)
    elif protocol == "stratified_750_250":
        placed = splits.stratified(genre, {"train": 0.75, "test": 0.25}, *numbers)
    elif protocol == "folds":
        placed = splits.folds(genre, *numbers)
    else:
        clips = {cut_name(track, start, cut=True): genre[track] for track in TRACKS for start in CLIP_STARTS}
        drawn = splits.stratified(clips, {"train": 0.8, "test": 0.2}, *numbers)
        return {clip: (clip.split("@")[0], drawn[clip]) for clip in clips}
    return {track: (track, placed[track]) for track in TRACKS}


def fault_filtered(name: str) -> list[str]:
    """The tracks of a list of Kereliuk et al.: "train", "valid" or "test"."""
    lines = (LISTS / f"gtzan_{name}_fault_filtered.txt").read_text(encoding="utf-8").split()
    return [re.sub(r"^.*/|\.wav$", "", line) for line in lines]


def _clip(recorded: Item | None, place: str, track: str, split: str) -> Item:
    """The item called `place` of a track; cut where the protocol cuts, in which case every clip is a track of its own."""
    _, cut, start = place.partition("@")
    return Item(
        name=(recorded.name if recorded else track) + cut + start,
        track=place,
        labels=(track.split(".")[0],),
        split=split,
        path=recorded.path if recorded else None,
        start=float(start or 0),
        duration=CLIP_SECONDS if cut else None,
        member=recorded.member if recorded else None,
    )
