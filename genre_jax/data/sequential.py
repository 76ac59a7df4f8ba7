"""The reader "sequential": each stream of the order "by_shard" reads its shards from start to end through tf.data.

The index and the order say which records a stream reads, and where they begin. Records that lie side by side in a shard are
one extent. tf.data opens the shard of an extent at its first byte (`TFRecordDataset`, or fsspec for file systems that
TensorFlow lacks), parses each record as a `tf.train.Example`, takes the cut, and reads ahead. Python puts the cuts of a block
in the order in which they are delivered. Batch n is therefore what `TrainBatches` and `EvalBatches` make of number n, for any
first n: the reading starts at the first record of a block. A stream holds about one block of cuts, of which it delivers a cut
for each that it reads.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import numpy as np

from genre_jax.console import UserError
from genre_jax.data.batches import Batch, EvalBatches, TrainBatches, import_tensorflow
from genre_jax.data.bucket import Remote, place, unreadable
from genre_jax.data.shard_order import ShardOrder
from genre_jax.data.shards import DAMAGED, VERIFIED, DamagedClip, Index

Item = tuple[int, np.ndarray | DamagedClip]  # a clip, and the samples that were asked for
# From a number on, the clips that are read, the first sample and the number of samples of each; int64 (clips,) each.
Plan = Callable[[int], Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]]

FRAME = 12, 4  # bytes of a record of a TFRecord file before and after its example
RANGE = 8 << 20  # bytes that are asked from a bucket at once
BUFFER = 1 << 20  # bytes that are read from a local file at once
AHEAD = 16  # records of a stream that tf.data reads ahead


def batches(source: TrainBatches | EvalBatches, start: int, stop: int) -> Iterator[Batch]:
    """Yield `source(n)` for n in [start, stop). Raises `UserError` if a shard cannot be read, or if a clip is damaged."""
    rows = _training(source, start, stop) if isinstance(source, TrainBatches) else _windows(source, start, stop)
    index = source.index

    def cut(clip: int, start: int, out: np.ndarray) -> None:
        del start
        read, samples = next(rows)
        assert read == clip, (read, clip)
        if isinstance(samples, DamagedClip):
            index.state[clip] = DAMAGED
            raise samples
        out[: len(samples)] = samples
        out[len(samples) :] = 0

    for number in range(start, stop):
        yield source(number, cut)


def _training(source: TrainBatches, start: int, stop: int) -> Iterator[Item]:
    """The clips of this host's rows of the batches [start, stop), in their order."""
    order = source.order
    if not isinstance(order, ShardOrder):
        raise UserError("data.reader 'sequential' needs data.order 'by_shard', and data.order is 'global'")
    each, share = source.batch_size // order.streams, order.streams // source.hosts
    streams = range(source.host * share, (source.host + 1) * share)
    feeds = [_stream(source, order, stream, start * each, stop * each) for stream in streams]
    with ThreadPoolExecutor(len(feeds), "stream") as pool:  # the streams read their first blocks at the same time
        feeds = [chain([first], feed) for first, feed in zip(pool.map(next, feeds), feeds, strict=True)]
    for _ in range(start, stop):
        for feed in feeds:
            yield from islice(feed, each)


def _stream(source: TrainBatches, order: ShardOrder, stream: int, first: int, last: int) -> Iterator[Item]:
    """The clips [first, last) of a stream, as they are delivered."""

    def plan(number: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for block in order.blocks(stream, number, whole=True):
            clip, start, _ = source.cuts(block.read, np.full(len(block.read), block.epoch))
            yield clip, start, np.minimum(source.index.length[clip] - start, source.samples)

    blocks = order.blocks(stream, first)
    block = next(blocks)
    items = _clips(source.index, plan, block.first, source.reading[0])
    waiting: Iterator[Item] = iter(())
    while block.first < last:
        cuts = {}
        for clip, samples in islice(items, len(block.read)):
            cuts[clip] = samples
            yield from islice(waiting, 1)
        yield from waiting
        waiting = _taken(cuts, block.delivered[max(0, first - block.first) :].tolist())
        block = next(blocks)
    yield from waiting


def _taken(cuts: dict[int, Any], order: list[int]) -> Iterator[Item]:
    """The items of `cuts` in this order; each is forgotten when it is taken."""
    for clip in order:
        yield clip, cuts.pop(clip)


def _windows(source: EvalBatches, start: int, stop: int) -> Iterator[Item]:
    """The windows of this host's rows of the batches [start, stop), in their order; each clip is read once."""
    if not source.by_shard:
        raise UserError("data.reader 'sequential' needs data.order 'by_shard', and data.order is 'global'")
    mine = slice(source.first(start), source.first(stop))
    clip, begin = source.clip[mine], source.start[mine].astype(np.int64)
    end = np.minimum(begin + source.samples, source.index.length[clip])
    first = np.flatnonzero(np.append(True, clip[1:] != clip[:-1])) if len(clip) else np.zeros(0, np.int64)
    after = np.append(first[1:], len(clip))
    if not len(clip):
        return

    def plan(number: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        some = slice(number, None)
        low, high = np.minimum.reduceat(begin, first)[some], np.maximum.reduceat(end, first)[some]
        yield clip[first[some]], low, high - low

    items = _clips(source.index, plan, 0, source.reading[0])
    for (read, samples), low, high in zip(items, first.tolist(), after.tolist(), strict=True):
        for row in range(low, high):
            part = slice(int(begin[row] - begin[low]), int(end[row] - begin[low]))
            yield read, samples if isinstance(samples, DamagedClip) else samples[part]


def _clips(index: Index, plan: Plan, number: int, verify: str) -> Iterator[Item]:
    """Read what `plan` lists from `number` on. A damaged clip is an item as well, and the reading goes on behind it."""
    tf = import_tensorflow()
    failures: list[Exception] = []  # TensorFlow replaces an exception by one of its own
    clip = -1
    while True:
        try:
            for clip, audio, name, example in _dataset(tf, index, plan, number, verify, failures).as_numpy_iterator():
                number += 1
                yield int(clip), _checked(index, int(clip), audio, name, example)
            return
        except tf.errors.OpError as error:
            clip = int(next(chunk[0][0] for chunk in plan(number) if len(chunk[0])))
            if not isinstance(error, tf.errors.DataLossError | tf.errors.InvalidArgumentError | tf.errors.OutOfRangeError):
                raise unreadable(str(index.shards[index.shard[clip]]), (failures or [error])[0]) from error
            number += 1
            reason = "its record cannot be read as TFRecord"
            yield clip, DamagedClip(index, clip, reason)


def _checked(index: Index, clip: int, audio: bytes, name: bytes, example: bytes) -> np.ndarray | DamagedClip:
    """The samples of a clip that was read, or the error if it is not the clip of the index; `example` is b"" if not due."""
    if name != index.names[clip].encode():
        return DamagedClip(index, clip, "another clip, or none, is in its place")
    if example:
        if not index.matches(clip, example):
            return DamagedClip(index, clip, "its bytes differ from its checksum")
        index.state[clip] = VERIFIED
    return np.frombuffer(audio, np.int16)


# ---------------------------------------------------------------- tf.data


def _extents(index: Index, plan: Plan, number: int, verify: str) -> Iterator[tuple[str, int, np.ndarray]]:
    """(shard, its first byte, rows) of the extents that `plan` lists from `number` on.

    A row is (clip, bytes of the example, first byte and bytes of the cut in the audio, whether the checksum is compared).
    """
    for clip, start, count in plan(number):
        shard, record, size = index.shard[clip], index.record[clip], index.size[clip]
        joined = (shard[1:] == shard[:-1]) & (record[1:] == record[:-1] + size[:-1] + sum(FRAME))
        for part in np.split(np.arange(len(clip)), np.flatnonzero(~joined) + 1):
            if not len(part):
                continue
            path = index.shards[shard[part[0]]]
            if not isinstance(path, Remote):
                index.watch(shard[part[0]], path)
            due = (index.state[clip[part]] != VERIFIED) & (verify == "first") | (verify == "always")
            rows = np.stack([clip[part], size[part], 2 * start[part], 2 * count[part], due], 1).astype(np.int64)
            yield str(path), int(record[part[0]]) - FRAME[0], rows


def _dataset(tf: Any, index: Index, plan: Plan, number: int, verify: str, failures: list[Exception]) -> Any:
    """A `tf.data.Dataset` of (clip, bytes of the cut, name, example or b"") of what `plan` lists from `number` on."""
    text = tf.TensorSpec((), tf.string)
    features = dict.fromkeys(("audio", "name"), tf.io.FixedLenFeature((), tf.string))
    shard = index.shards[0]  # all are in one folder
    native = not isinstance(shard, Remote) or shard.native
    buffer = RANGE if isinstance(shard, Remote) else BUFFER

    def fetch(url: bytes, at: int, sizes: np.ndarray) -> Iterator[bytes]:
        try:
            yield from _fetched(url.decode(), int(at), sizes)
        except Exception as error:
            failures.append(error)
            raise

    def records(path, at, sizes):
        if native:
            names = {"filenames": [path], "compression_type": "", "buffer_size": buffer, "byte_offsets": [at]}
            return tf.data.experimental.from_variant(tf.raw_ops.TFRecordDatasetV2(**names), text)
        return tf.data.Dataset.from_generator(fetch, args=(path, at, sizes), output_signature=text)

    def open_extent(path, at, rows):
        nothing = tf.data.Dataset.from_tensors(b"").repeat()  # for records that lie behind the end of the file
        whole = records(path, at, rows[:, 1]).concatenate(nothing)
        return tf.data.Dataset.zip((whole, tf.data.Dataset.from_tensor_slices(rows)))

    def parse(record, row):
        example = tf.io.parse_single_example(record, features)
        cut = tf.strings.substr(example["audio"], row[2], row[3])
        return row[0], cut, example["name"], tf.strings.substr(record, tf.zeros_like(row[1]), row[1] * row[4])

    signature = (text, tf.TensorSpec((), tf.int64), tf.TensorSpec((None, 5), tf.int64))
    extents = tf.data.Dataset.from_generator(lambda: _extents(index, plan, number, verify), output_signature=signature)
    return extents.flat_map(open_extent).map(parse).prefetch(AHEAD)


def _fetched(url: str, at: int, sizes: np.ndarray) -> Iterator[bytes]:
    """The examples of these sizes in bytes that lie side by side in a file from byte `at` on, read in ranges of `RANGE`."""
    remote = place(url)
    assert isinstance(remote, Remote)
    ends = np.cumsum(sizes + sum(FRAME))
    done = 0
    while done < len(sizes):
        base = int(ends[done - 1]) if done else 0
        stop = max(done + 1, int(np.searchsorted(ends, base + RANGE, side="right")))
        data = remote.read_bytes(at + base, int(ends[stop - 1]) - base)
        for size, end in zip(sizes[done:stop].tolist(), ends[done:stop].tolist(), strict=True):
            begin = end - base - sum(FRAME) - size
            example = data[begin + FRAME[0] : begin + FRAME[0] + size]
            framed = data[begin : begin + 8] == size.to_bytes(8, "little")
            yield example if framed and len(example) == size else b""
        done = stop
