"""The music of AudioSet: the official segment lists with the 67 music classes, or with the classes of a CSV file.

Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP 2017. The lists
(research.google.com/audioset/download.html) name ten-second segments of YouTube videos. The user provides the audio, in any
sub-folder of the source folder and in any mixture of these layouts:

- `ID.ext`: the segment, or the whole video, which is then cut;
- `ID_START.ext` or `ID_START_END.ext`: the segment, with times in seconds or milliseconds;
- each of these with a `Y` before the id;
- tar files of (audio, JSON) pairs;
- parquet files.
"""

import collections
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from genre_jax import shipped
from genre_jax.console import UserError, say
from genre_jax.datasets import table
from genre_jax.datasets.folder import printable, walk
from genre_jax.datasets.types import LONGEST, Item, Render, Source
from genre_jax.prepare import containers, splits
from genre_jax.prepare.audio import EXTENSIONS, AudioError, load

LISTS = {  # split → official file
    "unbalanced": "unbalanced_train_segments.csv",
    "balanced": "balanced_train_segments.csv",
    "eval": "eval_segments.csv",
}
ONTOLOGY = "class_labels_indices.csv"  # all 527 classes; if the source has this file, the mids of the lists are checked
LABEL_TABLE = shipped.THIRD_PARTY / "audioset_music_labels.csv"
MID = re.compile(r"/[a-z]/[0-9a-z_]+")  # a machine id of a class, such as /m/064t9
LOOKED_FOR = "ID.EXT, ID_START.EXT, ID_START_END.EXT (seconds or milliseconds; also YID…), *.tar and *.parquet"
SLACK = 0.1, 0.05  # a file may be longer than its segment by these seconds plus this share, because codecs pad


class Segment(NamedTuple):
    """A row of an official list: YouTube id, start and end in seconds, and the mids of its classes in their order."""

    video: str
    start: float
    end: float
    mids: tuple[str, ...]


class Place(NamedTuple):
    """The audio that has the name `name` in the data set: a file, or a member of a container."""

    name: str
    path: Path
    member: tuple[int, int] | None = None


def audioset_music(source: Path | None, *, labels: str | None = None, subset: str | None = None) -> Source:
    """Returns the clips that have at least one of the classes, in the splits unbalanced, balanced and eval.

    Args:
      source: folder with the official lists and the audio, in any sub-folder.
      labels: CSV file with the column mid (and display_name), or a file with one mid per line; None: the 67 music classes.
      subset: "N[:SEED]" keeps N clips of unbalanced, among them all clips of a smaller N, or all if there are fewer; None: all
        clips.
    """
    if source is None or not source.is_dir():
        raise UserError(
            f"data set 'audioset_music' needs --source=FOLDER with {', '.join(LISTS.values())} and the audio (got {source})"
        )
    lists, ontology, paths, refused = _search(source)
    known = _table(ontology) if ontology else None
    names = music_labels() if labels is None else read_labels(Path(labels), known)
    audio = _audio(source, paths, refused)
    items: list[Item] = []
    missing: list[Item] = []
    outside: collections.Counter[str] = collections.Counter()
    for split, segment in _segments(lists, {*known, *names} if known else None, refused):
        chosen = tuple(names[mid] for mid in segment.mids if mid in names)
        if not chosen:
            continue
        outside[segment.video] = len(segment.mids) - len(chosen)
        item = _item(segment, split, chosen, audio)
        (items if item.path else missing).append(item)
    if not items:
        raise UserError(
            f"found no audio for the {len(missing)} music clips in {', '.join(p.name for p in lists.values())} below {source}, "
            f"expected files {LOOKED_FOR}" + (f" (first refused: {refused[0][0]}: {refused[0][1]})" if refused else "")
        )
    notes = []
    if subset is not None:
        items, missing, note = _subset(subset, items, missing)
        notes.append(note)
    if missing:
        share = 100 * len(missing) / (len(missing) + len(items))
        notes.append(f"{len(missing)} listed music clips have no audio file ({share:.1f} %)")
    dropped = sum(outside[item.track] for item in (*items, *missing))
    if dropped:
        kind = f"{len(names)} music classes" if labels is None else f"{len(names)} classes of {labels}"
        notes.append(f"{dropped} labels outside the {kind} were dropped")
    return Source(
        "audioset_music",
        tuple(names.values()),
        tuple(items),
        render,
        tuple(missing),
        tuple(refused),
        protocol=f"subset:{subset}" if subset else "",
        notes=tuple(notes),
    )


def render(item: Item, sample_rate: int) -> Render:
    """Returns the segment of an item: the whole file if it is about as long, otherwise the segment cut from a longer video.

    Raises `AudioError` if the file is too long, but its name says that it is the segment.
    """
    assert item.duration is not None
    where = containers.audio_of(item)
    whole = load(where, sample_rate, 0.0, 2 * item.duration)  # twice the segment is enough to recognise a whole video
    held = len(whole.samples) / sample_rate
    if held <= item.duration + SLACK[0] + SLACK[1] * item.duration:
        return Render(whole)
    if containers.stem(item.name).startswith((f"{item.track}_", f"Y{item.track}_")):
        raise AudioError(f"too long: {held:.1f} s or more, but its name says that it is the segment of {item.duration:g} s")
    return Render(load(where, sample_rate, item.start, item.duration))


def music_labels() -> dict[str, str]:
    """Returns {mid: display name} of the 67 music classes, in the order of AudioSet's class indices 216 to 282."""
    return _table(LABEL_TABLE)


def read_labels(path: Path, known: Mapping[str, str] | None) -> dict[str, str]:
    """Returns {mid: display name} of a user's list of classes, in the order of the list.

    `known` {mid: display name} gives the names that the list leaves out. Raises `UserError` if the file does not exist or
    names no class, and if a row is not a mid or repeats a mid or a name.
    """
    if not path.is_file():
        raise UserError(f"--labels={path} does not exist: use a CSV with the column mid, or a file with one mid per line")
    names = {**(known or {}), **music_labels()}
    chosen: dict[str, str] = {}
    rows = [row for _, row in table.rows(path) if row]
    header = [cell.strip() for cell in rows[0]] if rows else []
    at = header.index("mid") if "mid" in header else 0
    named = header.index("display_name") if "display_name" in header else None
    for number, row in enumerate(rows[1:] if "mid" in header else rows, start=1):
        mid = row[at].strip() if at < len(row) else ""
        if not MID.fullmatch(mid):
            raise UserError(f"{path}, class {number}: {mid!r} is not a machine id such as /m/064t9")
        name = row[named].strip() if named is not None and named < len(row) else names.get(mid, mid)
        if mid in chosen or name in chosen.values():
            raise UserError(f"{path}, class {number}: repeats {mid if mid in chosen else repr(name)}")
        chosen[mid] = name
    if not chosen:
        raise UserError(f"{path} names no class: it needs at least one machine id such as /m/064t9")
    return chosen


def read_segments(path: Path, refused: list[tuple[str, str]]) -> Iterator[tuple[int, Segment]]:
    """Yield (row number, segment) of an official list. Append each malformed row to `refused` as (row, reason).

    A list has comment lines, then rows `ID, start, end, "mid,mid"` with a space after each comma outside the quotes.
    """
    for number, cells in table.rows(path):
        if not cells or cells[0].startswith("#"):
            continue
        try:
            video, first, last, mids = cells
            chosen = tuple(dict.fromkeys(mid.strip() for mid in mids.split(",")))
            segment = Segment(video, float(first), float(last), chosen)
            if not (video and 0 <= segment.start < segment.end <= LONGEST):
                raise ValueError
        except ValueError:
            refused.append((f"{path.name}, row {number}", f'{", ".join(cells)[:200]!r} is not ID, START, END, "MID,MID"'))
            continue
        yield number, segment


def _segments(
    lists: Mapping[str, Path], known: set[str] | None, refused: list[tuple[str, str]]
) -> Iterator[tuple[str, Segment]]:
    """Yield (split, segment) of all lists. Rows with an unknown mid, or with a video of an earlier row, go to `refused`."""
    rows: dict[str, str] = {}
    for split, path in lists.items():
        for number, segment in read_segments(path, refused):
            here = f"{path.name}, row {number}"
            unknown = [mid for mid in segment.mids if (mid not in known if known else not MID.fullmatch(mid))]
            if unknown:
                refused.append((here, f"unknown mid {unknown[0]!r}"))
            elif segment.video in rows:
                refused.append((here, f"repeats video {segment.video!r} of {rows[segment.video]}"))
            else:
                rows[segment.video] = here
                yield split, segment


def _table(path: Path) -> dict[str, str]:
    """Returns {mid: display name} of a CSV file with these columns."""
    rows = table.rows(path)
    header = next(rows, (0, []))[1]
    if not {"mid", "display_name"} <= set(header):
        raise UserError(f"{path} has no columns mid and display_name: expected AudioSet's columns index,mid,display_name")
    names = {}
    for number, cells in rows:
        if cells and len(cells) != len(header):
            raise UserError(f"{path}, line {number}: the row has {len(cells)} cells, but the header has {len(header)} columns")
        row = dict(zip(header, cells, strict=False))
        if row:
            names[row["mid"]] = row["display_name"]
    return names


def _search(source: Path) -> tuple[dict[str, Path], Path | None, list[Path], list[tuple[str, str]]]:
    """Returns {split: official list}, the table of all classes, the paths that may hold audio, and the refused archives."""
    list_paths: dict[str, Path] = {}
    ontology = None
    paths = []
    refused = []
    for path in walk(source):
        if path.suffix.lower() in EXTENSIONS or path.suffix.lower() in containers.SUFFIXES:
            paths.append(path)
        elif path.name in LISTS.values():
            list_paths.setdefault(path.name, path)
        elif path.name == ONTOLOGY:
            ontology = path
        elif containers.is_packed(path):
            refused.append(
                (
                    printable(path.relative_to(source).as_posix()),
                    "compressed archives are not read: unpack it, or use a plain .tar",
                )
            )
    if not list_paths:
        raise UserError(f"found none of the official lists {', '.join(LISTS.values())} below {source}")
    lists = {split: list_paths[name] for split, name in LISTS.items() if name in list_paths}
    return lists, ontology, paths, refused


def _audio(source: Path, paths: list[Path], refused: list[tuple[str, str]]) -> dict[str, Place]:
    """Returns {file name without extension: place} of all audio. A file takes precedence over a member of a container."""
    audio: dict[str, Place] = {}
    for path in paths:
        if path.suffix.lower() in EXTENSIONS:
            audio.setdefault(path.stem, Place(printable(path.relative_to(source).as_posix()), path))
    container_paths = [path for path in paths if path.suffix.lower() in containers.SUFFIXES]
    if container_paths:
        say(f"reading the contents of {len(container_paths)} tar and parquet files")
    for path in container_paths:
        folder = printable(path.parent.relative_to(source).as_posix())
        for member in containers.members(path, refused):
            name = member.name if folder == "." else f"{folder}/{member.name}"
            audio.setdefault(member.stem, Place(printable(name), path, member.place))
    return audio


def _item(segment: Segment, split: str, labels: tuple[str, ...], audio: Mapping[str, Place]) -> Item:
    """Returns the item of a segment; its path is None if there is no audio."""
    place = next((audio[stem] for stem in _stems(segment) if stem in audio), Place(segment.video, Path()))
    found = place.path != Path()
    duration = segment.end - segment.start
    path = str(place.path) if found else None
    return Item(place.name, segment.video, labels, split, path, segment.start, duration, place.member)


def _stems(segment: Segment) -> Iterator[str]:
    """Yield the file names, without extension, that a segment may have."""
    start, end = segment.start, segment.end
    for video in (segment.video, f"Y{segment.video}"):
        yield video
        for form in _FORMS:
            yield f"{video}_{form(start)}"
            yield f"{video}_{form(start)}_{form(end)}"


_FORMS = (
    lambda seconds: f"{seconds:g}",
    lambda seconds: f"{seconds:.1f}",
    lambda seconds: f"{seconds:.3f}",
    lambda seconds: f"{round(1000 * seconds)}",
)


def _subset(text: str, items: list[Item], missing: list[Item]) -> tuple[list[Item], list[Item], str]:
    """Returns the items and the missing items of the subset `text`, "N[:SEED]", and a sentence for the summary.

    The clips of unbalanced, also the missing ones, are ranked by a hash of seed and video. The first N clips with audio are
    kept, and the missing clips that rank before the last of them. Clips of other splits are kept. If fewer than N clips have
    audio, all are kept, and the sentence is a warning.
    """
    if not re.fullmatch(r"[0-9]{1,9}(:[0-9]{1,9})?", text) or not int(text.split(":")[0]):
        raise UserError(f"--subset={text} is not of the form N or N:SEED with N of 1 or more, such as 19042:0")
    count, _, seed = text.partition(":")
    present = {item.track for item in items if item.split == "unbalanced"}
    if int(count) > len(present):
        return items, missing, f"warning: --subset={text} keeps all {len(present)} clips of unbalanced that have audio"
    ranked = splits.shuffled(present | {item.track for item in missing}, int(seed or 0))
    place = {track: rank for rank, track in enumerate(ranked)}
    last = sorted(place[track] for track in present)[int(count) - 1]
    kept = [[item for item in group if item.split != "unbalanced" or place[item.track] <= last] for group in (items, missing)]
    return kept[0], kept[1], f"subset {text} of unbalanced: the clips with the smallest hash of seed and video"
