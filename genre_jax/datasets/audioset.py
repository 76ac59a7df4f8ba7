"""AudioSet's music: the official segment lists and the 67 classes below "Music" and "Music genre".

Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP 2017. The lists
(research.google.com/audioset/download.html) name ten-second segments of YouTube videos; how one gets the audio is up to
the user. Here it lies already cut, as `ID.ext`, `YID.ext` or `ID_START.ext` (seconds), in any sub-folder.
"""

import collections
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from genre_jax.audio import EXTENSIONS
from genre_jax.console import UserError
from genre_jax.datasets.folder import printable, walk
from genre_jax.datasets.source import Item, Source

LISTS = {  # split → official file
    "unbalanced": "unbalanced_train_segments.csv",
    "balanced": "balanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
LABEL_TABLE = Path(__file__).parents[2] / "third_party" / "audioset_music_labels.csv"


class Segment(NamedTuple):
    """A row of an official list: YouTube id, start and end in seconds, classes as mids in the order of the list."""

    video: str
    start: float
    end: float
    mids: tuple[str, ...]


def music_labels() -> dict[str, str]:
    """Machine id → display name of the 67 music classes, in the order of AudioSet's indices 216 to 282."""
    with open(LABEL_TABLE, encoding="utf-8", newline="") as file:
        return {row["mid"]: row["display_name"] for row in csv.DictReader(file)}


def read_segments(path: Path) -> Iterator[Segment]:
    """The rows of an official list: comment lines, then `ID, start, end, "mid,mid"` with a space after each comma."""
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        for cells in reader:
            if not cells or cells[0].startswith("#"):
                continue
            try:
                video, start, end, mids = cells
                yield Segment(video, float(start), float(end), tuple(mid.strip() for mid in mids.split(",")))
            except ValueError:
                shown = ", ".join(cells)
                raise UserError(
                    f'{path}, row {reader.line_num}: {shown!r} is not a segment, expected ID, START, END, "MID,MID"'
                ) from None


def audioset_music(source: Path | None) -> Source:
    """Clips with at least one of the 67 classes; splits are called as the lists are: unbalanced, balanced, eval."""
    if source is None or not source.is_dir():
        raise UserError(
            f"data set 'audioset_music' needs --source=FOLDER with {', '.join(LISTS.values())} and the audio (got {source})"
        )
    lists, audio = _look_around(source)
    names = music_labels()
    items: list[Item] = []
    missing: collections.Counter[str] = collections.Counter()
    outside = 0
    rows: dict[str, Path] = {}
    for split, path in lists.items():
        for segment in read_segments(path):
            labels = tuple(names[mid] for mid in segment.mids if mid in names)
            if not labels:
                continue
            if segment.video in rows:
                raise UserError(f"{path} lists {segment.video!r}, which {rows[segment.video]} lists too")
            rows[segment.video] = path
            outside += len(segment.mids) - len(labels)
            file = next((audio[stem] for stem in _stems(segment) if stem in audio), None)
            if file is None:
                missing[split] += 1
                continue
            items.append(Item(printable(file.relative_to(source).as_posix()), segment.video, labels, split, str(file)))
    if not items:
        raise UserError(
            f"found the audio of none of the {missing.total()} music clips that {', '.join(p.name for p in lists.values())} "
            f"list, looking below {source} for ID.EXT, YID.EXT and ID_START.EXT (seconds)"
        )
    notes = []
    if missing:
        share = 100 * missing.total() / (missing.total() + len(items))
        notes.append(f"{missing.total()} listed music clips have no audio file ({share:.1f} %)")
    if outside:
        notes.append(f"{outside} labels outside the {len(names)} music classes were dropped")
    return Source("audioset_music", tuple(names.values()), tuple(items), missing=dict(missing), notes=tuple(notes))


def _look_around(source: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The official lists by split, and audio files by stem, wherever they lie below `source`."""
    found: dict[str, Path] = {}
    audio: dict[str, Path] = {}
    for path in walk(source):
        if path.suffix.lower() in EXTENSIONS:
            audio.setdefault(path.stem, path)
        elif path.name in LISTS.values():
            found.setdefault(path.name, path)
    if not found:
        raise UserError(f"found none of {', '.join(LISTS.values())} below {source}")
    return {split: found[name] for split, name in LISTS.items() if name in found}, audio


def _stems(segment: Segment) -> Iterator[str]:
    """The file names, without extension, under which a segment may lie."""
    for video in (segment.video, f"Y{segment.video}"):
        yield video
        yield f"{video}_{segment.start:g}"
        yield f"{video}_{segment.start:.3f}"
