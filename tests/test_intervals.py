"""The bootstrap over tracks against a direct resampling and closed forms; Wilson's interval against statsmodels' values."""

import math
import statistics

import numpy as np
import pytest

from genre_jax import intervals, metrics


def a_table(seed: int, tracks: int) -> dict[str, np.ndarray]:
    """A table with one to four windows in each of one to three clips of a track; the rows are shuffled."""
    rng = np.random.default_rng(seed)
    track = np.repeat(np.arange(tracks), rng.integers(1, 4, tracks))
    clip = np.arange(len(track))
    windows = rng.integers(1, 5, len(clip))
    track, clip = np.repeat(track, windows), np.repeat(clip, windows)
    target = track % 3
    logits = rng.normal(size=(len(track), 3)) + 1.5 * np.eye(3)[target]
    order = rng.permutation(len(track))
    labels = np.eye(3, dtype=np.uint8)[target]
    columns = {"logits": logits, "labels": labels, "target": target, "loss": np.ones(len(track)), "clip": clip, "track": track}
    return {name: values[order] for name, values in columns.items()}


def accuracy(level: str):
    def score(table):
        groups = table[level]
        answers = metrics.votes(table["logits"], groups)["max_logit"]
        return metrics.accuracy(metrics.group_targets(table["target"], groups), answers)

    return score


def test_a_resample_holds_whole_tracks():
    table = a_table(0, 7)
    seen = []
    intervals.bootstrap(lambda sample: seen.append(sample) or 0.0, table, resamples=20)
    *samples, last = seen
    assert last is table and len(samples) == 20
    windows = {number: np.sort(table["logits"][table["track"] == number, 0]).tolist() for number in range(7)}
    clips = {number: len(np.unique(table["clip"][table["track"] == number])) for number in range(7)}
    twice = 0
    for sample in samples:
        assert np.unique(sample["track"]).tolist() == list(range(7))
        drawn = []
        for number in range(7):
            rows = sample["track"] == number
            (original,) = [t for t, values in windows.items() if values == np.sort(sample["logits"][rows, 0]).tolist()]
            assert len(np.unique(sample["clip"][rows])) == clips[original]
            drawn.append(original)
        assert len(np.unique(sample["clip"])) == sum(clips[number] for number in drawn)  # no clip is shared
        twice += len(set(drawn)) < 7
    assert twice > 10


@pytest.mark.parametrize("tracks", [1, 9, 40])
def test_fast_and_general_bootstrap_are_equal(tracks):
    table = a_table(tracks, tracks)
    right = table["logits"].argmax(1) == table["target"]
    fast = intervals.bootstrap_ratio(right, np.ones(len(right)), table["track"], resamples=200, seed=5)
    general = intervals.bootstrap(lambda t: metrics.accuracy(t["target"], t["logits"].argmax(1)), table, resamples=200, seed=5)
    assert fast == pytest.approx(general)
    assert fast.value == right.mean() and fast.low <= fast.value <= fast.high


def test_track_accuracy_equals_a_direct_resampling():
    table = a_table(3, 25)
    found = intervals.bootstrap(accuracy("track"), table, resamples=300, seed=1)
    targets = metrics.group_targets(table["target"], table["track"])
    right = metrics.votes(table["logits"], table["track"])["max_logit"] == targets
    rng = np.random.default_rng(1)
    means = [right[rng.integers(0, 25, 25)].mean() for _ in range(300)]
    assert found == pytest.approx((right.mean(), *np.percentile(means, [2.5, 97.5])))
    assert found == pytest.approx(intervals.bootstrap_ratio(right, np.ones(25), np.arange(25), resamples=300, seed=1))


def test_micro_top_k_is_a_ratio_of_sums():
    table = a_table(11, 12)
    labels = table["labels"] | (np.arange(3) == 1)
    hits, counts = metrics.top_k_hits(labels, table["logits"])
    fast = intervals.bootstrap_ratio(hits, counts, table["track"], resamples=100)
    general = intervals.bootstrap(
        lambda t: metrics.top_k_accuracy(t["labels"], t["logits"]), table | {"labels": labels}, resamples=100
    )
    assert fast == pytest.approx(general)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(size=10_000)
    found = intervals.bootstrap_ratio(values, np.ones(10_000), np.arange(10_000), level=0.9)
    half = statistics.NormalDist().inv_cdf(0.95) * values.std() / 100
    assert found == pytest.approx((values.mean(), values.mean() - half, values.mean() + half), abs=half / 8)


def test_windows_of_a_track_are_not_independent():
    track = np.repeat(np.arange(50), 20)
    right = track % 2 == 0  # all windows of a track are right, or all are wrong
    found = intervals.bootstrap_ratio(right, np.ones(1000), track)
    low, high = intervals.wilson_interval(0.5, 1000)
    assert found.high - found.low > 4 * (high - low)


def test_the_seed_sets_the_interval():
    table = a_table(2, 30)
    once, again, other = (intervals.bootstrap(accuracy("clip"), table, resamples=50, seed=seed) for seed in (7, 7, 8))
    assert once == again != other and once.value == other.value


def test_resamples_without_a_score_are_left_out():
    def first_class_recall(table):
        rows = table["target"] == 0
        return float(np.mean(table["logits"][rows].argmax(1) == 0)) if rows.any() else math.nan

    table = a_table(5, 4)
    found = intervals.bootstrap(first_class_recall, table, resamples=100)
    assert 0 <= found.low <= found.value <= found.high <= 1
    unlabelled = intervals.bootstrap(first_class_recall, table | {"target": table["target"] + 1}, resamples=10)
    assert all(math.isnan(number) for number in unlabelled)


def test_no_tracks_have_no_interval():
    none = np.zeros(0, int)
    assert all(math.isnan(number) for number in intervals.bootstrap_ratio(none, none, none))
    empty = {name: values[:0] for name, values in a_table(0, 2).items()}
    assert all(math.isnan(number) for number in intervals.bootstrap(accuracy("track"), empty))


@pytest.mark.parametrize("seeds", [(1, 1), (3, 2)])
def test_the_paired_bootstrap_equals_a_plain_loop(seeds):
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=30)  # both systems fail on the same tracks

    def counts(skill, windows):
        track = rng.permutation(np.repeat(np.arange(30), windows))
        return intervals.Counts(rng.uniform(size=len(track)) < skill * hard[track], np.ones(len(track)), track)

    ours, theirs = [counts(1.0, 4) for _ in range(seeds[0])], [counts(0.8, 9) for _ in range(seeds[1])]
    found = intervals.paired_bootstrap(ours, theirs, resamples=200, seed=3)
    draws, differences = np.random.default_rng(3), []
    for number in range(201):
        drawn = draws.integers(0, 30, 30) if number else np.arange(30)
        scores = [np.concatenate([table.right[table.track == track] for track in drawn]).mean() for table in (*ours, *theirs)]
        differences.append(np.mean(scores[: len(ours)]) - np.mean(scores[len(ours) :]))
    assert found == pytest.approx((differences[0], *np.quantile(differences[1:], [0.025, 0.975])))
    assert intervals.paired_bootstrap(ours, theirs, resamples=200, seed=4)[1:] != found[1:]


def test_pairs_make_the_interval_narrow():
    track = np.repeat(np.arange(40), 5)
    right = track % 2 == 0
    better = right | (track == 1)
    ones = np.ones(len(track))
    found = intervals.paired_bootstrap([intervals.Counts(better, ones, track)], [intervals.Counts(right, ones, track)])
    alone = intervals.bootstrap_ratio(better, ones, track)
    assert found.value == pytest.approx(1 / 40) and found.high - found.low < 0.5 * (alone.high - alone.low)
    same = intervals.paired_bootstrap([intervals.Counts(right, ones, track)], [intervals.Counts(right, ones, track)])
    assert same == (0, 0, 0)


def test_other_tracks_are_refused():
    counts = [intervals.Counts(np.ones(4), np.ones(4), np.array(track)) for track in ([0, 0, 1, 1], [0, 0, 2, 2])]
    with pytest.raises(ValueError, match="must hold the same tracks"):
        intervals.paired_bootstrap(counts[:1], counts[1:])


@pytest.mark.parametrize("share, count, low, high", [(0.5, 10, 0.2366, 0.7634), (0, 20, 0, 0.1611), (1, 5, 0.5655, 1)])
def test_wilson_interval(share, count, low, high):  # values of statsmodels' proportion_confint(method="wilson")
    assert intervals.wilson_interval(share, count) == pytest.approx((low, high), abs=1e-4)
    assert all(math.isnan(bound) for bound in intervals.wilson_interval(math.nan, 0))
