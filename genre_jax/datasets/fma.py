"""FMA small and medium: 30-second clips of the Free Music Archive (Defferrard et al., ISMIR 2017, github.com/mdeff/fma).

`tracks.csv` in fma_metadata.zip has three header rows, and states the split, subset, genre and artist of every track. The
clips have paths such as `000/000002.mp3`. No artist is in two splits of the official protocol. This module has no list of
the known faulty files: decoding finds them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from genre_jax.console import UserError
from genre_jax.datasets import table as tables
from genre_jax.datasets.folder import printable, walk
from genre_jax.datasets.types import Item, Render, Source, load_file
from genre_jax.prepare import splits
from genre_jax.prepare.audio import EXTENSIONS, AudioError

PROTOCOLS = {"official": "", "70_30": "[:SEED]", "artists_70_30": "[:SEED]", "folds": ":K[:SEED]"}
OFFICIAL = {"training": "train", "validation": "validation", "test": "test"}
SUBSETS = {"small": ("small",), "medium": ("small", "medium")}  # the medium set contains the small set
COLUMNS = {"split": ("set", "split"), "subset": ("set", "subset"), "genre": ("track", "genre_top"), "artist": ("artist", "id")}
SHORTEST = 15.0  # seconds, half the nominal length of a clip


def fma_small(source: Path | None, *, split: str = "official") -> Source:
    """Returns the 8,000 clips of eight genres, with a split protocol of `PROTOCOLS`."""
    return _fma(source, "small", split)


def fma_medium(source: Path | None, *, split: str = "official") -> Source:
    """Returns the 25,000 clips of sixteen genres, with a split protocol of `PROTOCOLS`."""
    return _fma(source, "medium", split)


def render(item: Item, sample_rate: int) -> Render:
    """Decode the clip of an item. Raises `AudioError` if it is shorter than half the nominal 30 seconds."""
    made = load_file(item, sample_rate)
    seconds = len(made.audio.samples) / sample_rate
    if seconds < SHORTEST:
        raise AudioError(f"too short: {seconds:.1f} s, where FMA clips have 30 s and the minimum is {SHORTEST:g} s")
    return made


def _fma(source: Path | None, subset: str, split: str) -> Source:
    """Returns the clips of the FMA set `subset`."""
    protocol, numbers = splits.parse(split, PROTOCOLS)
    kind = f"fma_{subset}"
    if source is None or not source.is_dir():
        raise UserError(
            f"data set {kind!r} needs --source=FOLDER with tracks.csv and clips such as 000/000002.mp3 (got {source})"
        )
    files: dict[str, Path] = {}
    table = None
    for path in walk(source):
        if path.name == "tracks.csv":
            table = table or path
        elif path.suffix.lower() in EXTENSIONS and path.stem.isdigit():
            files.setdefault(path.stem, path)
    if table is None:
        raise UserError(f"found no tracks.csv below {source}: it is part of fma_metadata.zip")
    refused: list[tuple[str, str]] = []
    rows = list(_rows(table, SUBSETS[subset], refused))
    placed = _place(protocol, numbers, rows)
    items: list[Item] = []
    missing: list[Item] = []
    for row in rows:
        name = f"{int(row['track']):06d}"
        file = files.get(name)
        place = printable(file.relative_to(source).as_posix()) if file else f"{name[:3]}/{name}.mp3"
        item = Item(place, name, (row["genre"],), placed[row["track"]], path=str(file) if file else None)
        (items if file else missing).append(item)
    if not items:
        raise UserError(
            f"found no audio below {source} for the {len(missing)} clips that {table} lists for FMA {subset}, "
            "expected files such as 000/000002.mp3 in any sub-folder"
        )
    notes = []
    if missing:
        notes.append(f"{len(missing)} of the {len(rows)} clips of FMA {subset} have no audio file, such as {missing[0].name}")
    if protocol == "70_30":
        notes.append(
            f"split {split} draws single clips, therefore works of one artist may be in both splits; the official split "
            "keeps artists apart"
        )
    labels = tuple(sorted({row["genre"] for row in rows}))
    return Source(kind, labels, tuple(items), render, tuple(missing), tuple(refused), split, tuple(notes))


def _rows(table: Path, subsets: tuple[str, ...], refused: list[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Yield track, split, genre and artist of the rows in these subsets. Append malformed rows to `refused`."""
    content = tables.rows(table)
    first, second, third = (next(content, (0, []))[1] for _ in range(3))
    headers = list(zip(first, second, strict=False))
    lacking = [".".join(column) for column in COLUMNS.values() if column not in headers]
    if lacking or third[:1] != ["track_id"]:
        raise UserError(
            f"{table} is not the table of FMA with three header rows: it has no {', '.join(lacking or ['track_id'])}"
        )
    place = {name: headers.index(column) for name, column in COLUMNS.items()}
    seen: set[str] = set()
    for number, cells in content:
        row = {name: cells[at].strip() for name, at in place.items() if at < len(cells)} | {"track": (cells or [""])[0]}
        if not cells or row.get("subset", subsets[0]) not in subsets:
            continue
        if reason := _reason(row, seen):
            refused.append((f"{table.name}, row {number}", reason))
        else:
            seen.add(row["track"])
            yield row


def _reason(row: dict[str, str], seen: set[str]) -> str:
    """Returns why a row of the table is malformed, or an empty string."""
    if len(row) <= len(COLUMNS):
        return f"the row has too few cells, expected {', '.join('.'.join(column) for column in COLUMNS.values())}"
    if not re.fullmatch(r"[0-9]{1,9}", row["track"]):
        return f"track_id is {row['track'][:50]!r}, expected a number"
    if row["track"] in seen:
        return f"repeats track {row['track']}"
    if row["split"] not in OFFICIAL:
        return f"track {row['track']} is in split {row['split']!r}, expected one of {', '.join(OFFICIAL)}"
    return "" if row["genre"] else f"track {row['track']} has no genre_top"


def _place(protocol: str, numbers: list[int], rows: list[dict[str, str]]) -> dict[str, str]:
    """Returns {track: split}."""
    if protocol == "official":
        return {row["track"]: OFFICIAL[row["split"]] for row in rows}
    shares = {"train": 0.7, "test": 0.3}
    if protocol == "70_30":
        return splits.stratified({row["track"]: row["genre"] for row in rows}, shares, *numbers)
    genres: dict[str, list[str]] = {}
    for row in rows:
        genres.setdefault(_artist(row), []).append(row["genre"])
    # `drawn` has no regard for genres, because an artist may have several.
    artists = splits.folds(genres, *numbers) if protocol == "folds" else splits.drawn(genres, shares, *numbers)
    return {row["track"]: artists[_artist(row)] for row in rows}


def _artist(row: dict[str, str]) -> str:
    """Returns the artist of a track. A track whose row names no artist counts as the only work of its artist."""
    return row["artist"] or f"track {row['track']}"
