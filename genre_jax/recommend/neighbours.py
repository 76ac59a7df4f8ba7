"""The songs nearest to a song by the cosine of their mean embeddings.

The mean of all songs is subtracted first. The outputs of a network share a large common part: without this step all cosines
are near 1, and the songs near the mean are neighbours of all others (Suzuki et al., "Centering Similarity Measures to Reduce
Hubs", EMNLP 2013).

All vectors are compared, by one matrix product. An approximate graph would be faster for millions of songs, but it needs the
mean when a song is added, and the mean changes with every song.
"""

import numpy as np


class Neighbours:
    """The vectors of an index, float32 (songs, dims), prepared for queries."""

    def __init__(self, vectors: np.ndarray):
        self._mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
        self._units = self.units(vectors)

    def units(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the directions of vectors (rows, dims) from the mean of the songs, of length 1; the mean itself becomes 0."""
        centred = np.asarray(vectors, np.float32) - self._mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def nearest(self, vector: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of the `k` songs nearest to a vector (dims,), and their cosines in [-1, 1]; the nearest first."""
        cosines = self._units @ self.units(vector[None])[0]
        k = min(k, len(cosines))
        best = np.argpartition(-cosines, k - 1)[:k]
        best = best[np.argsort(-cosines[best], kind="stable")]
        return best, cosines[best]

    def passage(self, first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
        """Returns the two windows that are most alike of two songs, (windows, dims) each."""
        cosines = self.units(first) @ self.units(second).T
        best = np.unravel_index(int(cosines.argmax()), cosines.shape)
        return int(best[0]), int(best[1])
