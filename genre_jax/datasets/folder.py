"""The user's own music: a folder with one sub-folder per class, or a CSV `path,labels[,track,artist,split,start,duration]`.

With the split protocol `hash`, `prepare/build.py` splits the tracks for which the CSV gives no split.
"""

import collections
import dataclasses
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from genre_jax.console import UserError
from genre_jax.datasets import table
from genre_jax.datasets.types import LONGEST, Item, Source
from genre_jax.prepare import splits
from genre_jax.prepare.audio import EXTENSIONS, KNOWN

REQUIRED = ("path", "labels")
OPTIONAL = ("track", "artist", "split", "start", "duration")
SPLITS = ("train", "validation", "test")
PROTOCOLS = {"hash": "", "folds": ":K[:SEED]"}


def folder(source: Path | None, *, split: str = "hash") -> Source:
    """Returns the clips of a folder with one sub-folder per class, or of a CSV with paths relative to the CSV's folder.

    `split` is one of `PROTOCOLS`.
    """
    protocol, numbers = splits.parse(split, PROTOCOLS)
    found = _find(source)
    if protocol == "hash":
        return found
    if stated := next((item for item in found.items if item.split), None):
        raise UserError(f"{source} gives split {stated.split!r} to {stated.name}: remove its column split, or --split={split}")
    labels: dict[str, list[str]] = {}
    for item in found.items:
        labels.setdefault(item.artist or item.track, []).extend(item.labels)
    placed = splits.folds(labels, *numbers)
    items = tuple(dataclasses.replace(item, split=placed[item.artist or item.track]) for item in found.items)
    return dataclasses.replace(found, items=items, protocol=split)


def _find(source: Path | None) -> Source:
    """Returns the clips of a source; those without a split in a CSV have none."""
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
        raise UserError(f"found no audio below {top}: expected {top}/CLASS/FILE, {KNOWN}")
    notes = []
    if ignored:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common())
        notes.append(f"{ignored.total()} files were ignored, because their extension is not listed ({kinds})")
    if outside:
        notes.append(f"{outside} audio files outside the class folders were ignored")
    labels = tuple(sorted({item.labels[0] for item in items}))
    return Source("folder", labels, tuple(items), notes=(*notes, *_alike(labels)))


def _alike(labels: tuple[str, ...]) -> list[str]:
    """Returns a warning for each group of labels that differ only in capital letters."""
    groups = collections.defaultdict(list)
    for label in labels:
        groups[label.casefold()].append(label)
    return [
        f"warning: classes {' and '.join(map(repr, group))} differ only in capital letters: use one spelling if they are one"
        for group in groups.values()
        if len(group) > 1
    ]


def printable(name: str) -> str:
    """Returns a file name as valid text; bytes that are not UTF-8 (in old archives) become question marks."""
    return name.encode("utf-8", "replace").decode()


def _table(path: Path) -> Source:
    """Returns the clips of a CSV file; malformed rows are refused, and rows that give a clip more labels are merged."""
    items: dict[str, Item] = {}
    refused = []
    first_row: dict[str, int] = {}
    repeated = 0
    content = table.rows(path, table.delimiter(path))
    columns = [column.strip() for column in next(content, (0, []))[1]]
    _check_columns(path, columns)
    for number, cells in content:
        if not any(cell.strip() for cell in cells):
            continue
        try:
            if len(cells) != len(columns):
                raise RowError(f"the row has {len(cells)} cells, but the header has {len(columns)} columns")
            item = _parse_row(path.parent, dict(zip(columns, map(str.strip, cells), strict=True)))
            if item.name in items:
                item = _merged(items[item.name], item, first_row[item.name])
                repeated += 1
        except RowError as error:
            refused.append((f"{path.name}, row {number}", str(error)))
            continue
        first_row.setdefault(item.name, number)
        items[item.name] = item
    if not items:
        first = f"; {refused[0][0]}: {refused[0][1]}" if refused else ""
        raise UserError(f"{path} has a header, but no {'usable ' if refused else ''}rows{first}")
    labels = tuple(sorted({label for item in items.values() for label in item.labels}))
    notes = [f"{repeated} rows name a clip again, and their labels were merged"] if repeated else []
    return Source("folder", labels, tuple(items.values()), refused=tuple(refused), notes=(*notes, *_alike(labels)))


def _merged(item: Item, again: Item, row: int) -> Item:
    """Returns `item` of row `row` with the labels of both. Raises `RowError` if the items differ in anything else."""
    if dataclasses.replace(again, labels=item.labels) != item:
        raise RowError(f"repeats {item.name!r} of row {row} with another track, split or duration")
    return dataclasses.replace(item, labels=tuple(dict.fromkeys(item.labels + again.labels)))


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
    path = _one_spelling(base, row["path"])
    split = row.get("split") or None
    if split not in (None, *SPLITS):
        raise RowError(f"unknown split {split!r}, choose one of {', '.join(SPLITS)} or leave it empty")
    start = _seconds("start", row.get("start", ""))
    duration = _seconds("duration", row.get("duration", ""))
    if duration == 0:
        raise RowError(f"duration is '{row['duration']}', expected seconds above 0 or nothing")
    return Item(
        name=cut_name(path, start or 0.0, cut=start is not None or duration is not None),
        track=row.get("track") or os.path.splitext(path)[0],
        labels=_labels(row["labels"]),
        split=split,
        path=str(base / path),
        start=start or 0.0,
        duration=duration,
        artist=row.get("artist", ""),
    )


def _one_spelling(base: Path, path: str) -> str:
    """Returns the path of a row, relative to `base` if the file lies below it, so that a file has one name in a data set.

    Raises `RowError` if the path leads out of `base`, or begins with a drive of Windows.
    """
    windows = os.sep == "/" and ("\\" in path or path[1:2] == ":") and not os.path.lexists(base / path)
    if windows and PureWindowsPath(path).drive:
        raise RowError(f"{path!r} is on a drive of Windows: use the path from the folder of the CSV to the file")
    inner = os.path.normpath(path.replace("\\", "/") if windows else path)
    if os.path.isabs(inner):
        absolute, top = Path(inner), Path(os.path.abspath(base))
        return (absolute.relative_to(top) if absolute.is_relative_to(top) else absolute).as_posix()
    if Path(inner).parts[:1] == ("..",):
        raise RowError(f"{path!r} leads out of the folder of the CSV: use the absolute path of the file")
    return Path(inner).as_posix()


def _labels(cell: str) -> tuple[str, ...]:
    """Returns the names in a cell, each once. Raises `RowError` if there is none, or if they are not separated by '|'."""
    names = (name.strip(" '\"") for name in re.split("[|,;]", cell.strip("[]")))
    right = "|".join(filter(None, names))
    if not right:
        raise RowError(f"no label in {cell!r}, expected names separated by '|'")
    if (cell.startswith("[") and cell.endswith("]")) or "," in cell or ";" in cell:
        raise RowError(f"labels is {cell!r}: write {right!r} for several labels; a name must not hold ',' or ';'")
    return tuple(dict.fromkeys(label.strip() for label in cell.split("|") if label.strip()))


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
