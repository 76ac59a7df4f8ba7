"""Speed of the index of songs: `python -m genre_jax.bench similar [--songs=N] [--dims=D] [--hashes=H] [--json=FILE]`.

The benchmark writes an index of songs with random vectors, opens it, and times queries for the ten nearest songs and look-ups
of five-second clips; the network and the decoding are not timed. The hashes are drawn from those of synthetic tracks, and
therefore some are common, as in music. A clip has the hashes of a song of the index within five seconds, and as many others.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from genre_jax.bench.record import machine, write_record
from genre_jax.console import say

SONGS = flags.DEFINE_integer("songs", 100_000, "Songs of the index.", lower_bound=1)
DIMS = flags.DEFINE_integer("dims", 200, "Dimensions of an embedding; musicnn has 200.", lower_bound=1)
HASHES = flags.DEFINE_integer("hashes", 1_400, "Hashes of a song; 1,400 are ten seconds of music.", lower_bound=1)
QUERIES = flags.DEFINE_integer("queries", 50, "Queries and look-ups that are timed.", lower_bound=1)

K, AT_ONCE, LABELS = 10, 10_000, 50
TRACKS = 20  # tracks of each genre from which the hashes are drawn
FRAMES, CLIP = 625, 312  # frames of a song and of a clip


def main(argv: list[str]) -> None:
    """Measure and print."""
    del argv
    from genre_jax.recommend import lookup
    from genre_jax.recommend.index import Index
    from genre_jax.recommend.neighbours import Neighbours

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as top:
        writing = _timed(lambda: _write(Path(top), rng))[0]
        size = sum(path.stat().st_size for path in Path(top).rglob("*") if path.is_file())
        opening, index = _timed(lambda: Index.open(Path(top)))
        preparing, neighbours = _timed(lambda: Neighbours(index.vectors()))
        vectors = rng.standard_normal((QUERIES.value, DIMS.value), np.float32)
        queries = [_timed(lambda vector=vector: neighbours.nearest(vector, K))[0] for vector in vectors]
        numbers = rng.integers(len(index.songs()), size=QUERIES.value)
        clips = [_clip(index, int(number), rng) for number in numbers]
        lookups = [_timed(lambda clip=clip: lookup.search(index, clip)) for clip in clips]
    found = sum(bool(got) and got[0].number == int(n) for (_, got), n in zip(lookups, numbers, strict=True))
    row = {
        "songs": SONGS.value,
        "dims": DIMS.value,
        "hashes_per_song": HASHES.value,
        "megabytes": size / 1e6,
        "writing_s": writing,
        "opening_s": opening,
        "preparing_s": preparing,
        "query_median_ms": 1e3 * float(np.median(queries)),
        "query_slowest_ms": 1e3 * max(queries),
        "lookup_median_ms": 1e3 * float(np.median([seconds for seconds, _ in lookups])),
        "lookup_slowest_ms": 1e3 * max(seconds for seconds, _ in lookups),
        "lookups_right": found,
        "lookups": len(lookups),
        "load_average": os.getloadavg()[0],
    }
    say(f"{row['songs']:,} songs, {row['megabytes']:,.0f} MB: {opening:.2f} s to open, {preparing:.2f} s to prepare queries")
    say(f"query: median {row['query_median_ms']:.1f} ms, slowest {row['query_slowest_ms']:.1f} ms")
    say(f"look-up: median {row['lookup_median_ms']:.1f} ms, slowest {row['lookup_slowest_ms']:.1f} ms; {found} right")
    write_record({"benchmark": "similar", "environment": machine(), "rows": [row]})


def _timed(call: Callable) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def _write(folder: Path, rng: np.random.Generator) -> None:
    """Write the index."""
    from genre_jax.datasets.synthetic import music
    from genre_jax.prepare.fingerprint import take
    from genre_jax.recommend.index import Index, Network
    from genre_jax.recommend.lookup import RATE
    from genre_jax.recommend.segment import Segment, Song

    tracks = [music.render(genre, n, sample_rate=RATE, seconds=10.0) for genre in music.GENRES for n in range(TRACKS)]
    common = np.concatenate([take(track, RATE).hashes for track in tracks])
    index = Index(folder, Network("random", RATE, tuple(map(str, range(LABELS))), np.ones(DIMS.value, np.float32)))
    for first in range(0, SONGS.value, AT_ONCE):
        count = min(AT_ONCE, SONGS.value - first)
        songs = tuple(Song(f"/music/{first + n:06d}.mp3", 10.0, 1, 1, 1, FRAMES) for n in range(count))
        vectors = rng.standard_normal((count, DIMS.value), np.float32)
        hashes = rng.choice(common, count * HASHES.value)
        order = np.argsort(hashes, kind="stable")
        index.commit([
            Segment(
                songs=songs,
                vectors=vectors,
                tags=rng.random((count, LABELS), np.float32),
                windows=vectors,
                starts=np.zeros(count, np.float32),
                hashes=hashes[order],
                owners=np.repeat(np.arange(count, dtype=np.uint32), HASHES.value)[order],
                times=rng.integers(FRAMES, size=len(hashes), dtype=np.uint16),
                moments=np.tile(np.arange(FRAMES, dtype=np.uint16), count),
            )
        ])  # fmt: skip


def _clip(index, number: int, rng: np.random.Generator):
    """Return the fingerprint of five seconds of a song, with as many hashes from elsewhere."""
    from genre_jax.prepare.fingerprint import Print

    ((segment, row),) = [(part, np.argmax(numbers == number)) for part, numbers in index.parts() if number in numbers]
    own = np.flatnonzero(segment.owners == row)
    own = own[segment.times[own] < CLIP]
    other = rng.choice(len(segment.hashes), len(own))
    times = np.concatenate([segment.times[own], rng.integers(CLIP, size=len(other), dtype=np.uint16)])
    return Print(segment.hashes[np.concatenate([own, other])], times, CLIP)
