"""Clips per second of several processes that read at once, each the share of a host: a part of `bench input`.

`python -m genre_jax.bench.input_hosts SETTINGS` is one of the processes. SETTINGS is a JSON object with the arguments of
`_read`. The process says that it is ready, waits for a line on its standard input, reads, and prints [clips, start, end], the
times in seconds of the clock that all processes share.
"""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from genre_jax import config as configs
from genre_jax.console import say
from genre_jax.data import shards
from genre_jax.data.batches import TrainBatches, prefetch


def measure(folder: Path, readers: list[str], samples: int, batch: int, rate: int) -> list[dict[str, Any]]:
    """Print and return a row for each reader and for one and four processes; all use the order "by_shard"."""
    rows = []
    for reader in readers:
        for hosts in (1, 4):
            speed = _together(folder, reader, samples, batch, hosts)
            say(f"{reader:<11}{samples / rate:>5g} s  processes: {hosts}{speed:>12,.0f} clips/s in all")
            rows.append({"reader": reader, "seconds": samples / rate, "processes": hosts, "clips_per_second": speed})
    return rows


def _together(folder: Path, reader: str, samples: int, batch: int, hosts: int) -> float:
    """Clips per second of `hosts` processes together, from the first start to the last end."""
    settings = {"folder": str(folder), "reader": reader, "samples": samples, "batch": batch, "hosts": hosts}
    command = [sys.executable, "-m", "genre_jax.bench.input_hosts"]
    children = [
        subprocess.Popen(
            [*command, json.dumps(settings | {"host": host})], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for host in range(hosts)
    ]
    for child in children:
        assert child.stdout and child.stdout.readline() == "ready\n", f"a process that reads with {reader!r} ended early"
    outputs = []
    for child in children:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        outputs.append(json.loads(child.communicate()[0]))
    clips, starts, ends = zip(*outputs, strict=True)
    return sum(clips) / (max(ends) - min(starts))


def _read(folder: str, reader: str, samples: int, batch: int, hosts: int, host: int) -> None:
    """Read four epochs as host number `host`; the first blocks, which are small, are read before the start."""
    index = shards.load_index(Path(folder), "train")
    config = configs.base("bench")
    config.data.update(samples=samples, order="by_shard", streams=math.gcd(8, batch), shuffle_buffer=16)
    config.train.batch_size = batch
    ahead = prefetch(TrainBatches(index, config, host, hosts), 0, 4 * len(index) // batch, reader)
    next(ahead)
    say("ready")
    sys.stdin.readline()
    started = time.time()
    clips = sum(len(arrays["audio"]) for arrays in ahead)
    say(json.dumps([clips, started, time.time()]))


if __name__ == "__main__":
    _read(**json.loads(sys.argv[1]))
