"""95 % intervals of scores: the percentile bootstrap over tracks, and Wilson's interval of a proportion.

Windows and clips of a track are alike, therefore an interval that takes them as independent is too narrow. The bootstrap
draws whole tracks with replacement (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from genre_jax.metrics import group_sums


class Interval(NamedTuple):
    """A score with its interval.

    Attributes:
      value: the score of the whole table.
      low: lower bound; NaN if the score is not defined in any resample.
      high: upper bound, as `low`.
    """

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[[Mapping[str, np.ndarray]], float],
    table: Mapping[str, np.ndarray],
    *,
    resamples: int = 1_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the percentile bootstrap interval over tracks of any score of a table.

    Args:
      statistic: takes a table, returns the score. NaN (not defined) in a resample leaves that resample out.
      table: columns with one row per window, among them `clip` and `track`, int `(windows,)`. A resample has all rows of
        the drawn tracks. A track that is drawn twice gives two tracks with different numbers, and so do its clips.
      resamples: number of resamples.
      seed: of the draws; the same seed gives the same interval, and the draws of `bootstrap_ratio`.
      level: probability between the bounds, in (0, 1).
    """
    order = np.argsort(table["track"], kind="stable")
    rows = {name: np.asarray(values)[order] for name, values in table.items()}
    _, first, counts = np.unique(rows["track"], return_index=True, return_counts=True)
    clips, clip = np.unique(rows["clip"], return_inverse=True)
    scores = []
    for drawn in _draws(len(first), resamples, seed):
        lengths = counts[drawn]
        track = np.repeat(np.arange(len(drawn)), lengths)
        chosen = np.arange(len(track)) + np.repeat(first[drawn] - (np.cumsum(lengths) - lengths), lengths)
        sample = {name: values[chosen] for name, values in rows.items()}
        scores.append(statistic(sample | {"track": track, "clip": track * len(clips) + clip[chosen]}))
    return _interval(statistic(table), np.array(scores, np.float64), level)


def bootstrap_ratio(
    numerator: np.ndarray,
    denominator: np.ndarray,
    track: np.ndarray,
    *,
    resamples: int = 1_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the percentile bootstrap interval over tracks of a ratio of sums, fast.

    Args:
      numerator: summed in the ratio, `(examples,)`; for the accuracy, whether an example is right.
      denominator: as `numerator`; for the accuracy, whether an example has a target. For the micro top-k accuracy they are
        the result of `metrics.top_k_hits`.
      track: number of the track of each example, int `(examples,)`.
      resamples: number of resamples.
      seed: of the draws.
      level: probability between the bounds, in (0, 1).
    """
    _, sums = group_sums(np.stack([numerator, denominator], axis=1), track)
    above, below = np.ascontiguousarray(sums.T)
    totals = np.array([(above[drawn].sum(), below[drawn].sum()) for drawn in _draws(len(sums), resamples, seed)])
    return _interval(float(_ratio(*sums.sum(axis=0))), _ratio(*totals.reshape(-1, 2).T), level)


class Counts(NamedTuple):
    """A score that is a ratio of sums, by example: `right` / `counted`, e.g. the accuracy; and the track of each example."""

    right: np.ndarray
    counted: np.ndarray
    track: np.ndarray


def paired_bootstrap(
    ours: Sequence[Counts],
    theirs: Sequence[Counts],
    *,
    resamples: int = 1_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the score of `ours` minus that of `theirs`, with the percentile bootstrap interval over tracks.

    Each resample draws the same tracks for all tables. Two systems that fail on the same tracks therefore differ reliably also
    if each of their scores is uncertain. The tables need the same tracks, but not the same examples of them: networks with
    longer windows have fewer.

    Args:
      ours: a table for each seed of a system, one or more. The score is the mean over them; seeds are not drawn.
      theirs: as `ours`, of the system to compare with. The number of seeds may be another one.
      resamples: number of resamples.
      seed: of the draws, which are those of `bootstrap` on the same tracks.
      level: probability between the bounds, in (0, 1).

    Raises:
      ValueError: the tables hold different tracks.
    """
    groups = [group_sums(np.stack([table.right, table.counted], axis=1), table.track) for table in (*ours, *theirs)]
    tracks = groups[0][0]
    if not all(np.array_equal(numbers, tracks) for numbers, _ in groups):
        raise ValueError("the tables of a paired bootstrap must hold the same tracks")
    sums = np.stack([sums for _, sums in groups], axis=1)  # (tracks, tables, 2)

    def difference(totals: np.ndarray) -> np.ndarray:
        ratios = _ratio(totals[..., 0], totals[..., 1])
        return ratios[..., : len(ours)].mean(-1) - ratios[..., len(ours) :].mean(-1)

    totals = np.array([sums[drawn].sum(axis=0) for drawn in _draws(len(tracks), resamples, seed)])
    return _interval(float(difference(sums.sum(axis=0))), difference(totals.reshape(-1, *sums.shape[1:])), level)


def wilson_interval(share: float, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion `share` in `count` independent trials (95 % by default)."""
    if not count or not np.isfinite(share):
        return float("nan"), float("nan")
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _draws(tracks: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the tracks of each resample, int `(tracks,)`; nothing without tracks."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples if tracks else 0):
        yield rng.integers(0, tracks, tracks)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def _interval(value: float, scores: np.ndarray, level: float) -> Interval:
    defined = scores[~np.isnan(scores)]
    if not defined.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
