"""Filters along time that look at a few rows around each row, computed block by block: `Local`, and the three that we use."""

from collections.abc import Callable

import numpy as np

from genre_jax.prepare import condition


class Local:
    """Applies a function of a whole recording block by block.

    Row t of the function's result may depend on the rows t - before to t + after alone, and on which rows are the first and the
    last of the recording. The results for any sequence of blocks are then those for the whole recording.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], before: int, after: int, grid: int = 1):
        """Wrap a function (rows, …) → (rows, …).

        Args:
          function: the function.
          before, after: how far it looks, in rows, ≥ 0.
          grid: the function is called only on blocks that begin at a multiple of this number of rows.
        """
        self._function, self._before, self._after, self._grid = function, before, after, grid
        self._held: np.ndarray | None = None
        self._first = self._done = 0  # numbers of the first row in `_held`, and of the next row of the result

    def push(self, rows: np.ndarray) -> np.ndarray:
        """Take the next rows, and return the next rows of the result: all that no later row can change."""
        self._held = rows if self._held is None else np.concatenate([self._held, rows])
        return self._advance(self._first + len(self._held) - self._after)

    def finish(self) -> np.ndarray:
        """Return the last rows of the result, after the last row was taken. Raises `ValueError` without a call of `push`."""
        if self._held is None:
            raise ValueError("nothing was pushed")
        return self._advance(self._first + len(self._held))

    def _advance(self, end: int) -> np.ndarray:
        """Return the rows of the result up to row `end`, and drop the rows that are not needed any more."""
        held = self._held
        assert held is not None
        if end <= self._done:
            return held[:0]
        result = self._function(held)[self._done - self._first : end - self._first]
        self._done = end
        first = max(0, end - self._before)
        first -= first % self._grid
        self._held, self._first = held[first - self._first :].copy(), first
        return result


def later(frames: int) -> Local:
    """Return the filter that gives each row the value of the row `frames` later. The last row stands for those after it."""

    def shift(rows: np.ndarray) -> np.ndarray:
        return rows[np.minimum(np.arange(len(rows)) + frames, len(rows) - 1)]

    return Local(shift, 0, frames)


def median(size: int) -> Local:
    """Return the median filter over `size` rows (rows, columns), column by column, as `scipy.ndimage.median_filter` has it.

    The window of row t has the rows t - size // 2 to t + (size - 1) // 2. Of an even number of values the median is the larger
    one of the two in the middle. The first and the last row are repeated beyond the ends (mode "nearest").
    """
    from scipy import ndimage

    def filtered(rows: np.ndarray) -> np.ndarray:
        # SciPy is fast for contiguous arrays of one dimension alone.
        columns = [ndimage.median_filter(np.ascontiguousarray(column), size, mode="nearest") for column in rows.T]
        return np.stack(columns, 1)

    return Local(filtered, size // 2, (size - 1) // 2)


def long_runs(least: int) -> Local:
    """Return the filter of flags (rows,) that clears each run of fewer than `least` true rows, ≥ 1."""

    def opened(flags: np.ndarray) -> np.ndarray:
        edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
        kept = np.zeros_like(flags)
        for start, end in edges.reshape(-1, 2):
            # A run that touches the end of a block may go on; its rows are not read before it is decided.
            kept[start:end] = end - start >= least
        return kept

    return Local(opened, least - 1, least - 1)


def levelled(sample_rate: int) -> Local:
    """Return `prepare.condition.equalise_loudness` as a filter of samples (samples,). It looks about 250 ms ahead."""
    length, step = condition.loudness_grid(sample_rate)

    def level(samples: np.ndarray) -> np.ndarray:
        return condition.equalise_loudness(samples, sample_rate)

    # A sample is levelled by all frames that hold it: they begin up to a frame earlier, and end up to a frame later.
    return Local(level, length, length, grid=step)
