"""Tests of the training order: class counts and shares, visits, segments, copies, and mixtures of data sets."""

import itertools

import numpy as np
import pytest
from conftest import section, small_config

from genre_jax.console import UserError
from genre_jax.data import locate, order, shards
from genre_jax.data.mix import merge
from genre_jax.data.order import Order, lists_of, rows_of
from genre_jax.run import Run

NAMES = ("blues", "jazz", "pop", "rock")


def index_of(lengths, labels=None, tracks=None, name="made", classes=NAMES, rate=22_050):
    """Return an index of clips without audio."""
    count = len(lengths)
    labels = np.eye(len(classes), dtype=np.uint8)[np.arange(count) % len(classes)] if labels is None else labels
    tracks = np.arange(count) if tracks is None else np.asarray(tracks)
    zeros = np.zeros(count, np.int64)
    return shards.Index(
        data_set=name,
        split="train",
        sample_rate=rate,
        classes=classes,
        shards=(),
        stamps=np.zeros((0, 3), np.int64),
        names=tuple(f"c{i:05d}" for i in range(count)),
        tracks=tuple(f"t{i}" for i in range(tracks.max() + 1)),
        track=tracks.astype(np.int32),
        shard=zeros.astype(np.int32),
        length=np.asarray(lengths, np.int32),
        maximum=np.ones(count, np.float32),
        labels=labels,
        first_label=labels.argmax(1).astype(np.int32),
        **dict.fromkeys(("record", "size", "checksum", "offset", "state"), zeros),
    )


def order_of(labels, how="balanced", seed=3, weights=None, source=None, shares=(1.0,), size=None):
    labels = np.asarray(labels, np.uint8)
    weights = np.ones(labels.shape[1]) if weights is None else np.asarray(weights)
    source = np.zeros(len(labels), int) if source is None else np.asarray(source)
    return Order(lists_of(labels, how, weights, source, shares), size or len(labels), seed)


UNEVEN = np.eye(4, dtype=np.uint8)[np.repeat([0, 1, 2, 3], [50, 6, 3, 1])]  # 60 rows
MULTI = (np.random.default_rng(0).random((40, 5)) < [0.6, 0.3, 0.2, 0.1, 0.05]).astype(np.uint8)


def test_uniform_is_a_permutation_of_all_rows_every_epoch():
    order = order_of(UNEVEN, "uniform", seed=7)
    row, visit = order(np.arange(180))
    for epoch in range(3):
        shuffled = np.random.Generator(np.random.Philox(key=[7, epoch])).permutation(60)  # the order of earlier versions
        np.testing.assert_array_equal(row[60 * epoch :][:60], shuffled)
    np.testing.assert_array_equal(visit, np.repeat([0, 1, 2], 60))


@pytest.mark.parametrize(
    ("how", "weights", "shares"),
    [
        ("balanced", None, np.full(4, 0.25)),
        ("sqrt", None, np.sqrt([50, 6, 3, 1]) / np.sqrt([50, 6, 3, 1]).sum()),
        ("weighted", [1, 0, 2, 0.5], np.array([1, 0, 2, 0.5]) / 3.5),
    ],
)
def test_classes_get_their_share_of_every_epoch_and_exactly_in_the_long_run(how, weights, shares):
    order = order_of(UNEVEN, how, weights=weights)
    row, _ = order(np.arange(60 * 400))
    counts = np.array([UNEVEN[epoch].sum(0) for epoch in row.reshape(400, 60)])
    assert np.abs(counts - 60 * shares).max() < 1
    np.testing.assert_allclose(counts.mean(0), 60 * shares, atol=0.1)  # random rounding favours no class
    assert len({tuple(epoch) for epoch in UNEVEN[row[:180]].argmax(1).reshape(3, 60).tolist()}) == 3


def test_a_class_goes_through_all_its_clips_before_one_comes_again_and_reshuffles():
    row, visit = order_of(UNEVEN)(np.arange(60 * 40))
    for members in (np.arange(50), np.arange(50, 56), np.arange(56, 59), np.array([59])):
        drawn = row[np.isin(row, members)]
        passes = drawn[: len(drawn) // len(members) * len(members)].reshape(-1, len(members))
        assert (np.sort(passes, 1) == members).all()
        assert len({tuple(clips) for clips in passes.tolist()}) >= min(len(passes), len(members))
        np.testing.assert_array_equal(visit[np.isin(row, members)], np.arange(len(drawn)) // len(members))


def test_visits_count_every_draw_of_a_clip_of_several_classes():
    order = order_of(MULTI, "balanced")
    row, visit = order(np.arange(40 * 30))
    seen = dict.fromkeys(range(40), 0)
    for clip, number in zip(row.tolist(), visit.tolist(), strict=True):
        assert number == seen[clip]
        seen[clip] += 1
    # A clip without a class is never drawn.
    assert {clip for clip, count in seen.items() if not count} == set(np.flatnonzero(MULTI.sum(1) == 0))
    drawn_for = np.array([MULTI[row][:, c].sum() for c in range(5)])
    assert (drawn_for[:4] >= 0.99 * 40 * 30 / 4).all() and not drawn_for[4]  # draws for other classes add to a share


def test_any_position_can_be_asked_for_first():
    whole = order_of(MULTI, "sqrt")(np.arange(40 * 50))
    position = np.random.default_rng(1).permutation(40 * 50)[:200]
    for again in (order_of(MULTI, "sqrt"), order_of(MULTI, "sqrt")):
        for got, expected in zip(again(position), whole, strict=True):
            np.testing.assert_array_equal(got, expected[position])
        position = position[::-1] // 2 + 900
    assert not np.array_equal(order_of(MULTI, "sqrt", seed=4)(np.arange(40))[0], whole[0][:40])


def test_late_epochs_of_small_sets_are_reached_at_once():
    late = order._BLOCK * 3 + 5
    drawn = order_of(UNEVEN, "sqrt")
    direct = sum(drawn._counts(np.array([epoch]))[0] for epoch in range(late))
    np.testing.assert_array_equal(drawn._drawn(late), direct)


def test_mixed_sets_are_drawn_by_weight_and_each_goes_through_its_clips():
    labels = np.concatenate([UNEVEN, UNEVEN])
    source = np.repeat([0, 1], 60)
    row, visit = order_of(labels, "uniform", source=source, shares=(1.0, 0.25))(np.arange(120 * 100))
    assert np.mean(row >= 60) == pytest.approx(0.2, abs=1e-3)
    first = row[row < 60]
    assert (np.sort(first[: len(first) // 60 * 60].reshape(-1, 60), 1) == np.arange(60)).all()
    assert visit[row >= 60].max() in (39, 40)
    row, _ = order_of(labels, "balanced", source=source, shares=(1.0, 3.0))(np.arange(120 * 100))
    np.testing.assert_allclose(
        np.bincount(4 * (row >= 60) + labels[row].argmax(1)) / len(row), [1 / 16] * 4 + [3 / 16] * 4, atol=1e-3
    )


# ---------------------------------------------------------------- rows


def test_fixed_segments_are_drawn_once_a_track():
    """750 tracks of 30 s give 11,250 segments (15 of 20,462 samples per track), or 7,500 (10 of 4 s per track)."""
    index = index_of(np.full(750, 661_500))
    rows = rows_of(index, section("data", samples=20_462, segments="fixed"), seed=1)
    assert len(rows) == 11_250
    np.testing.assert_array_equal(np.bincount(rows.clip), np.full(750, 15))
    assert rows.start.min() >= 0 and rows.start.max() <= 661_500 - 20_462
    assert len(set(zip(rows.clip.tolist(), rows.variant.tolist(), strict=True))) == 11_250  # each segment has a different key
    assert abs(rows.start.mean() / (661_500 - 20_462) - 0.5) < 0.01
    again = rows_of(index, section("data", samples=20_462, segments="fixed"), seed=1)
    np.testing.assert_array_equal(again.start, rows.start)
    assert (rows_of(index, section("data", samples=20_462, segments="fixed"), seed=2).start != rows.start).mean() > 0.99
    assert len(rows_of(index, section("data", samples=88_200, segments="fixed", segments_per_track=10), 1)) == 7_500


def test_fixed_segments_come_in_turn_from_the_clips_of_a_track():
    rows = rows_of(
        index_of([900, 900, 900, 50], tracks=[0, 1, 0, 2]),
        section("data", samples=100, segments="fixed", segments_per_track=4),
        0,
    )
    np.testing.assert_array_equal(np.sort(rows.clip), [0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3])
    assert (rows.start[rows.clip == 3] == 0).all()  # shorter than a segment


def test_consecutive_segments_overlap_and_end_flush():
    rows = rows_of(index_of([250, 100, 40]), section("data", samples=100, segments="consecutive", segment_hop=50), 0)
    np.testing.assert_array_equal(rows.clip, [0] * 4 + [1, 2])
    np.testing.assert_array_equal(rows.start, [0, 50, 100, 150, 0, 0])
    np.testing.assert_array_equal(rows.variant, [0, 1, 2, 3, 0, 0])


SCHINDLER = {"copies__semitones": [-5, -2, 2, 5], "copies__stretches": [0.2, 0.5, 1.2, 1.5], "copies__segments": 3}


def test_schindler_enlarges_11250_to_47250():
    """Each track gains 48 copies: 3 additional segments × 4 stretches × 4 shifts."""
    index = index_of(np.full(750, 661_500))
    rows = rows_of(index, section("data", samples=20_462, segments="fixed", **SCHINDLER), seed=1)
    assert len(rows) == 47_250
    plain = rows_of(index, section("data", samples=20_462, segments="fixed"), seed=1)
    version = rows.variant % 17
    for field in ("clip", "start"):
        np.testing.assert_array_equal(getattr(rows, field)[version == 0], getattr(plain, field))
    mine = rows.clip == 5
    copied = list(zip(rows.start[mine & (version > 0)].tolist(), version[mine & (version > 0)].tolist(), strict=True))
    assert len(copied) == 48 and len({start for start, _ in copied}) == 3
    assert {number for _, number in copied} == set(range(1, 17))
    assert not {start for start, _ in copied} & set(plain.start[plain.clip == 5].tolist())
    assert len(set(zip(rows.clip.tolist(), rows.variant.tolist(), strict=True))) == 47_250


def test_folmer_doubles_800_to_1600():
    data = section("data", samples=20_000, copies__semitones=[-9, -8, -7, -6, -5, 5, 6, 7, 8, 9], copies__draw="one")
    rows = rows_of(index_of(np.full(800, 661_500)), data, seed=1)
    assert len(rows) == 1600
    for number in (0, 1):
        np.testing.assert_array_equal(np.sort(rows.clip[rows.variant == number]), np.arange(800))
    assert (rows.start == -1).all()  # the segment of a copy is random, like the segment of its recording


# ---------------------------------------------------------------- mixtures and errors


def test_merged_sets_keep_labels_by_name_and_every_clip_its_track(tmp_path):
    other = index_of([70, 80], np.array([[1, 0], [0, 1]], np.uint8), tracks=[0, 0], name="other", classes=("rock", "jazz"))
    first = index_of([10, 20, 30])
    merged = merge([first, other])
    np.testing.assert_array_equal(merged.labels[:3], first.labels)
    np.testing.assert_array_equal(merged.labels[3:], [[0, 0, 0, 1], [0, 1, 0, 0]])
    np.testing.assert_array_equal(merged.first_label, [0, 1, 2, 3, 1])
    np.testing.assert_array_equal(merged.length, [10, 20, 30, 70, 80])
    np.testing.assert_array_equal(merged.track, [0, 1, 2, 3, 3])
    assert merged.names[3] == "other:c00000" and merged.tracks[3] == "other:t0"
    assert merge([first]) is first


def test_what_does_not_mix_gets_a_sentence():
    first = index_of([10, 20])
    with pytest.raises(
        UserError, match="data set 'other' has classes that 'made' lacks, techno: only data sets of the same classes"
    ):
        merge([first, index_of([10], name="other", classes=("jazz", "techno"))])
    with pytest.raises(UserError, match="data set 'other' has 8000 Hz, not 22050 Hz"):
        merge([first, index_of([10], name="other", rate=8000)])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sampling": "balnced"}, "unknown data.sampling 'balnced' .did you mean 'balanced'..: choose one of balanced, sqrt, uniform, weighted"),
        ({"segments": "all"}, "unknown data.segments 'all': choose one of consecutive, fixed, random"),
        ({"sampling": "weighted"}, r"'data.class_weights' goes with data.sampling 'weighted', .* \[\] and 'weighted'"),
        ({"class_weights": ["jazz=2"]}, r"goes with data.sampling 'weighted', .*\['jazz=2'\] and 'uniform'"),
        ({"mix": ["fma"]}, "'data.mix' must hold name=number with numbers of at least 0, and was given 'fma'"),
        ({"mix": ["fma=-1"]}, "'data.mix' must hold name=number .* given 'fma=-1'"),
        ({"segments_per_track": 0}, "'data.segments_per_track' must be at least 1, and was given 0"),
        ({"copies__semitones": [30]}, r"'data.copies.semitones' must hold numbers in \[-24, 24\], and was given \[30\]"),
        ({"copies__stretches": ["fast"]}, r"'data.copies.stretches' must hold numbers in \[0.1, 4\], and was given \['fast'\]"),
    ],
)  # fmt: skip
def test_bad_values_get_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        section("data", **changes)


def test_unknown_classes_and_empty_ones_get_a_sentence():
    with pytest.raises(
        UserError, match="unknown class in data.class_weights 'jaz' .did you mean 'jazz'..: choose one of blues"
    ):
        order.named_weights("data.class_weights", ["jaz=2"], NAMES)
    np.testing.assert_array_equal(
        order.named_weights("data.class_weights", ["jazz=2", "a=b=3"], ("jazz", "a=b", "c")), [2, 3, 1]
    )
    with pytest.raises(UserError, match="data.sampling 'weighted' finds no clip to draw"):
        order_of(UNEVEN[:50], "weighted", weights=[0, 1, 1, 1])


# ---------------------------------------------------------------- batches


def collect(batches):
    batches = list(batches)
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


PLANS = {
    "uniform": {},
    "balanced": {"data__sampling": "balanced"},
    "weighted": {"data__sampling": "weighted", "data__class_weights": ["low=3", "noise=0.5"], "data__refresh_epochs": 2},
    "fixed copies": {
        "data__sampling": "sqrt", "data__segments": "fixed", "data__segments_per_track": 3, "data__copies__semitones": [-2, 2],
        "data__copies__segments": 1,
    },
    "consecutive": {"data__segments": "consecutive", "data__segment_hop": 150},
}  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_three_epochs_in_one_go_resumed_and_by_hosts(tones, plan):
    """A new reader that resumes within an epoch, and 2 or 4 hosts together, give the order and content of a single pass."""
    from genre_jax.data.batches import TrainBatches, prefetch

    index = shards.load_index(locate.directory(tones, "tones", 8000), "train")
    config = small_config(tones, **PLANS[plan])
    batches = TrainBatches(index, config)
    epochs = -(-3 * len(batches.rows) // 8)
    whole = collect(prefetch(batches, 0, epochs, "threads"))
    stop = epochs // 2
    resumed = collect(
        itertools.chain(
            prefetch(TrainBatches(index, config), 0, stop, "threads"),
            prefetch(TrainBatches(index, config), stop, epochs, "threads"),
        )
    )
    merged = {}
    for hosts in (2, 4):
        readers = [TrainBatches(index, config, host, hosts) for host in range(hosts)]
        merged[hosts] = collect(readers[host](n) for n in range(epochs) for host in range(hosts))
    for other in (resumed, *merged.values()):
        for key, values in whole.items():
            np.testing.assert_array_equal(other[key], values, err_msg=key)
    triples = list(zip(*(whole[key].tolist() for key in ("clip", "variant", "visit")), strict=True))
    assert len(set(triples)) == len(triples)  # no two examples share random numbers
    for row in range(len(triples)):
        clip, start = whole["clip"][row], whole["start"][row]
        np.testing.assert_array_equal(whole["audio"][row], index.cut(clip, start, 2000))


def test_mixed_sets_through_a_run(tones, tmp_path, monkeypatch):
    """Two data sets of the same classes are drawn 1 : 3. An epoch has as many clips as both data sets together."""
    import shutil

    from conftest import write_tones

    data_dir = tmp_path / "data"
    shutil.copytree(tones, data_dir)
    write_tones(data_dir, "more", (("train", 2), ("validation", 1), ("test", 1)))
    run = Run(small_config(data_dir, "snn", data__mix=["more=3"], devices=1))
    assert run.program.clips == 24 + 8 and len(run.splits["test"]) == 12
    clips = np.concatenate([run.batches(n)["clip"] for n in range(40)])
    assert np.mean(clips >= 24) == pytest.approx(0.75, abs=0.01)
    assert run.splits["train"].names[24].startswith("more:train/")
    with pytest.raises(UserError, match="data set 'none' at 8000 Hz is not in"):
        Run(small_config(data_dir, "snn", data__mix=["none=3"], devices=1))
