"""Playlists in the extended M3U format, in UTF-8 (.m3u8)."""

import os
from collections.abc import Iterable
from pathlib import Path

from genre_jax.atomic import write_text
from genre_jax.console import UserError, printable


def check(path: Path) -> None:
    """Raises `UserError` if a playlist cannot be written at this path."""
    if not path.parent.is_dir():
        raise UserError(f"--playlist={path}: the folder {path.parent} does not exist: create it, or choose another path")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--playlist={path} cannot be written: choose another path")


def write(path: Path, songs: Iterable[tuple[str, float]]) -> None:
    """Write a playlist of (absolute path, seconds). Songs below the folder of the playlist get relative paths."""
    folder = Path(os.path.abspath(path)).parent
    lines = ["#EXTM3U"]
    for song, seconds in songs:
        lines += [f"#EXTINF:{round(seconds)},{printable(Path(song).stem)}", _entry(Path(song), folder)]
    write_text(path, "\n".join(lines) + "\n")


def _entry(song: Path, folder: Path) -> str:
    """Returns a song as one line that a player takes for its path.

    A line cannot hold line ends, bytes that are not UTF-8, or spaces at its ends: such a path becomes a file:// address.
    """
    name = str(song.relative_to(folder) if song.is_relative_to(folder) else song)
    if name != printable(name) or name != name.strip():
        return song.as_uri()
    return f"./{name}" if name.startswith("#") else name
