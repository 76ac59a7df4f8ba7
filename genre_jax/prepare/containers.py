"""Clips inside containers: tar shards of (audio, json) pairs, and parquet files with a column of audio bytes.

Nothing is ever unpacked: a clip's place in its container is noted, and the worker that decodes it reads its bytes there.
"""

import functools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from genre_jax.datasets.types import Item
from genre_jax.prepare.audio import EXTENSIONS, AudioError

ID_KEYS = ("video_id", "ytid", "YTID", "youtube_id", "segment_id", "id", "name", "__key__")  # of JSON and of columns, in order
AUDIO_COLUMNS = ("audio", "bytes", "audio_bytes", "wav", "flac", "mp3", "ogg", "m4a", "opus")
SUFFIXES = (".tar", ".parquet")
_JSON_BYTES = 1 << 20  # a longer description is none
_PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Member(NamedTuple):
    """A clip in a container: `stem` as a file of its own would be called, its `name`, and its place."""

    stem: str
    name: str
    path: Path
    place: tuple[int, int]


def members(path: Path, refused: list[tuple[str, str]]) -> Iterator[Member]:
    """The clips of a tar or parquet file; what cannot be used goes to `refused` as (name, reason)."""
    yield from (_tar if path.suffix.lower() == ".tar" else _parquet)(path, refused)


def stem(name: str) -> str:
    """The last part of a name, without the extension of an audio file; "ID_30.000" has none."""
    last = PurePosixPath(name)
    return last.stem if last.suffix.lower() in EXTENSIONS else last.name


def is_packed(path: Path) -> bool:
    """Whether this is a compressed archive, in which no clip can be reached without unpacking all before it."""
    return path.name.lower().endswith(_PACKED)


def audio_of(item: Item) -> Path | bytes:
    """The file of an item, or its bytes where it lies in a container. Raises `AudioError` where there are none."""
    assert item.path is not None
    path = Path(item.path)
    if item.member is None:
        return path
    if path.suffix.lower() == ".tar":
        with open(path, "rb") as file:
            file.seek(item.member[0])
            return file.read(item.member[1])
    group, row = item.member
    data = _row_group(path, group)[row].as_py()
    data = data.get("bytes") if isinstance(data, dict) else data
    if not data:
        raise AudioError("the row holds no bytes of audio")
    return data


# ---------------------------------------------------------------- tar


def _tar(path: Path, refused: list[tuple[str, str]]) -> Iterator[Member]:
    """Pairs are joined by their name without extension; the JSON's id, where there is one, stands for the name."""
    found: dict[str, Member] = {}
    ids: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                name = PurePosixPath(info.name)
                if info.isdir():
                    continue
                if name.is_absolute() or ".." in name.parts:
                    refused.append((f"{path.name}/{info.name}", "its name leads out of the archive"))
                elif not info.isreg():
                    refused.append((f"{path.name}/{info.name}", "is a link or a device, not a file"))
                elif name.suffix.lower() == ".json":
                    if (own := _json_id(tar, info)) is None:
                        refused.append((f"{path.name}/{info.name}", "not a JSON object"))
                    elif own:
                        ids[str(name.with_suffix(""))] = own
                elif name.suffix.lower() in EXTENSIONS:
                    key = str(name.with_suffix(""))
                    found.setdefault(key, Member(name.stem, f"{path.name}/{name}", path, (info.offset_data, info.size)))
    except (tarfile.TarError, EOFError, OSError) as error:
        refused.append((path.name, f"the archive cannot be read beyond its {len(found)} first clips: {error}"))
    size = path.stat().st_size
    for key, member in found.items():
        if sum(member.place) > size:
            refused.append((member.name, "cut off: the archive ends inside this file"))
        else:
            yield member._replace(stem=ids.get(key, member.stem))


def _json_id(tar: tarfile.TarFile, info: tarfile.TarInfo) -> str | None:
    """The id in a JSON member, "" where it has none, None where it is no JSON object."""
    file = tar.extractfile(info) if info.size <= _JSON_BYTES else None
    try:
        told = json.loads(file.read()) if file else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    return next((stem(told[key]) for key in ID_KEYS if isinstance(told.get(key), str)), "")


# ---------------------------------------------------------------- parquet


def _parquet(path: Path, refused: list[tuple[str, str]]) -> Iterator[Member]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            column = next((name for name in AUDIO_COLUMNS if name in file.schema_arrow.names), None)
            key = next((name for name in ID_KEYS if name in file.schema_arrow.names), None)
            if column is None:
                refused.append((path.name, f"has no column of audio bytes, expected one of {', '.join(AUDIO_COLUMNS)}"))
                return
            if key is None and not pa.types.is_struct(file.schema_arrow.field(column).type):
                refused.append((path.name, f"has no column that names its clips, expected one of {', '.join(ID_KEYS)}"))
                return
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[key or f"{column}.path"])
                for row, value in enumerate(table.column(0).to_pylist()):
                    text = value.get("path") if isinstance(value, dict) else value
                    if not isinstance(text, str) or not text:
                        refused.append((f"{path.name}/{group}/{row}", f"its {key or column + '.path'} is {text!r}"))
                        continue
                    yield Member(stem(text), f"{path.name}/{PurePosixPath(text).name}", path, (group, row))
    except (pa.ArrowException, OSError) as error:
        refused.append((path.name, f"not a parquet file that can be read: {' '.join(str(error).split())}"))


@functools.lru_cache(maxsize=1)  # items come in the order of the file
def _row_group(path: Path, group: int):
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        column = next(name for name in AUDIO_COLUMNS if name in file.schema_arrow.names)
        return file.read_row_group(group, columns=[column]).column(0)
