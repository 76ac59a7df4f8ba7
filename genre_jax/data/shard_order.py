"""The order "by_shard", in which readers can read files from start to end: a pure function of (seed, position).

In each epoch the shards come in a new random order. Their clips, in the order of the files, are one long list, which is cut
into `data.streams` contiguous pieces, one for each stream. The clips of a piece are shuffled within consecutive blocks of
`data.shuffle_buffer` clips. Position P of the endless run belongs to stream P mod streams and to epoch P // clips. Each clip
therefore comes once an epoch, and neither the hosts nor the reader change the order. This module needs NumPy alone.

A stream counts its clips through all epochs: number k of stream s is position k · streams + s. Within a block, number k in the
order of the file ("read") and number k of the order in which clips are delivered are different clips of the same block.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from genre_jax.console import UserError
from genre_jax.data import bucket, order
from genre_jax.data.shards import Index

BY_INDEX = ("tfdata", "threads")  # the readers that need local files


class Block(NamedTuple):
    """Consecutive clips of a stream in one epoch: number of the first clip, and its rows as they are read and delivered."""

    first: int
    epoch: int
    read: np.ndarray
    delivered: np.ndarray


class ShardOrder:
    """(row, visit) at each position of an endless sequence, as `order.Order` computes it for the order "global".

    Args:
      index: the clips; its shards and records define the order of the files. A row is a clip.
      streams: number of streams, ≥ 1.
      buffer: clips of a block, ≥ 1.
      seed: of all random choices.

    An epoch is computed as a whole, in time and memory proportional to its clips, and the last few epochs are cached.
    """

    def __init__(self, index: Index, streams: int, buffer: int, seed: int):
        self.size, self.streams, self.buffer, self.seed = len(index), streams, buffer, seed
        self._shard, self._record = index.shard, index.record
        self._epoch = functools.lru_cache(4)(self._draw_epoch)

    def __call__(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and visits, int64 (B,) each, of the positions (B,)."""
        position = np.asarray(position, np.int64)
        visit, stream = position // self.size, position % self.streams
        row = np.empty(len(position), np.int64)
        for epoch in np.unique(visit).tolist():
            here = visit == epoch
            number, piece = self._starts(epoch)
            _, delivered = self._epoch(epoch)
            s = stream[here]
            row[here] = delivered[piece[s] + position[here] // self.streams - number[s]]
        return row, visit

    def blocks(self, stream: int, number: int, whole: bool = False) -> Iterator[Block]:
        """The blocks of a stream without end, from the block that holds clip `number` of the stream.

        With `whole`, all that the stream reads in an epoch is one block, which starts exactly at clip `number`.
        """
        epoch = (number * self.streams + stream) // self.size
        while True:
            first, piece = (starts[stream : stream + 2] for starts in self._starts(epoch))
            read, delivered = (rows[piece[0] : self._end(epoch, stream)] for rows in self._epoch(epoch))
            begin, size = max(0, number - int(first[0])), self.buffer
            if whole:
                size = max(1, len(read))
            else:
                begin = begin // size * size
            for at in range(begin, len(read), size):
                yield Block(int(first[0]) + at, epoch, read[at : at + size], delivered[at : at + size])
            epoch += 1

    def _starts(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """For each stream (streams,), the number of its first clip in this epoch, and its piece's place in the epoch's list."""
        streams = np.arange(self.streams)
        first = -((streams - epoch * self.size) // self.streams)  # rounded up
        after = -((streams - (epoch + 1) * self.size) // self.streams)
        return first, np.cumsum(after - first) - (after - first)

    def _end(self, epoch: int, stream: int) -> int:
        """The end of a stream's piece in the epoch's list."""
        piece = np.append(self._starts(epoch)[1], self.size)
        return int(piece[stream + 1])

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows (clips,) of an epoch as the files hold them, and as they are delivered; both piece after piece."""
        chance = np.random.Generator(np.random.Philox(key=[self.seed, epoch], counter=[0, 0, 2, 0]))
        turn = chance.permutation(int(self._shard.max()) + 1)
        read = np.lexsort((self._record, turn[self._shard]))
        piece = self._starts(epoch)[1]
        stream = np.searchsorted(piece, np.arange(self.size), side="right") - 1
        block = (np.arange(self.size) - piece[stream]) // self.buffer
        return read, read[np.lexsort((chance.random(self.size), block, stream))]


def places(batch_size: int, streams: int) -> np.ndarray:
    """For each row (B,) of a global batch, its position in the batch: rows of a stream lie side by side, as hosts take them."""
    stream, turn = np.divmod(np.arange(batch_size), batch_size // streams)
    return turn * streams + stream


def check(config: ConfigDict) -> None:
    """Check `data.order`, `data.reader`, and what the order "by_shard" excludes; reads no data. Raises `UserError`."""
    data, remote = config.data, bucket.is_url(config.data.data_dir)
    if data.order == "global":
        if remote:
            raise UserError(f"data.data_dir {data.data_dir!r} is not a local folder: set data.order to 'by_shard'")
        if data.reader == "sequential":
            raise UserError("data.reader 'sequential' needs data.order 'by_shard', and data.order is 'global'")
        return
    if remote and data.reader in BY_INDEX:
        raise UserError(
            f"data.reader {data.reader!r} reads local files, and data.data_dir is {data.data_dir!r}: set data.reader to "
            "'sequential' or 'auto'"
        )
    for key, legal in (("sampling", "uniform"), ("segments", "random")):
        if data[key] != legal:
            raise UserError(f"data.order 'by_shard' needs data.{key} {legal!r}, and data.{key} is {data[key]!r}")
    if order.versions(data.copies):
        raise UserError("data.order 'by_shard' makes no copies, and data.copies asks for some: set data.order to 'global'")
    if data.mix:
        raise UserError(f"data.order 'by_shard' reads one data set, and data.mix is {list(data.mix)}")
    if config.train.batch_size % data.streams:
        divisors = [n for n in range(1, config.train.batch_size + 1) if config.train.batch_size % n == 0]
        raise UserError(
            f"data.streams must divide train.batch_size {config.train.batch_size}, and was given {data.streams}: choose one of "
            f"{', '.join(map(str, divisors))}"
        )


def check_hosts(streams: int, hosts: int) -> None:
    """Raise `UserError` unless each of `hosts` hosts gets the same number of whole streams."""
    if streams % hosts:
        raise UserError(f"data.streams must be a multiple of {hosts}, the number of hosts, and was given {streams}")
