"""Filters along time give block by block what they give for a whole recording."""

import numpy as np
import pytest
import segment_runs

from genre_jax.prepare import condition
from genre_jax.segment import local

RNG = np.random.default_rng(0)
SPLITS = [[10_000], [1], [7, 1, 64], [200, 3]]


def filtered(make, rows: np.ndarray, sizes: list[int]) -> np.ndarray:
    block_by_block = make()
    parts = [block_by_block.push(part) for part in segment_runs.split(rows, sizes)]
    return np.concatenate([*parts, block_by_block.finish()])


def plain_median(rows: np.ndarray, size: int) -> np.ndarray:
    """The definition: the window of row t is t - size // 2 … t + (size - 1) // 2, beyond the ends the end row."""
    result = np.empty_like(rows)
    for t in range(len(rows)):
        window = np.clip(np.arange(t - size // 2, t + (size - 1) // 2 + 1), 0, len(rows) - 1)
        result[t] = np.sort(rows[window], axis=0)[size // 2]
    return result


@pytest.mark.parametrize("size", [1, 2, 3, 8, 200])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_median_has_its_definition_for_any_blocks(size, count):
    rows = RNG.random((count, 3))
    wanted = plain_median(rows, size)
    for sizes in SPLITS:
        np.testing.assert_array_equal(filtered(lambda: local.median(size), rows, sizes), wanted)


def test_median_waits_for_half_of_its_window_alone():
    median, rows = local.median(200), RNG.random((500, 2))
    assert [len(median.push(row[None])) for row in rows] == [0] * 99 + [1] * 401


@pytest.mark.parametrize("frames", [0, 1, 50, 400])
def test_rows_are_read_later_and_the_last_row_stands_for_those_after_it(frames):
    rows = RNG.random((120, 2))
    wanted = np.concatenate([rows, np.repeat(rows[-1:], frames, 0)])[frames:]
    for sizes in SPLITS:
        np.testing.assert_array_equal(filtered(lambda: local.later(frames), rows, sizes), wanted)


@pytest.mark.parametrize("least", [1, 2, 10])
def test_short_runs_of_silence_are_cleared(least):
    flags = RNG.random(2_000) < 0.8
    flags[:7] = flags[-7:] = True
    wanted, start = flags.copy(), 0
    for t in range(1, len(flags) + 1):
        if t == len(flags) or flags[t] != flags[start]:
            if t - start < least:
                wanted[start:t] = False
            start = t
    assert least == 1 or wanted.sum() < flags.sum()
    for sizes in SPLITS:
        np.testing.assert_array_equal(filtered(lambda: local.long_runs(least), flags, sizes), wanted)


@pytest.mark.parametrize("rate", [16_000, 11_025])
@pytest.mark.parametrize("count", [50, 3_999, 4_000, 4_001, 30_077])
def test_loudness_is_levelled_as_in_the_whole_file(rate, count):
    wave = segment_runs.signal(2.0)[:count]
    wanted = condition.equalise_loudness(wave, rate)
    for sizes in ([50_000], [1_600], [160, 7, 4_001]):
        np.testing.assert_allclose(filtered(lambda: local.levelled(rate), wave, sizes), wanted, rtol=0, atol=1e-7)


def test_a_filter_without_rows_has_no_end():
    with pytest.raises(ValueError, match="nothing was pushed"):
        local.median(3).finish()
