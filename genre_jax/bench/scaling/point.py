"""One point of `bench scaling`: a process that trains on this host's devices, served by `bench/serve.py`.

`build(point)` returns the contestants: {"point": Point} measures a topology, {"network": Network} only traces and compiles.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from genre_jax import config as configs
from genre_jax import hosts, logbook, parallel
from genre_jax.bench.scaling.collectives import all_reduces
from genre_jax.console import UserError
from genre_jax.data import locate
from genre_jax.data.batches import prefetch
from genre_jax.planning import backends, memory
from genre_jax.prepare import passport, tfrecord
from genre_jax.run import Program, Run, devices_of, resolved

CLIPS = 256  # of the temporary data set


def versions() -> dict[str, str]:
    """Return the values of a run's `environment.json`, without the command because this is not the user's process."""
    return {key: value for key, value in logbook.environment().items() if key != "command"}


def build(task: str, point: dict[str, Any]) -> dict[str, Any]:
    """Return {task: contestant} for the task "point" or "network"."""
    return {task: {"point": Point, "network": Network}[task](point)}


class Network:
    """What the prediction needs of a config: `point` holds "config" (as the flag) and "dtype"."""

    def __init__(self, point: dict[str, Any]):
        self.config = configs.load(point["config"], {"dtype": point["dtype"]})

    def describe(self) -> dict[str, Any]:
        """Return FLOPs and bytes per clip, and the all-reduces of a step on two devices with a clip each."""
        config = self.config
        config.devices, config.train.batch_size, config.train.accumulate = 2, 2, 1
        program = Program(config, devices_of(config), memory.count_classes(config), clips=config.train.batch_size)
        shapes = program.shapes()
        found = all_reduces(program.train_step.lower(*shapes).compile().as_text())
        return {
            "network": config.model.name, "flops_a_clip": program.flops_per_clip(), "clip_bytes": 2 * config.data.samples,
            "gradient_bytes": memory.tree_bytes(shapes[0].params), "all_reduces": found.number, "all_reduce_bytes": found.size,
        }  # fmt: skip


class Point:
    """A topology.

    Args:
      point: "config" and "overrides" as the flags of `main`; "devices" of all hosts (0: all that are present); "global_batch";
        "steps" and "rounds" of the timing; "noise": whether a temporary data set replaces the config's; "cluster": the
        arguments of `hosts.start`, or None for a single process.
    """

    def __init__(self, point: dict[str, Any]):
        self.point = point
        if point["cluster"] is not None:
            hosts.start(*point["cluster"])
            if point["cluster"][0] and jax.default_backend() != "cpu":
                raise UserError(
                    "--hosts starts several processes on this machine, which needs CPU devices: use --distributed on a pod"
                )
        self.folder = tempfile.TemporaryDirectory()
        config = configs.load(point["config"], point["overrides"])
        config.devices = point["devices"] if jax.process_count() == 1 else 0
        devices = devices_of(config)
        config.train.batch_size = point["global_batch"] or point["batch"] * len(devices.all)
        config.evaluate.batch_size = len(devices.all) // devices.time_shards
        if point["noise"]:
            write_noise(Path(self.folder.name), config, memory.count_classes(config))
        self.run = Run(backends.choose(resolved(config), None))

    def measure(self) -> dict[str, Any]:
        """Return the row of this topology; all processes call this together."""
        program, config, steps = self.run.program, self.run.config, self.point["steps"]
        state = self.run.initial_state()
        batch = program.devices.shard(self.run.batches(0))
        lowered = program.train_step.lower(state, self.run.constants, batch)
        started = time.perf_counter()
        compiled = lowered.compile()
        found = all_reduces(compiled.as_text())
        row: dict[str, Any] = {"compile_s": time.perf_counter() - started}
        size = memory.tree_bytes(program.shapes()[0].params)
        call = program.runnable(compiled)

        def train(batches: Iterator[Any]) -> float:
            nonlocal state
            shard: Any = program.devices.shard(next(batches))  # starts the reader outside of the time
            began = time.perf_counter()
            for _ in range(steps):
                state, metrics = call(state, self.run.constants, shard)
                following = next(batches, None)
                shard = following and program.devices.shard(following)
            jax.block_until_ready((state, metrics))
            return (time.perf_counter() - began) / steps

        first = self.run.batches(0)
        train(itertools.repeat(first))  # warms up
        times: dict[str, list[float]] = {"step_s": [], "step_with_input_s": []}
        for start in range(0, self.point["rounds"] * (steps + 1), steps + 1):
            read = prefetch(self.run.batches, start, start + steps + 1, config.data.reader, config.data.prefetch)
            times["step_s"].append(train(itertools.repeat(first)))
            times["step_with_input_s"].append(train(read))
        row |= {key: statistics.median(values) for key, values in times.items()}
        row |= self._sizes(found, size)
        return row | {"all_reduce_s": all_reduce_seconds(program.devices, size, steps, self.point["rounds"])}

    def _sizes(self, found: Any, size: int) -> dict[str, Any]:
        """Return what the row says of the topology, the batch and the all-reduces."""
        config, devices = self.run.config, self.run.program.devices
        return {
            "platform": jax.default_backend(), "devices": len(devices.all), "hosts": jax.process_count(),
            "global_batch": config.train.batch_size, "clip_bytes": 2 * config.data.samples,
            "gradient_bytes": size, "all_reduces": found.number, "all_reduce_bytes": found.size,
        }  # fmt: skip

    def close(self) -> None:
        """Remove the temporary data set, and leave the other processes."""
        self.folder.cleanup()
        hosts.finish()


def all_reduce_seconds(devices: parallel.Devices, size: int, steps: int, rounds: int) -> float:
    """Return the seconds of one all-reduce of `size` bytes of float32 over all devices; 0.0 for one device."""
    if len(devices.all) == 1:
        return 0.0
    options: dict[str, Any] = {"axis_name": parallel.AXIS, "devices": devices.all}
    values = jax.pmap(lambda index: jnp.full(size // 4, index, jnp.float32), **options)(np.arange(len(devices.local)))
    reduce = jax.pmap(lambda x: parallel.sum(x, parallel.AXIS), **options)
    jax.block_until_ready(reduce(values))
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(steps):
            out = reduce(values)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - started) / steps)
    return statistics.median(times)


def write_noise(data_dir: Path, config: ConfigDict, classes: int) -> None:
    """Write a data set of noise and let the config read it. Each clip has one label, and is a quarter longer than a cut."""
    data = config.data
    data.update(name="noise", data_dir=str(data_dir), train="train", validation="", test="", mix=[], classes=[])
    data.update(conditioning=[], labels="first")
    samples = data.samples * 5 // 4 + 2 * data.margin
    folder = locate.directory(data_dir, data.name, data.sample_rate)
    audio = np.random.default_rng(0).integers(-9000, 9000, samples).astype(np.int16)
    clips = (tfrecord.Clip(f"{i:06d}", f"{i:06d}", (i % classes,), np.roll(audio, 17 * i), 0.3) for i in range(CLIPS))
    tfrecord.write_shards(folder, data.name, "train", clips, 4)
    labels = [str(i) for i in range(classes)]
    facts = {"name": data.name, "sample_rate": data.sample_rate, "labels": labels, "splits": {"train": {}}}
    passport.write(folder, facts)
