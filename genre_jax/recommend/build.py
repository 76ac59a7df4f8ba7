"""Build an index of songs, or extend it: embed the files that are new or changed, and take their fingerprints."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.logbook import clock
from genre_jax.recommend import lookup
from genre_jax.recommend.index import Index
from genre_jax.recommend.segment import Segment, Song

SONGS, SECONDS = 64, 30.0  # a commit is due after so many songs or seconds; a process that is killed loses no more


def extend(index: Index, tagger: Any, files: Sequence[str]) -> tuple[int, int]:
    """Add the files that the index lacks, and replace those that changed since they were added. Call it under a lock.

    Args:
      index: the index.
      tagger: its network, as `genre_jax.load` returns it.
      files: absolute paths.

    Returns the number of files that were added or replaced, and of those that cannot be read. Each of the latter is reported
    by one line on standard error.
    """
    known = {song.path: (song.size, song.modified) for song in index.songs()}
    todo = [path for path in files if path not in known or known[path] != stamp(path)]
    pending: list[Segment] = []
    done = failed = 0
    committed = time.monotonic()
    try:
        for path in _with_progress(todo):
            try:
                pending.append(embed(tagger, path))
                done += 1
            except UserError as error:
                console.complain(error)
                failed += 1
            if len(pending) == SONGS or (pending and time.monotonic() - committed > SECONDS):
                index.commit(pending)
                pending, committed = [], time.monotonic()
    finally:
        if pending or not done:  # also after Ctrl-C, and the first time for an index without songs
            index.commit(pending)
    return done, failed


def embed(tagger: Any, path: str) -> Segment:
    """Returns what the index holds of a song. Raises `UserError` if the file cannot be read."""
    size, modified = stamp(path)
    tags, heard = tagger.tags(path), lookup.listen(path)
    moments = len(np.unique(heard.times))
    song = Song(path, float(tags.seconds), size, modified, len(tags.starts), moments)
    return Segment.of(song, tags.embeddings, tags.probabilities, tags.starts, heard)


def stamp(path: str) -> tuple[int, int]:
    """Returns size and time of last change (ns) of a file, or (-1, -1) if there is none; reading it then says why."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def missing(index: Index, folders: Sequence[str]) -> list[str]:
    """Returns the songs of the index that lay below the folders, given by absolute paths, and whose files are gone."""
    return [
        song.path
        for song in index.songs()
        if not os.path.exists(song.path) and any(Path(song.path).is_relative_to(folder) for folder in folders)
    ]


def _with_progress(files: Sequence[str]) -> Iterator[str]:
    """Yield the files, and print on standard error how many are done and the time left."""
    started, pace = time.monotonic(), console.Pace()
    for done, path in enumerate(files):
        if done and pace.due():
            left = clock((time.monotonic() - started) / done * (len(files) - done))
            console.note(f"build: {done:,} of {len(files):,} songs, {left} left")
        yield path
