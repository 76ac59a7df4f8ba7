"""Tests of the order "by_shard" and of the reader "sequential", on local shards and on stand-ins for a bucket.

The stand-ins are the memory file systems of fsspec (memory://) and of TensorFlow (ram://), and a server that answers as Google
Cloud Storage does, if gcsfs is installed.
"""

import dataclasses
import json
import shutil
import sys

import fsspec
import numpy as np
import pytest
from conftest import small_config, write_tones
from storage_server import serve

from genre_jax import config as configs
from genre_jax.console import UserError
from genre_jax.data import bucket, locate, sequential, shards
from genre_jax.data.batches import EvalBatches, TrainBatches, import_tensorflow, prefetch, resolve_reader
from genre_jax.data.shard_order import ShardOrder, check_hosts, places
from genre_jax.loop import train_and_evaluate

pytest.importorskip("tensorflow")
BY_SHARD = {"data__order": "by_shard", "data__streams": 4, "data__shuffle_buffer": 3, "data__samples": 1000}
BY_SHARD |= {"data__reader": "auto"}


def folder_of(data_dir):
    return locate.directory(data_dir, "tones", 8000)


@pytest.fixture(scope="module")
def index(tones):
    return shards.load_index(folder_of(tones), "train")


def config_of(data_dir, **changes):
    return small_config(data_dir, **(BY_SHARD | changes))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype, key
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def clips_in_shards(counts):
    """An index of clips without audio; shard number i holds counts[i] clips, and names mix the shards."""
    shard = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    record = np.arange(len(shard)) * 100
    nothing = np.zeros(len(shard), np.int64)
    fields = {field.name: nothing for field in dataclasses.fields(shards.Index)}
    return shards.Index(**fields | {"names": tuple(map(str, record)), "shard": shard, "record": record})


# ---------------------------------------------------------------- the order


@pytest.mark.parametrize(("counts", "streams", "buffer"), [
    ([7, 1, 5, 10], 1, 4), ([7, 1, 5, 10], 4, 3), ([7, 1, 5, 10], 4, 1), ([40, 41], 8, 7), ([3, 2], 8, 2), ([31] * 7, 3, 1000),
])  # fmt: skip
def test_each_clip_comes_once_an_epoch_and_streams_follow_the_shards(counts, streams, buffer):
    made = clips_in_shards(counts)
    size = len(made)
    order = ShardOrder(made, streams, buffer, seed=5)
    position = np.arange(4 * size)
    row, visit = order(position)
    np.testing.assert_array_equal(visit, position // size)
    epochs = row.reshape(4, size)
    assert (np.sort(epochs, 1) == np.arange(size)).all() and len({tuple(epoch) for epoch in epochs}) > 1
    assert not np.array_equal(ShardOrder(made, streams, buffer, seed=6)(position)[0], row)
    for stream in range(streams):
        delivered = row[stream::streams]
        blocks = order.blocks(stream, 0)
        done = 0
        while done < len(delivered):
            block = next(blocks)
            assert block.first == done and len(block.read) <= buffer
            np.testing.assert_array_equal(block.delivered, delivered[done : done + len(block.read)])
            np.testing.assert_array_equal(np.sort(block.read), np.sort(block.delivered))
            place = made.shard[block.read].astype(np.int64) * 10**6 + made.record[block.read]
            parts = np.split(place, np.flatnonzero(np.diff(made.shard[block.read])) + 1)
            assert all((np.diff(part) > 0).all() for part in parts)  # within a shard from its start to its end
            assert len(parts) == len(np.unique(made.shard[block.read]))  # each shard once
            done += len(block.read)
        first = done // 2
        assert next(order.blocks(stream, first)).first <= first
        np.testing.assert_array_equal(  # what is read from any clip on is the end of what the blocks read
            next(order.blocks(stream, first, whole=True)).read[:1],
            np.concatenate([b.read for b, _ in zip(order.blocks(stream, 0), range(done), strict=False)])[first : first + 1],
        )


def test_blocks_are_shuffled_and_shards_change_their_turn():
    order = ShardOrder(clips_in_shards([50] * 8), 1, 50, seed=0)
    blocks = [block for block, _ in zip(order.blocks(0, 0), range(24), strict=False)]
    assert all((block.read != block.delivered).any() for block in blocks)
    turns = [order._shard[block.read[0]] for block in blocks]
    assert sorted(turns[:8]) == sorted(turns[8:16]) == list(range(8)) and turns[:8] != turns[8:16] != turns[16:]


@pytest.mark.parametrize(("batch", "streams"), [(8, 4), (8, 8), (6, 1), (12, 3)])
def test_rows_of_a_stream_lie_side_by_side(batch, streams):
    position = places(batch, streams)
    assert sorted(position) == list(range(batch))
    np.testing.assert_array_equal(position % streams, np.repeat(np.arange(streams), batch // streams))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_split_each_batch(tones, index, hosts):
    config = config_of(tones)
    for number in range(7):
        parts = [TrainBatches(index, config, host, hosts)(number) for host in range(hosts)]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert_equal(joined, TrainBatches(index, config)(number))
    windows = [EvalBatches(index, config, host, hosts) for host in range(hosts)]
    rows = [(batch["clip"][k], batch["start"][k]) for part in windows for n in range(len(part)) for batch in [part(n)]
            for k in np.flatnonzero(batch["mask"])]  # fmt: skip
    alone = EvalBatches(index, config)
    assert rows == list(zip(alone.clip, alone.start, strict=True))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.sampling": "balanced"}, "data.order 'by_shard' needs data.sampling 'uniform', and data.sampling is 'balanced'"),
        ({"data.segments": "fixed"}, "data.order 'by_shard' needs data.segments 'random', and data.segments is 'fixed'"),
        ({"data.copies.semitones": "[1]"}, "data.order 'by_shard' makes no copies"),
        ({"data.mix": '["a=1"]'}, r"data.order 'by_shard' reads one data set, and data.mix is \['a=1'\]"),
        ({"data.streams": "3"}, "data.streams must divide train.batch_size 8, and was given 3: choose one of 1, 2, 4, 8"),
        ({"data.order": "global", "data.reader": "sequential"}, "data.reader 'sequential' needs data.order 'by_shard'"),
        (
            {"data.order": "global", "data.data_dir": "gs://b/d"},
            "'gs://b/d' is not a local folder: set data.order to 'by_shard'",
        ),
        ({"data.reader": "tfdata", "data.data_dir": "s3://b"}, "data.reader 'tfdata' reads local files, and data.data_dir is"),
    ],
)
def test_what_does_not_fit_is_refused(tones, changes, sentence):
    config = config_of(tones)
    for key, value in changes.items():
        configs.override(config, key, value)
    with pytest.raises(UserError, match=sentence):
        configs.validate_values(config)


def test_streams_that_the_hosts_cannot_share_are_refused(tones, index):
    with pytest.raises(UserError, match="data.streams must be a multiple of 3, the number of hosts, and was given 4"):
        TrainBatches(index, config_of(tones), 0, 3)
    check_hosts(8, 4)


def test_without_tensorflow_the_reader_is_refused(tones, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="data.reader 'sequential' needs TensorFlow, which is not installed"):
        resolve_reader("sequential", tones)
    assert resolve_reader("auto", tones) == "threads"


# ---------------------------------------------------------------- the reader


@pytest.mark.parametrize(("streams", "buffer", "hosts"), [(4, 3, 1), (4, 3, 4), (8, 1, 2), (1, 256, 1)])
def test_the_sequential_reader_agrees_from_any_position(tones, index, streams, buffer, hosts):
    config = config_of(tones, data__streams=streams, data__shuffle_buffer=buffer)
    for host in {0, hosts - 1}:
        batches = TrainBatches(index, config, host, hosts)
        for start, stop in ((0, 7), (5, 6)):  # three batches an epoch: from the middle of an epoch and of a block
            got = list(prefetch(batches, start, stop, "sequential"))
            assert len(got) == stop - start
            for number, batch in zip(range(start, stop), got, strict=True):
                assert_equal(batch, batches(number))


@pytest.mark.parametrize("windows", ["consecutive", "fixed", "centre"])
def test_the_sequential_reader_evaluates_every_window(tones, index, windows):
    config = config_of(tones, evaluate__windows=windows, data__segments_per_track=3, evaluate__hop=700)
    for host, hosts in ((0, 1), (1, 2)):
        batches = EvalBatches(index, config, host, hosts)
        got = list(prefetch(batches, 0, len(batches), "sequential"))
        for number, batch in enumerate(got):
            assert_equal(batch, batches(number))
        assert len(got) == len(batches)


def test_clips_that_are_left_out_are_not_read(tones, index):
    few = index.take(np.array([0, 3, 4, 5, 11, 17, 20]))
    batches = TrainBatches(few, config_of(tones))
    for number, batch in enumerate(prefetch(batches, 0, 4, "sequential")):
        assert_equal(batch, batches(number))


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 4])
def test_an_embedded_data_set_is_read_alike_and_once_an_epoch(hosts, tmp_path_factory):
    from genre_jax.prepare import build

    folder = build.prepare("synthetic", tmp_path_factory.getbasetemp() / "embedded", 8000)
    index = shards.load_index(folder, "train")
    config = configs.base("embedded")
    config.data.update(order="by_shard", samples=24_576, sample_rate=8000, shuffle_buffer=16)
    count = 2 * len(index) // config.train.batch_size
    assert count * config.train.batch_size == 2 * len(index)
    seen = []
    for host in range(hosts):
        batches = TrainBatches(index, config, host, hosts)
        for one, other in zip(prefetch(batches, 0, count, "threads"), prefetch(batches, 0, count, "sequential"), strict=True):
            assert_equal(one, other)
            seen += zip(other["visit"].tolist(), other["clip"].tolist(), strict=True)
    assert sorted(seen) == [(epoch, clip) for epoch in range(2) for clip in range(len(index))]


def test_memory_stays_within_a_block_for_each_stream(tones, index, monkeypatch):
    held, most = 0, 0
    taken = sequential._taken

    def counting(cuts, order):
        nonlocal held, most
        held += len(cuts)
        most = max(most, held)
        for item in taken(cuts, order):
            held -= 1
            yield item

    monkeypatch.setattr(sequential, "_taken", counting)
    config = config_of(tones, data__streams=2, data__shuffle_buffer=4)
    assert len(list(prefetch(TrainBatches(index, config), 0, 12, "sequential"))) == 12
    assert 0 < most <= 2 * 2 * 4


# ---------------------------------------------------------------- damage


def flip(content, index, clip):
    content[index.offset[clip] + 500] ^= 4


def wrong_size(content, index, clip):
    content[index.record[clip] - 12] ^= 1


def cut_off(content, index, clip):
    del content[index.record[clip] - 12 :]


@pytest.mark.parametrize("damage", [flip, wrong_size, cut_off])
@pytest.mark.parametrize("remote", [False, True])
def test_damaged_clips_stop_the_reader_or_are_left_out(tmp_path, damage, remote, request, capsys):
    index = shards.load_index(write_tones(tmp_path), "train")
    shard = index.shards[0]
    clip = int(np.flatnonzero(index.shard == 0)[np.argsort(index.record[index.shard == 0])[-1 if damage is cut_off else 3]])
    content = bytearray(shard.read_bytes())
    damage(content, index, clip)
    shard.write_bytes(content)
    if remote:
        index = shards.load_index(locate.folder_of(config_of(copied(tmp_path, "memory://damaged", request)).data), "train")
    with pytest.raises(shards.DamagedClip, match=f"^clip '{index.names[clip]}' in shard .* is damaged"):
        list(prefetch(EvalBatches(index, config_of(tmp_path)), 0, 20, "sequential"))
    index.state[:] = shards.UNREAD
    config = config_of(tmp_path, data__on_corrupt="skip")
    batches = TrainBatches(index, config)
    seen = []
    for number, batch in enumerate(prefetch(batches, 0, 6, "sequential")):
        np.testing.assert_array_equal(batch["mask"] == 0, batch["clip"] == clip)
        assert not batch["audio"][batch["mask"] == 0].any()
        seen += batch["clip"].tolist()
        if damage is flip:
            assert_equal(batch, batches(number))
    assert sorted(seen) == sorted([*range(len(index))] * 2)
    assert capsys.readouterr().out.count(f"left out: clip '{index.names[clip]}'") == 1


def test_a_shard_of_other_clips_is_not_taken_for_the_one_of_the_index(tmp_path):
    folder = write_tones(tmp_path)
    index = shards.load_index(folder, "train")
    shutil.copy(index.shards[1], index.shards[0])
    with pytest.raises(shards.DamagedClip, match="another clip, or none, is in its place|cannot be read as TFRecord"):
        list(prefetch(TrainBatches(index, config_of(tmp_path)), 0, 3, "sequential"))


# ---------------------------------------------------------------- buckets


def copied(data_dir, url, request):
    """Copy the data sets in a local folder to a URL of fsspec's or TensorFlow's memory file system; return the URL."""
    files = [path for path in data_dir.rglob("*") if path.is_file()]
    if url.startswith("ram://"):
        gfile = import_tensorflow().io.gfile
        for path in files:
            gfile.makedirs(f"{url}/{path.parent.relative_to(data_dir)}")
            with gfile.GFile(f"{url}/{path.relative_to(data_dir)}", "wb") as file:
                file.write(path.read_bytes())
        request.addfinalizer(lambda: gfile.rmtree(url))
    else:
        system = fsspec.filesystem("memory")
        for path in files:
            system.pipe(f"{url}/{path.relative_to(data_dir)}", path.read_bytes())
        request.addfinalizer(lambda: system.rm(url, recursive=True))
    return url


@pytest.fixture(params=["memory://bucket/data", "ram://bucket/data"])
def remote(request, tmp_path):
    """The URL of a copy of the tones with the index files of all splits."""
    folder = write_tones(tmp_path)
    for split in ("train", "validation", "test"):
        shards.load_index(folder, split)
    return copied(tmp_path, request.param, request)


def test_a_bucket_gives_the_same_batches(tones, index, remote):
    config = config_of(remote)
    there = shards.load_index(locate.find(config), "train")
    local, batches = TrainBatches(index, config), TrainBatches(there, config)
    for number, batch in zip(range(2, 8), prefetch(batches, 2, 8), strict=True):
        assert_equal(batch, local(number))
        assert_equal(batches(number), local(number))  # by index, as `--dry_run` and `--replay` read
    assert (there.state == shards.VERIFIED).all()


def stated(folder):
    """The results of a run without times and places, and its predictions."""
    results = json.loads((folder / "results.json").read_text())
    for key in ("directory", "clips_per_second", "train_seconds", "peak_memory_bytes"):
        results.pop(key)
    with np.load(folder / "predictions.npz") as file:
        return results, dict(file)


def test_a_run_on_a_bucket_equals_the_run_on_local_files(tones, remote, tmp_path):
    changes = {"model": "snn", "devices": 1, "evaluate__train": True}
    noise = {"augment__noise__data_set": "tones", "augment__noise__label": "noise"}
    train_and_evaluate(config_of(tones, data__reader="threads", **changes, **noise), tmp_path / "local")
    train_and_evaluate(config_of(remote, **changes, **noise), tmp_path / "remote")
    (one, scores), (other, predictions) = stated(tmp_path / "local"), stated(tmp_path / "remote")
    assert one == other
    assert_equal(scores, predictions)
    assert json.loads((tmp_path / "remote" / "environment.json").read_text())["reader"] == "sequential"


def test_an_exclude_list_in_a_bucket_counts(tones, index, request, tmp_path):
    folder = write_tones(tmp_path)
    shards.load_index(folder, "train")
    (folder / "exclude.csv").write_text(f"name,split\n{index.names[3]},train\n")
    config = config_of(copied(tmp_path, "memory://listed", request))
    assert set(index.names) - set(shards.load_index(locate.find(config), "train").names) == {index.names[3]}


def test_a_bucket_without_its_index_says_what_to_copy(request, tmp_path):
    write_tones(tmp_path)
    config = config_of(copied(tmp_path, "memory://bare", request))
    with pytest.raises(UserError, match=r"memory://bare/.*/index-train.npz is missing, or .*: copy it from the folder"):
        shards.load_index(locate.find(config), "train")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "memory://nothing",
            "data set 'tones' at 8000 Hz is not in 'memory://nothing': prepare it in a local folder, and copy",
        ),
        ("foo://bucket", "foo://bucket/.* cannot be read: Protocol not known: foo"),
        ("wrong://bucket", "cannot be read: Install wrong .*the extra `bucket` of genre_jax installs gcsfs and s3fs"),
        ("closed://bucket", "closed://bucket/.* cannot be read: no permission"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(url, sentence, monkeypatch):
    def file_system(scheme):
        if scheme == "wrong":
            raise ImportError("Install wrong to access Wrong")
        if scheme == "closed":
            raise PermissionError("no permission\nand many more lines")
        return fsspec.filesystem(scheme)

    monkeypatch.setattr(bucket, "_file_system", file_system)
    with pytest.raises(UserError, match=sentence) as told:
        locate.find(config_of(url))
    assert "\n" not in str(told.value)


def test_a_bucket_that_fails_on_the_way_stops_the_run(tones, index, request, tmp_path):
    folder = write_tones(tmp_path)
    shards.load_index(folder, "train")
    there = shards.load_index(locate.find(config_of(copied(tmp_path, "memory://lost", request))), "train")
    fsspec.filesystem("memory").rm(str(there.shards[0]))
    with pytest.raises(UserError, match=r"^memory://lost/.*tfrecord-00000-of-00002 cannot be read: it is missing"):
        list(prefetch(TrainBatches(there, config_of(tones, data__on_corrupt="skip")), 0, 3, "sequential"))
    fsspec.filesystem("memory").pipe("memory://lost/x", b"")  # for the finaliser


def test_prepare_writes_no_bucket():
    from genre_jax.prepare import build

    with pytest.raises(UserError, match="prepare writes local folders alone, and --data_dir is 'gs://b'"):
        build.prepare("synthetic", "gs://b", 8000)


def test_google_cloud_storage(tones, index, tmp_path, monkeypatch):
    pytest.importorskip("gcsfs")
    folder = write_tones(tmp_path / "bucket" / "data")
    shards.load_index(folder, "train")
    with serve(tmp_path, monkeypatch) as requests:
        config = config_of("gs://bucket/data")
        batches = TrainBatches(shards.load_index(locate.find(config), "train"), config)
        for number, batch in zip(range(1, 5), prefetch(batches, 1, 5), strict=True):
            assert_equal(batch, TrainBatches(index, config)(number))
    assert any("bytes=" in asked for asked in requests)  # shards are read in ranges
