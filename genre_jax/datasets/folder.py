"""The user's own music: a folder with one sub-folder per class, or a CSV `path,labels[,track,split,start,duration]`."""

import collections
import math
import os
from collections.abc import Iterator
from pathlib import Path

from genre_jax.console import UserError
from genre_jax.datasets import table
from genre_jax.datasets.types import LONGEST, Item, Source
from genre_jax.prepare.audio import EXTENSIONS

REQUIRED = ("path", "labels")
OPTIONAL = ("track", "split", "start", "duration")
SPLITS = ("train", "validation", "test")


def folder(source: Path | None) -> Source:
    """Returns the clips of a folder with one sub-folder per class, or of a CSV with paths relative to the CSV's folder."""
    if source is None:
        raise UserError("data set 'folder' needs --source=PATH: a folder with one sub-folder per class, or a .csv file")
    if source.is_dir():
        return _class_folders(source)
    if source.suffix.lower() == ".csv" and source.is_file():
        return _table(source)
    fault = "is neither a folder nor a .csv file" if source.exists() else "does not exist"
    raise UserError(f"--source={source} {fault}: use a folder with one sub-folder per class, or a .csv file")


def cut_name(path: str, start: float, cut: bool) -> str:
    """Returns the unique name of a clip: its path, and with `cut` also its start in seconds, such as "a.wav@12.5"."""
    return f"{path}@{start:.3f}".rstrip("0").rstrip(".") if cut else path


def walk(top: Path) -> Iterator[Path]:
    """Yield every file below `top` in sorted order. Links are followed, but no folder is entered twice.

    Hidden files and folders are left out.
    """
    seen = set()
    for where, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(where, name) for name in sorted(files) if not name.startswith("."))


def _class_folders(top: Path) -> Source:
    """Returns the clips of a folder with one sub-folder per class."""
    items = []
    ignored: collections.Counter[str] = collections.Counter()
    outside = 0
    for path in walk(top):
        inner = path.relative_to(top)
        if path.suffix.lower() not in EXTENSIONS:
            ignored[path.suffix.lower() or "no extension"] += 1
        elif len(inner.parts) == 1:
            outside += 1
        else:
            name = printable(inner.as_posix())
            track = os.path.splitext(name)[0]  # two encodings of one recording are one track
            items.append(Item(name, track, (name.split("/")[0],), path=str(path)))
    if not items:
        raise UserError(
            f"found no audio below {top}: expected {top}/CLASS/FILE with one of the extensions {' '.join(sorted(EXTENSIONS))}"
        )
    notes = []
    if ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common())
        notes.append(f"{ignored.total()} files that are not audio were ignored ({kinds})")
    if outside:
        notes.append(f"{outside} audio files outside the class folders were ignored")
    labels = tuple(sorted({item.labels[0] for item in items}))
    return Source("folder", labels, tuple(items), notes=tuple(notes))


def printable(name: str) -> str:
    """Returns a file name as valid text; bytes that are not UTF-8 (in old archives) become question marks."""
    return name.encode("utf-8", "replace").decode()


def _table(path: Path) -> Source:
    """Returns the clips of a CSV file; malformed rows are refused."""
    items = []
    refused = []
    rows: dict[str, int] = {}
    content = table.rows(path)
    columns = [column.strip() for column in next(content, (0, []))[1]]
    _check_columns(path, columns)
    for number, cells in content:
        if not any(cell.strip() for cell in cells):
            continue
        try:
            if len(cells) != len(columns):
                raise RowError(f"the row has {len(cells)} cells, but the header has {len(columns)} columns")
            item = _parse_row(path.parent, dict(zip(columns, map(str.strip, cells), strict=True)))
            if item.name in rows:
                raise RowError(f"repeats {item.name!r} of row {rows[item.name]}")
        except RowError as error:
            refused.append((f"{path.name}, row {number}", str(error)))
            continue
        rows[item.name] = number
        items.append(item)
    if not items:
        first = f"; {refused[0][0]}: {refused[0][1]}" if refused else ""
        raise UserError(f"{path} has a header, but no {'usable ' if refused else ''}rows{first}")
    labels = tuple(sorted({label for item in items for label in item.labels}))
    return Source("folder", labels, tuple(items), refused=tuple(refused))


def _check_columns(path: Path, columns: list[str]) -> None:
    """Raise `UserError` if a column of the CSV is missing, unknown or repeated."""
    legal = f"{','.join(REQUIRED)}[,{','.join(OPTIONAL)}]"
    for column in REQUIRED:
        if column not in columns:
            raise UserError(f"{path} has no column {column!r} in its first row {','.join(columns)!r}: expected {legal}")
    for column in columns:
        if column not in REQUIRED + OPTIONAL or columns.count(column) > 1:
            kind = "unknown" if column not in REQUIRED + OPTIONAL else "repeated"
            raise UserError(f"{path} has the {kind} column {column!r}: expected {legal}")


class RowError(Exception):
    """The row is malformed; the text of the error is the reason."""


def _parse_row(base: Path, row: dict[str, str]) -> Item:
    """Returns the item of a CSV row; `base` is the folder of the CSV. Raises `RowError` if the row is malformed."""
    if not row["path"]:
        raise RowError("the path is empty")
    if not os.path.isabs(row["path"]) and os.path.normpath(row["path"]).startswith(".."):
        raise RowError(f"{row['path']!r} leads out of the folder of the CSV: use the absolute path of the file")
    labels = tuple(dict.fromkeys(label.strip() for label in row["labels"].split("|") if label.strip()))
    if not labels:
        raise RowError(f"no label in {row['labels']!r}, expected names separated by '|'")
    split = row.get("split") or None
    if split not in (None, *SPLITS):
        raise RowError(f"unknown split {split!r}, choose one of {', '.join(SPLITS)} or leave it empty")
    start = _seconds("start", row.get("start", ""))
    duration = _seconds("duration", row.get("duration", ""))
    if duration == 0:
        raise RowError(f"duration is '{row['duration']}', expected seconds above 0 or nothing")
    return Item(
        name=cut_name(row["path"], start or 0.0, cut=start is not None or duration is not None),
        track=row.get("track") or os.path.splitext(row["path"])[0],
        labels=labels,
        split=split,
        path=str(base / row["path"]),
        start=start or 0.0,
        duration=duration,
    )


def _seconds(column: str, text: str) -> float | None:
    """Parse a cell with a time in seconds; returns None if the cell is empty."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LONGEST:
        raise RowError(f"{column} is {text!r}, expected seconds, 0 to {LONGEST:.0f}, such as 12.5")
    return value
