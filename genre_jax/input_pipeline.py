"""From an index of clips to batches, in an order that is a pure function of (seed, position).

`TrainBatches` and `EvalBatches` compute batch number n of this host from n alone, so that the state of the input is one
integer whatever the hosts, the batch and the devices. `prefetch` reads ahead: through tf.data where TensorFlow is
installed, through threads where it is not; the batches are the same.

A batch (numpy, leading axis B): audio int16 (B, samples), length, clip, track, start, variant, visit int32 (B,),
maximum float32 (B,), labels uint8 (B, classes), mask float32 (B,).
"""

import collections
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ml_collections import ConfigDict

from genre_jax.records import Index

Batch = dict[str, np.ndarray]


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 → uint64, well mixed (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_starts(seed: int, clip: np.ndarray, draw: np.ndarray, span: np.ndarray) -> np.ndarray:
    """A start in [0, span] for each (clip, draw), uniform, from `seed` alone. All arrays (B,); int64 out."""
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seed, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        for part in (clip, draw):
            state = _mix(state ^ (part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    return (state % (span + 1).astype(np.uint64)).astype(np.int64)


class TrainBatches:
    """Batch number n of an endless run through the split, reshuffled every epoch, one random cut a clip.

    Args:
      index: the split.
      config: the run's config (batch size, cut length, seed, label mode, refresh).
      host, hosts: which contiguous share of each global batch is this host's.
    """

    def __init__(self, index: Index, config: ConfigDict, host: int = 0, hosts: int = 1):
        if not len(index):
            raise ValueError(f"split {index.split!r} of {index.data_set!r} holds no clips")
        self.index, self.hosts, self.host = index, hosts, host
        self.seed, self.samples = config.seed, config.data.samples
        self.batch_size, self.refresh = config.train.batch_size, config.data.refresh_epochs
        self.labels = label_matrix(index, config.data.labels)
        self._permutation = functools.lru_cache(4)(self._draw_permutation)

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(len(self.index))

    def order(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(clip, visit) at each position of the endless sequence."""
        visit, place = np.divmod(position, len(self.index))
        clip = np.array([self._permutation(int(v))[p] for v, p in zip(visit, place, strict=True)], np.int64)
        return clip, visit

    def __call__(self, number: int) -> Batch:
        share = self.batch_size // self.hosts
        clip, visit = self.order(number * self.batch_size + self.host * share + np.arange(share))
        span = np.maximum(self.index.length[clip].astype(np.int64) - self.samples, 0)
        start = random_starts(self.seed, clip, visit // self.refresh, span)
        return _read(self.index, self.labels, clip, start, visit, np.ones(share, np.float32), self.samples)


class EvalBatches:
    """Every window of a split in order of (clip, start), the last batch padded with `mask` 0.

    Consecutive windows lie `hop` samples apart, the last one flush with the clip's end; a clip shorter than a window is
    padded with zeros.
    """

    def __init__(self, index: Index, config: ConfigDict, host: int = 0, hosts: int = 1):
        self.index, self.host, self.hosts = index, host, hosts
        self.samples, self.batch_size = config.data.samples, config.evaluate.batch_size
        self.labels = label_matrix(index, config.data.labels)
        starts = [window_starts(int(n), self.samples, config.evaluate.hop, config.evaluate.windows) for n in index.length]
        self.clip = np.repeat(np.arange(len(index)), [len(s) for s in starts])
        self.start = np.concatenate([*starts, np.zeros(0, np.int64)])

    def __len__(self) -> int:
        return -(-len(self.clip) // self.batch_size)

    def __call__(self, number: int) -> Batch:
        share = self.batch_size // self.hosts
        row = number * self.batch_size + self.host * share + np.arange(share)
        inside = row < len(self.clip)
        row = np.where(inside, row, 0)
        visit = np.zeros(share, np.int64)
        return _read(self.index, self.labels, self.clip[row], self.start[row], visit, inside.astype(np.float32), self.samples)


def window_starts(length: int, samples: int, hop: int = 0, windows: str = "consecutive") -> np.ndarray:
    """First samples of the windows of a clip of `length` samples (int64, at least one)."""
    last = max(length - samples, 0)
    if windows == "centre":
        return np.array([last // 2], np.int64)
    return np.append(np.arange(0, last, hop or samples, dtype=np.int64), last)


def label_matrix(index: Index, mode: str) -> np.ndarray:
    """uint8 (clips, classes): the multi-hot labels, or one-hot of each clip's first label where `mode` is "first"."""
    if mode == "multi":
        return index.labels
    return np.eye(len(index.classes), dtype=np.uint8)[index.first_label] * (index.first_label >= 0)[:, None]


def _read(
    index: Index, labels: np.ndarray, clip: np.ndarray, start: np.ndarray, visit: np.ndarray, mask: np.ndarray, samples: int
) -> Batch:
    audio = np.empty((len(clip), samples), np.int16)
    for row, (c, s) in enumerate(zip(clip.tolist(), start.tolist(), strict=True)):
        index.cut(c, s, samples, out=audio[row])
    return {
        "audio": audio,
        "length": np.minimum(index.length[clip] - start, samples).astype(np.int32),
        "clip": clip.astype(np.int32),
        "track": index.track[clip],
        "start": start.astype(np.int32),
        "variant": np.zeros(len(clip), np.int32),
        "visit": visit.astype(np.int32),
        "maximum": index.maximum[clip],
        "labels": labels[clip],
        "mask": mask,
    }


def prefetch(batch: Callable[[int], Batch], start: int, stop: int, reader: str = "auto", ahead: int = 4) -> Iterator[Batch]:
    """`batch(n)` for n in [start, stop), in order, read `ahead` of need by `reader`: tfdata, threads or auto."""
    return (_through_tfdata if resolve(reader) == "tfdata" else _through_threads)(batch, start, stop, ahead)


def resolve(reader: str) -> str:
    """The reader that "auto" stands for on this machine."""
    if reader != "auto":
        return reader
    return "tfdata" if importlib.util.find_spec("tensorflow") else "threads"


def _through_threads(batch: Callable[[int], Batch], start: int, stop: int, ahead: int) -> Iterator[Batch]:
    with ThreadPoolExecutor(min(ahead, os.cpu_count() or 1), "reader") as pool:
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
    example = batch(start) if start < stop else {}
    keys = list(example)

    def read(number):
        values = tf.numpy_function(
            lambda n: tuple(batch(int(n)).values()), [number], [tf.as_dtype(example[key].dtype) for key in keys]
        )
        for key, value in zip(keys, values, strict=True):
            value.set_shape(example[key].shape)
        return dict(zip(keys, values, strict=True))

    data = tf.data.Dataset.range(start, stop)
    data = data.map(read, num_parallel_calls=min(ahead, os.cpu_count() or 1), deterministic=True).prefetch(ahead)
    return data.as_numpy_iterator()


def import_tensorflow():
    """TensorFlow, quiet and kept off the accelerators: it would take their memory."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # silences four lines at the start
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf
