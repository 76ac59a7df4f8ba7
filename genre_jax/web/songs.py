"""What the page shows of an index of songs: the neighbours of a song, computed by the server or, from a table, by the page."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.recommend.index import Index, Network
from genre_jax.recommend.neighbours import Neighbours

TAGS = 3  # tags of a song
MOST = 50_000  # songs of an exported index: with 400 dimensions 40 MB


class Songs:
    """The songs of an index, for the page of a network.

    Attributes:
      dimensions: length of an embedding.
    """

    def __init__(self, folder: Path, tagger: Any, source: str):
        """Open the index in `folder`.

        Args:
          folder: the folder of `genre-jax similar build`.
          tagger: the network of the page, as `genre_jax.load` returns it.
          source: what the network was loaded from, for messages.

        Raises `UserError` if the folder holds no index or no songs, or if another network computed its embeddings.
        """
        index = Index.open(folder)
        songs = index.songs()
        if not songs:
            raise UserError(f"the index {folder} holds no songs: run python -m genre_jax.similar build FOLDER --index={folder}")
        if not index.network.same_as(Network.of(tagger, source)):
            raise UserError(
                f"{source} is not the network of the index {folder}, which was built with {index.network.source}: "
                f"use --workdir={index.network.source}, or build another index"
            )
        self._folder, self.dimensions = folder, len(index.network.answer)
        self._vectors = index.vectors()
        self._neighbours = Neighbours(self._vectors)
        strongest = np.argsort(-index.tags(), axis=1, kind="stable")[:, :TAGS]
        # Paths on the machine that made the index are not the concern of who sees the page.
        top = os.path.commonpath([os.path.dirname(song.path) for song in songs])
        self._rows = [
            {
                "name": console.printable(os.path.relpath(song.path, top)),
                "seconds": round(song.seconds, 3),
                "tags": [index.network.labels[label] for label in labels],
            }
            for song, labels in zip(songs, strongest, strict=True)
        ]

    def nearest(self, embedding: np.ndarray, k: int) -> list[dict[str, Any]]:
        """Returns the `k` songs nearest to an embedding (dimensions,), the nearest first, as values of JSON."""
        pairs = zip(*self._neighbours.nearest(embedding, k), strict=True)
        return [self._rows[number] | {"similarity": round(float(cosine), 4)} for number, cosine in pairs]

    def table(self) -> tuple[dict[str, Any], bytes]:
        """Returns the songs as values of JSON, and the numbers from which the page computes neighbours.

        The numbers are little-endian: the mean of all songs, float32 (dimensions,), and the direction of each song from it,
        float16 (songs, dimensions). Raises `UserError` for more than `MOST` songs.
        """
        if len(self._rows) > MOST:
            raise UserError(
                f"the index {self._folder} has {len(self._rows):,} songs, and a page holds at most {MOST:,}: "
                f"python -m genre_jax.serve --index={self._folder} has no limit"
            )
        mean = self._vectors.mean(0, dtype=np.float64).astype("<f4")
        units = self._neighbours.units(self._vectors).astype("<f2")
        return {"dimensions": self.dimensions, "songs": self._rows}, mean.tobytes() + units.tobytes()
