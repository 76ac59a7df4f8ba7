"""Tests of batches: order, segments, windows and hosts. Each batch depends only on its number."""

import shutil

import numpy as np
import pytest
from conftest import small_config, tone_clip

from genre_jax.data import locate, shards
from genre_jax.data.batches import EvalBatches, TrainBatches, label_matrix, prefetch
from genre_jax.data.order import random_starts, window_starts


@pytest.fixture(scope="module")
def index(tones):
    return shards.load_index(locate.directory(tones, "tones", 8000), "train")


def collect(batches):
    batches = list(batches)
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def test_every_epoch_visits_every_clip_once_in_another_order(tones, index):
    config = small_config(tones)
    seen = collect(TrainBatches(index, config)(n) for n in range(9))
    epochs = seen["clip"].reshape(3, len(index))
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(index)))
    assert not (epochs[0] == epochs[1]).all()
    np.testing.assert_array_equal(seen["visit"], np.repeat([0, 1, 2], len(index)))


def test_cuts_hold_the_samples_of_their_clip(tones, index):
    batch = TrainBatches(index, small_config(tones))(4)
    for row, clip in enumerate(batch["clip"]):
        split, genre, number = index.names[clip].removesuffix(".wav").split("/")
        genre = index.classes.index(genre)
        whole = tone_clip(split, genre, int(number), int(index.length[clip])).audio
        start = batch["start"][row]
        np.testing.assert_array_equal(batch["audio"][row], whole[start : start + 2000])
        assert batch["labels"][row].tolist() == np.eye(4, dtype=int)[genre].tolist()
        assert batch["length"][row] == 2000
        assert batch["maximum"][row] == np.float32(whole.max() / 32768)


def test_hosts_split_each_batch_and_seeds_differ(tones, index):
    config = small_config(tones)
    whole = collect(TrainBatches(index, config)(n) for n in range(4))
    for hosts in (2, 4):
        parts = [[TrainBatches(index, config, host, hosts)(n) for host in range(hosts)] for n in range(4)]
        merged = collect(batch for row in parts for batch in row)
        for key in whole:
            np.testing.assert_array_equal(merged[key], whole[key])
    other = collect(TrainBatches(index, small_config(tones, seed=1))(n) for n in range(4))
    assert not np.array_equal(other["clip"], whole["clip"])


@pytest.mark.parametrize("reader", ["threads", "tfdata"])
def test_readers_agree_from_any_position(tones, index, reader):
    if reader == "tfdata":
        pytest.importorskip("tensorflow")
    batches = TrainBatches(index, small_config(tones))
    got = list(prefetch(batches, 3, 9, reader, ahead=3))
    assert len(got) == 6
    for number, batch in zip(range(3, 9), got, strict=True):
        for key, value in batches(number).items():
            assert batch[key].dtype == value.dtype, key
            np.testing.assert_array_equal(batch[key], value)


def test_refresh_keeps_a_cut_for_some_visits(tones, index):
    kept = collect(TrainBatches(index, small_config(tones, data__refresh_epochs=2))(n) for n in range(9))
    start = np.empty((3, len(index)), int)
    start[kept["visit"], kept["clip"]] = kept["start"]
    np.testing.assert_array_equal(start[0], start[1])
    assert not (start[1] == start[2]).all()


def test_random_starts_are_uniform_and_independent():
    clip, draw = np.divmod(np.arange(40_000), 200)
    starts = random_starts(3, clip, draw, np.full(40_000, 9))
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10 and ((counts - 4000) ** 2 / 4000).sum() < 27.9  # chi-squared test, 9 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(starts[:-1], starts[1:])[0, 1]) < 0.02
    assert (random_starts(3, clip, draw, np.zeros(40_000, int)) == 0).all()


@pytest.mark.parametrize(
    ("length", "hop", "expected"),
    [(100, 0, [0]), (250, 0, [0, 100, 150]), (200, 0, [0, 100]), (60, 0, [0]), (230, 40, [0, 40, 80, 120, 130]), (101, 0, [0, 1])],
)  # fmt: skip
def test_windows_cover_the_clip_and_end_flush(length, hop, expected):
    assert window_starts(length, 100, hop).tolist() == expected


def test_centre_window(tones, index):
    rows = EvalBatches(index, small_config(tones, data__samples=100, evaluate__windows="centre"))
    assert rows.clip.tolist() == list(range(len(index)))
    np.testing.assert_array_equal(rows.start, (index.length - 100) // 2)


@pytest.mark.parametrize("batch_size", [1, 5, 8])
def test_evaluation_covers_every_window_once(tones, index, batch_size):
    batches = EvalBatches(index, small_config(tones, evaluate__batch_size=batch_size))
    table = collect(batches(n) for n in range(len(batches)))
    assert len(table["mask"]) % batch_size == 0
    valid = table["mask"] > 0
    rows = list(zip(table["clip"][valid].tolist(), table["start"][valid].tolist(), strict=True))
    expected = [(c, s) for c in range(len(index)) for s in window_starts(int(index.length[c]), 2000).tolist()]
    assert rows == expected


def test_short_clips_are_padded_with_zeros(tones, index):
    batch = EvalBatches(index, small_config(tones, data__samples=5001))(0)
    assert batch["audio"].shape == (8, 5001)
    for row, clip in enumerate(batch["clip"]):
        length = index.length[clip]
        assert batch["length"][row] == length
        assert (batch["audio"][row, length:] == 0).all() and batch["audio"][row, :length].any()


def test_first_label_is_one_hot(index):
    multi = shards.Index(**{**vars_of(index), "labels": np.ones_like(index.labels)})
    first = label_matrix(multi, "first")
    np.testing.assert_array_equal(first, index.labels)


def vars_of(index):
    return {field: getattr(index, field) for field in index.__dataclass_fields__}


def damaged_copy(tones, folder):
    """Copy the tones, invert a bit in the audio of one training clip, and return the index and the clip's number."""
    shutil.copytree(tones / "tones", folder / "tones")
    index = shards.load_index(locate.directory(folder, "tones", 8000), "train")
    clip = 5
    path = index.shards[index.shard[clip]]
    content = bytearray(path.read_bytes())
    content[index.offset[clip] + 1000] ^= 4
    path.write_bytes(content)
    return index, clip


@pytest.mark.parametrize("reader", ["threads", "tfdata"])
def test_a_damaged_clip_stops_the_reader_with_its_name(tones, tmp_path, reader):
    if reader == "tfdata":
        pytest.importorskip("tensorflow")
    index, clip = damaged_copy(tones, tmp_path)
    batches = EvalBatches(index, small_config(tones))
    with pytest.raises(
        shards.DamagedClip, match=rf"^clip '{index.names[clip]}' in shard .* \(its bytes differ from its checksum\)"
    ):
        list(prefetch(batches, 0, len(batches), reader))


def test_a_damaged_clip_is_left_out_on_request(tones, tmp_path):
    index, clip = damaged_copy(tones, tmp_path)
    batches = EvalBatches(index, small_config(tones, data__on_corrupt="skip"))
    table = collect(batches(n) for n in range(len(batches)))
    assert set(table["clip"][table["mask"] > 0]) == set(range(len(index))) - {clip}
    batches = TrainBatches(index, small_config(tones, data__on_corrupt="skip"))
    table = collect(batches(n) for n in range(6))
    np.testing.assert_array_equal(table["mask"] == 0, table["clip"] == clip)
    assert (table["mask"] == 0).any() and not table["audio"][table["mask"] == 0].any()
    unread = TrainBatches(index, small_config(tones, data__verify="never"))
    assert collect(unread(n) for n in range(6))["mask"].all()
