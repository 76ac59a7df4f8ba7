"""From an index of clips to batches, in an order that is a pure function of (seed, position).

`TrainBatches` and `EvalBatches` compute batch number n of this host from n alone. The state of the input is therefore one
integer, whatever the number of hosts and devices and the batch size. `prefetch` reads ahead, through one of four readers
(`data.reader`), whose batches are the same.

A batch is a dict of NumPy arrays with leading axis B: audio int16 (B, samples); length, clip, track, start, variant, visit
int32 (B,); maximum float32 (B,); labels uint8 (B, classes); mask float32 (B,). The mask is 0 for rows that pad a batch, and
for damaged clips, which `data.on_corrupt=skip` leaves out; the audio of both is zeros.
"""

import collections
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ml_collections import ConfigDict

from genre_jax.console import UserError, say
from genre_jax.data import bucket, order, shard_order, tfrecord
from genre_jax.data.shards import DAMAGED, DamagedClip, Index

Batch = dict[str, np.ndarray]
Cut = Callable[[int, int, np.ndarray], None]  # fills an array with the samples of (clip, start); raises `DamagedClip`


class TrainBatches:
    """Batches of an endless run through a split; `batches(n)` is number n.

    Args:
      index: the split, or several in one index (`data.mix.merge`).
      config: the run's config. Its batch size, cut length, seed, labels, segments, copies, sampling and refresh count.
      host: number of this host; it reads its contiguous share of each global batch.
      hosts: number of hosts.
      sets: (clips, weight) of each data set in `index`, in its order; empty for a single data set.
    """

    def __init__(self, index: Index, config: ConfigDict, host: int = 0, hosts: int = 1, sets: Sequence[tuple[int, float]] = ()):
        if not len(index):
            raise ValueError(f"split {index.split!r} of {index.data_set!r} holds no clips")
        self.index, self.hosts, self.host = index, hosts, host
        self.seed, self.samples, self.margin = config.seed, config.data.samples, config.data.margin
        self.reading = config.data.verify, config.data.on_corrupt
        self.batch_size, self.refresh = config.train.batch_size, config.data.refresh_epochs
        self.labels = label_matrix(index, config.data.labels)
        self.rows = order.rows_of(index, config.data, config.seed)
        self.row = np.arange(self.batch_size)  # position of each row of a global batch, counted from its first position
        self.order: order.Order | shard_order.ShardOrder
        if config.data.order == "by_shard":
            shard_order.check_hosts(config.data.streams, hosts)
            self.order = shard_order.ShardOrder(index, config.data.streams, config.data.shuffle_buffer, config.seed)
            self.row = shard_order.places(self.batch_size, config.data.streams)
            return
        class_weights = order.named_weights("data.class_weights", config.data.class_weights, index.classes)
        sizes, weights = zip(*(sets or [(len(index), 1.0)]), strict=True)
        source = np.repeat(np.arange(len(sizes)), sizes)[self.rows.clip]
        lists = order.lists_of(self.labels[self.rows.clip], config.data.sampling, class_weights, source, weights)
        self.order = order.Order(lists, len(self.rows), config.seed)

    def __call__(self, number: int, cut: Cut | None = None) -> Batch:
        """Batch `number`. A reader that streams passes `cut`, which gets the rows in their order."""
        share = self.batch_size // self.hosts
        row, visit = self.order(number * self.batch_size + self.row[self.host * share : (self.host + 1) * share])
        clip, start, variant = self.cuts(row, visit)
        mask = np.ones(share, np.float32)
        return _read(self, cut, clip, start, visit, variant, mask)

    def cuts(self, row: np.ndarray, visit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(clip, start, variant) of the rows at these visits; all arrays are (B,)."""
        clip, start, variant = (column[row] for column in self.rows)
        draw = visit // self.refresh + (variant << 32)
        drawn = order.random_cuts(self.seed, clip, draw, self.index.length[clip], self.samples, self.margin)
        return clip, np.where(start < 0, drawn, start), variant


class EvalBatches:
    """The windows of a split that `evaluate.windows` chooses; the last batches are padded with rows of `mask` 0.

    With `data.order` "global" the windows are in the order of the clips, and a host reads its share of each global batch. With
    "by_shard" they are in the order of the files, and a host reads its share of this list. A clip that is shorter than a
    window is padded with zeros.
    """

    def __init__(self, index: Index, config: ConfigDict, host: int = 0, hosts: int = 1):
        self.index, self.host, self.hosts = index, host, hosts
        self.samples, self.batch_size = config.data.samples, config.evaluate.batch_size
        self.reading = config.data.verify, config.data.on_corrupt
        self.labels = label_matrix(index, config.data.labels)
        self.clip, self.start = order.windows_of(index, config.data, config.evaluate.hop, config.evaluate.windows, config.seed)
        self.by_shard = config.data.order == "by_shard"
        if self.by_shard:
            by_file = np.lexsort((self.start, index.record[self.clip], index.shard[self.clip]))
            self.clip, self.start = self.clip[by_file], self.start[by_file]

    def __len__(self) -> int:
        return -(-len(self.clip) // self.batch_size)

    def __call__(self, number: int, cut: Cut | None = None) -> Batch:
        """Batch `number`. A reader that streams passes `cut`, which gets the rows in their order."""
        share = self.batch_size // self.hosts
        row = self.first(number) + np.arange(share)
        inside = row < len(self.clip)
        row = np.where(inside, row, 0)
        zeros, mask = np.zeros(share, np.int64), inside.astype(np.float32)
        return _read(self, cut, self.clip[row], self.start[row], zeros, zeros, mask)

    def first(self, number: int) -> int:
        """The first window of this host's share of batch `number`."""
        share = self.batch_size // self.hosts
        if self.by_shard:
            return (self.host * len(self) + number) * share
        return number * self.batch_size + self.host * share


def label_matrix(index: Index, mode: str) -> np.ndarray:
    """Labels uint8 (clips, classes): multi-hot if `mode` is "multi"; one-hot of each clip's first label if it is "first"."""
    if mode == "multi":
        return index.labels
    return np.eye(len(index.classes), dtype=np.uint8)[index.first_label] * (index.first_label >= 0)[:, None]


def _read(
    batches: "TrainBatches | EvalBatches", cut: Cut | None, clip: np.ndarray, start: np.ndarray, visit: np.ndarray,
    variant: np.ndarray, mask: np.ndarray,
) -> Batch:  # fmt: skip
    index, samples, (verify, on_corrupt) = batches.index, batches.samples, batches.reading
    audio = np.empty((len(clip), samples), np.int16)
    audio[mask == 0] = 0
    for row, (c, s, counts) in enumerate(zip(clip.tolist(), start.tolist(), mask.tolist(), strict=True)):
        if not counts:
            continue
        known = index.state[c] == DAMAGED
        try:
            if cut is None:
                index.cut(c, s, samples, out=audio[row], verify=verify)
            else:
                cut(c, s, audio[row])
        except DamagedClip as error:
            if on_corrupt == "stop":
                raise
            audio[row], mask[row] = 0, 0
            if not known:
                say(f"left out: {error}")
    return {
        "audio": audio,
        "length": np.minimum(index.length[clip] - start, samples).astype(np.int32),
        "clip": clip.astype(np.int32),
        "track": index.track[clip],
        "start": start.astype(np.int32),
        "variant": variant.astype(np.int32),
        "visit": visit.astype(np.int32),
        "maximum": index.maximum[clip],
        "labels": batches.labels[clip],
        "mask": mask,
    }


# ---------------------------------------------------------------- reading ahead


def prefetch(batch: TrainBatches | EvalBatches, start: int, stop: int, reader: str = "auto", ahead: int = 4) -> Iterator[Batch]:
    """Yield `batch(n)` for n in [start, stop), in order; up to `ahead` batches are read before they are needed.

    `reader` is a value of `data.reader`. "sequential" needs the order "by_shard". Raises `UserError` if the reader cannot work
    on this machine.
    """
    if start >= stop:
        return iter(())
    reader = resolve_reader(reader, batch.index.shards[0])
    if reader == "sequential":
        from genre_jax.data import sequential

        batches = sequential.batches(batch, start, stop)
        return _through_threads(lambda number: next(batches), start, stop, ahead, workers=1)
    return (_through_tfdata if reader == "tfdata" else _through_threads)(batch, start, stop, ahead)


def resolve_reader(reader: str, where: bucket.Place) -> str:
    """The reader that "auto" stands for on this machine, for a data set or shard at `where`. Raises `UserError`."""
    tensorflow = importlib.util.find_spec("tensorflow") is not None
    if reader == "auto":
        reader = "sequential" if isinstance(where, bucket.Remote) else "tfdata" if tensorflow else "threads"
    if not tensorflow and reader in ("sequential", "tfdata"):
        raise UserError(f"data.reader {reader!r} needs TensorFlow, which is not installed: pip install tensorflow-cpu")
    return reader


def resolve_verify(verify: str) -> str:
    """When checksums are compared on this machine: as `verify` says, or never if google-crc32c is not installed."""
    return verify if tfrecord.HAS_CHECKSUM else "never"


def _through_threads(batch: Callable[[int], Batch], start: int, stop: int, ahead: int, workers: int = 0) -> Iterator[Batch]:
    with ThreadPoolExecutor(workers or min(ahead, os.cpu_count() or 1), "reader") as pool:
        queue: collections.deque = collections.deque()
        try:
            for number in range(start, stop):
                queue.append(pool.submit(batch, number))
                if len(queue) > ahead:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()


def _through_tfdata(batch: Callable[[int], Batch], start: int, stop: int, ahead: int) -> Iterator[Batch]:
    tf = import_tensorflow()
    example = batch(start)
    keys = list(example)
    errors: list[Exception] = []  # TensorFlow replaces an exception by one of its own

    def values_of(number):
        try:
            return tuple(batch(int(number)).values())
        except Exception as error:
            errors.append(error)
            raise

    def read(number):
        values = tf.numpy_function(values_of, [number], [tf.as_dtype(example[key].dtype) for key in keys])
        for key, value in zip(keys, values, strict=True):
            value.set_shape(example[key].shape)
        return dict(zip(keys, values, strict=True))

    data = tf.data.Dataset.range(start, stop)
    data = data.map(read, num_parallel_calls=min(ahead, os.cpu_count() or 1), deterministic=True).prefetch(ahead)
    try:
        yield from data.as_numpy_iterator()
    except tf.errors.OpError as error:
        raise (errors or [error])[0] from error


def import_tensorflow():
    """Import TensorFlow quietly and keep it off the accelerators, whose memory it would take."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # silences four lines at the start
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf
