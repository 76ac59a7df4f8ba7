"""Clips inside containers: tar archives of (audio, JSON) pairs, and parquet files with a column of audio bytes.

Containers are never unpacked to disk. `members` notes the position of each clip in its container, and the worker that
decodes the clip reads the bytes from there (`audio_of`).
"""

import functools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from genre_jax.console import UserError
from genre_jax.datasets.types import Item
from genre_jax.prepare.audio import EXTENSIONS, AudioError

# JSON keys and parquet columns that may hold the id of a clip; the first that exists is used.
ID_KEYS = ("video_id", "ytid", "YTID", "youtube_id", "segment_id", "id", "name", "__key__")
AUDIO_COLUMNS = ("audio", "bytes", "audio_bytes", "wav", "flac", "mp3", "ogg", "m4a", "opus")
SUFFIXES = (".tar", ".parquet")
_JSON_BYTES = 1 << 20  # a longer JSON member is not a description of a clip
_PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Member(NamedTuple):
    """A clip in a container.

    Attributes:
      stem: file name without extension that the clip would have outside a container.
      name: name of the container, then of the member.
      path: the container.
      place: (first byte, number of bytes) in a tar file; (row group, row) in a parquet file.
    """

    stem: str
    name: str
    path: Path
    place: tuple[int, int]


def members(path: Path, refused: list[tuple[str, str]]) -> Iterator[Member]:
    """Yield the clips of a tar or parquet file. Append each member that cannot be used to `refused` as (name, reason)."""
    yield from (_tar if path.suffix.lower() == ".tar" else _parquet)(path, refused)


def stem(name: str) -> str:
    """Returns the last part of a path without its audio extension; the ".000" of "ID_30.000" is not an extension."""
    last = PurePosixPath(name)
    return last.stem if last.suffix.lower() in EXTENSIONS else last.name


def is_packed(path: Path) -> bool:
    """Whether a file is a compressed archive, where no clip can be read without unpacking everything before it."""
    return path.name.lower().endswith(_PACKED)


def audio_of(item: Item) -> Path | bytes:
    """Returns the path of an item, or its bytes if it is in a container.

    Raises `AudioError` if the row of a parquet file is damaged or holds no bytes.
    """
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
    """Yield the clips of a tar file. An id in the JSON member of the same name replaces the stem of the audio member."""
    clips: dict[str, Member] = {}
    ids: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                name = PurePosixPath(info.name)
                if info.isdir():
                    continue
                if name.is_absolute() or ".." in name.parts:
                    refused.append((f"{path.name}/{info.name}", "the path of the member leads out of the archive"))
                elif not info.isreg():
                    refused.append((f"{path.name}/{info.name}", "the member is a link or a device, not a file"))
                elif name.suffix.lower() == ".json":
                    if (json_id := _json_id(tar, info)) is None:
                        refused.append((f"{path.name}/{info.name}", "not a JSON object"))
                    elif json_id:
                        ids[str(name.with_suffix(""))] = json_id
                elif name.suffix.lower() in EXTENSIONS:
                    key = str(name.with_suffix(""))
                    clips.setdefault(key, Member(name.stem, f"{path.name}/{name}", path, (info.offset_data, info.size)))
    except (tarfile.TarError, EOFError, OSError) as error:
        refused.append((path.name, f"the archive cannot be read after its first {len(clips)} clips: {error}"))
    size = path.stat().st_size
    for key, member in clips.items():
        if sum(member.place) > size:
            refused.append((member.name, "cut off: the archive ends inside this member"))
        else:
            yield member._replace(stem=ids.get(key, member.stem))


def _json_id(tar: tarfile.TarFile, info: tarfile.TarInfo) -> str | None:
    """Returns the id in a JSON member, "" if the object has no id, None if the member is not a JSON object."""
    file = tar.extractfile(info) if info.size <= _JSON_BYTES else None
    try:
        description = json.loads(file.read()) if file else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(description, dict):
        return None
    return next((stem(description[key]) for key in ID_KEYS if isinstance(description.get(key), str)), "")


# ---------------------------------------------------------------- parquet


def _parquet(path: Path, refused: list[tuple[str, str]]) -> Iterator[Member]:
    """Yield the clips of a parquet file, reading only the column that names them."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow, which is not installed: pip install pyarrow") from error
    try:
        with pq.ParquetFile(path) as file:
            column = next((name for name in AUDIO_COLUMNS if name in file.schema_arrow.names), None)
            key = next((name for name in ID_KEYS if name in file.schema_arrow.names), None)
            if column is None:
                refused.append(
                    (path.name, f"the file has no column of audio bytes, expected one of {', '.join(AUDIO_COLUMNS)}")
                )
                return
            if key is None and not pa.types.is_struct(file.schema_arrow.field(column).type):
                refused.append((path.name, f"the file has no column of clip ids, expected one of {', '.join(ID_KEYS)}"))
                return
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[key or f"{column}.path"])
                for row, value in enumerate(table.column(0).to_pylist()):
                    text = value.get("path") if isinstance(value, dict) else value
                    if not isinstance(text, str) or not text:
                        cell = f"column {key or column + '.path'}"
                        refused.append((f"{path.name}/{group}/{row}", f"{cell} is {text!r}, expected the id of the clip"))
                        continue
                    yield Member(stem(text), f"{path.name}/{PurePosixPath(text).name}", path, (group, row))
    except (pa.ArrowException, OSError) as error:
        refused.append((path.name, f"not a readable parquet file: {' '.join(str(error).split())}"))


@functools.lru_cache(maxsize=1)  # one group is enough, because items are decoded in the order of the file
def _row_group(path: Path, group: int):
    """Returns the audio column of one row group of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            column = next(name for name in AUDIO_COLUMNS if name in file.schema_arrow.names)
            return file.read_row_group(group, columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise AudioError(f"row group {group} of the parquet file is damaged") from error
