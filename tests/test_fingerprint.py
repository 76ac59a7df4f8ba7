"""The acoustic fingerprint finds copies after a shift, coding, gain and noise, at their offset, and finds nothing else."""

from collections import Counter

import audit_set
import numpy as np
import pytest

from genre_jax.datasets.synthetic import music
from genre_jax.prepare import fingerprint
from genre_jax.prepare.fingerprint import Print, find, take

RATE = 8000


def prints(clips, rate: int = RATE) -> list[Print]:
    return [take(np.round(clip * 20000).astype(np.int16), rate) for clip in clips]


@pytest.fixture(scope="module")
def tracks() -> list[np.ndarray]:
    return list(audit_set.tracks(20, RATE, 7.0).values())


@pytest.mark.parametrize("kind", audit_set.KINDS)
def test_a_copy_of_each_kind_is_found_and_nothing_else(tracks, kind):
    copies = [audit_set.changed(kind, tracks[number], RATE, number) for number in (3, 8, 14)]
    matches, _ = find(prints([*tracks, *copies]))
    assert [(match.first, match.second) for match in matches] == [(3, 20), (8, 21), (14, 22)]
    late = audit_set.SHIFT if kind == "shifted" else 0.0
    for match in matches:
        assert match.offset == pytest.approx(-late, abs=0.02)
        assert match.expected < fingerprint.EXPECTED


@pytest.mark.parametrize("seconds", [0.0, 1.2371, 3.008])
def test_the_offset_is_how_much_later_the_sound_comes_in_the_second(tracks, seconds):
    before = music.noise(1, sample_rate=RATE, seconds=4.0, colour="pink")[: round(seconds * RATE)]
    late = np.concatenate([0.1 * before, tracks[0]])
    ((match,), _) = find(prints([tracks[0], late]))
    assert match.offset == pytest.approx(seconds, abs=0.008)
    assert match.agreeing / match.peaks > 0.8


def test_rates_can_be_compared():
    low, high = (music.render("swing", 1, sample_rate=rate, seconds=6.0) for rate in (8000, 22050))
    other = music.render("swing", 2, sample_rate=8000, seconds=6.0)
    matches, _ = find([*prints([low, other], 8000), *prints([high], 22050)])
    assert [(match.first, match.second) for match in matches] == [(0, 2)]


def test_hum_that_recordings_share_makes_no_pair():
    time = np.arange(6 * RATE) / RATE
    hum = sum(0.2 * np.sin(2 * np.pi * f * time) for f in (250, 500, 1000, 1750))
    clips = [hum + music.noise(n, sample_rate=RATE, seconds=6.0, colour="pink") for n in range(30)]
    assert find(prints(clips))[0] == []


def test_what_holds_no_sound_has_no_fingerprint():
    empty = np.zeros(0, np.int16)
    for audio in (empty, empty[:100], np.zeros(RATE, np.int16), np.full(RATE, 500, np.int16)):
        assert len(take(audio, RATE).hashes) == 0
    silent = take(np.zeros(RATE, np.int16), RATE)
    assert find([silent, silent]) == ([], 1.0)
    assert find([]) == find([silent]) == ([], 1.0)


def random_prints(clips: int = 8, hashes: int = 250, kinds: int = 50, seed: int = 0) -> list[Print]:
    """Fingerprints with few distinct hashes, which meet often, and a copy that is 37 frames later."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(clips):
        times = np.sort(rng.integers(0, 300, hashes)).astype(np.uint16)
        made.append(Print(rng.integers(0, kinds, hashes).astype(np.uint32), times, 400))
    made.append(Print(made[4].hashes[::2], made[4].times[::2] + np.uint16(37), 400))
    return made


def count_by_hand(a: Print, b: Print) -> tuple[int, int]:
    """Returns the most moments of `a` that agree at an offset and the next offset together, and the count of its best rival."""
    meetings = {(int(t2) - int(t1), int(t1)) for h1, t1 in zip(a.hashes, a.times, strict=True)
                for t2 in b.times[b.hashes == h1]}  # fmt: skip
    cells = Counter(offset for offset, _ in meetings)
    both = {offset: count + cells[offset + 1] for offset, count in list(cells.items())}
    best = min(both, key=lambda offset: (-both[offset], offset))
    return both[best], max(count for offset, count in both.items() if abs(offset - best) >= fingerprint.APART)


@pytest.mark.parametrize("block", [1 << 21, 3000])
def test_agreement_is_what_counting_by_hand_gives(monkeypatch, block):
    monkeypatch.setattr(fingerprint, "_BLOCK", block)
    made = random_prints()
    index = fingerprint._Index(made)
    blocks = list(index.blocks())
    assert (len(blocks) > 3) == (block == 3000) and blocks[0][0] == 0 and blocks[-1][1] == len(made)
    rows = np.concatenate([index.best_offsets(*block, least=10) for block in blocks])
    found = {(int(row[0]), int(row[1])): (int(row[3] + row[4]), int(row[5])) for row in rows}
    expected = {(i, j): count_by_hand(made[i], made[j]) for i in range(len(made)) for j in range(i + 1, len(made))}
    assert found == {pair: counts for pair, counts in expected.items() if counts[0] >= 10}
    assert (4, 8) in found and found[4, 8][0] > 80


def test_moments_shared_at_an_offset():
    times = np.array([0, 0, 10, 20, 30], np.uint16)
    a, b = Print(np.arange(5, dtype=np.uint32), times, 40), Print(np.arange(5, dtype=np.uint32), times, 35)
    index = fingerprint._Index([a, b])
    zero, one = np.zeros(3, int), np.ones(3, int)
    # Offset 0: 4 moments of each clip. Offset 15: the moments 0 and 10 of the first clip, 20 and 30 of the second. Offset -15.
    assert index.shared_moments(zero, one, np.array([0, 15, -15])).tolist() == [4, 2, 2]


def test_threads_and_blocks_change_nothing(monkeypatch, tracks):
    made = prints([*tracks, tracks[5][RATE:]])
    expected = find(made)
    assert len(expected[0]) == 1
    monkeypatch.setattr(fingerprint, "_BLOCK", 5000)
    done = []
    assert find(made, threads=3, tick=lambda at, total: done.append((at, total))) == expected
    assert done[-1] == (21, 21) and len(done) > 1


def test_the_commonest_hashes_are_left_out_within_a_budget(monkeypatch, tracks):
    made = prints([*tracks, tracks[5][RATE:]])
    monkeypatch.setattr(fingerprint, "COMMON", 150)
    index = fingerprint._Index(made)
    assert 0.1 < index.share_kept < 0.9
    assert index.partners.sum() <= 150 * len(made)
    matches, kept = find(made)
    assert [(match.first, match.second) for match in matches] == [(5, 20)] and kept == index.share_kept


def test_no_crowded_cell_is_lost():
    rng = np.random.default_rng(0)
    cell = np.sort(rng.integers(0, 20 * 2 * fingerprint.LONGEST, 3000) // 500 * 500 + rng.integers(0, 3, 3000))
    counts = Counter(cell.tolist())
    kept = fingerprint._crowded(cell, 6)
    for at, value in enumerate(cell.tolist()):
        if max(counts[value - 1], counts[value + 1]) + counts[value] >= 6:
            assert kept[at]
    spread = np.arange(0, 10**9, 10**6)
    assert not fingerprint._crowded(spread, 6).any()
