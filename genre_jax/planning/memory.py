"""Predict the memory of a training step, and find settings that fit a device.

The step is compiled for shapes. No data is read, and no step runs.
"""

import functools
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from genre_jax import config as configs
from genre_jax import run
from genre_jax.console import UserError, say
from genre_jax.data import locate
from genre_jax.models.bytenet.block_set import REMAT
from genre_jax.planning.flops import flops

UNITS = {"MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}

# The number of classes of every data set with fixed labels, for configs whose data set is not prepared yet.
CLASSES = {
    "audioset_music": 67,
    "fma_medium": 16,
    "fma_small": 8,
    "gtzan": 10,
    "gtzan_music_speech": 2,
    "hunonspeech": 1,
    "musan": 3,
    "synthetic": 10,
    "synthetic_hard": 10,
    "synthetic_multilabel": 10,
    "synthetic_musan": 3,
}


class Needs(NamedTuple):
    """Bytes per device that XLA plans for a compiled program; `host_temp_bytes` are in the host's memory."""

    temp_bytes: int
    host_temp_bytes: int
    argument_bytes: int
    output_bytes: int
    aliased_bytes: int

    @property
    def predicted_bytes(self) -> int:
        """Sum of temporaries, arguments and outputs; an output that overwrites an argument counts once."""
        return self.temp_bytes + self.argument_bytes + self.output_bytes - self.aliased_bytes

    @classmethod
    def of(cls, compiled: Any) -> "Needs":
        """Read the memory plan of a `jax.stages.Compiled`."""
        m = compiled.memory_analysis()
        return cls(
            m.temp_size_in_bytes, m.host_temp_size_in_bytes, m.argument_size_in_bytes, m.output_size_in_bytes,
            m.alias_size_in_bytes,
        )  # fmt: skip


def tree_bytes(tree: Any) -> int:
    """Return the bytes of all arrays (or shapes) of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or (isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error))


def parse_bytes(text: str, flag: str) -> int:
    """Return the bytes of a size such as "24GiB" or "80 GB"; raise `UserError` for any other text."""
    match = re.fullmatch(rf"\s*([0-9]+\.?[0-9]*)\s*({'|'.join(UNITS)})\s*", text)
    if not match or not float(match[1]):
        raise UserError(f"{flag} must be a number above 0 with a unit ({', '.join(UNITS)}), such as '24GiB', not {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def show(size: float) -> str:
    """Format bytes as text, in MB (10⁶ bytes) below 10 GB and otherwise in GB."""
    return f"{size / 1e6:,.0f} MB" if size < 1e10 else f"{size / 1e9:,.1f} GB"


def device_memory() -> int:
    """Return the bytes of one device: the limit that a GPU reports, or a CPU device's share of the physical memory."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def count_classes(config: ConfigDict) -> int:
    """Return the number of classes of the config, from `data.classes`, the passport of its data set, or `CLASSES`.

    Raise `UserError` if the data set is in neither of them.
    """
    data = config.data
    if data.classes:
        return len(data.classes)
    folder = locate.folder_of(data)
    if (folder / "passport.json").exists():
        return len(locate.read_passport(folder)["labels"])
    kind = locate.kind_of(data.name)
    if kind not in CLASSES:
        raise UserError(f"data set {data.name!r} is not in {data.data_dir!r}: give its number of classes, as in --classes=10")
    return CLASSES[kind]


def largest(size: Callable[[int], float], limit: float, start: int = 2) -> int:
    """Return the largest n ≥ 0 with size(n) ≤ limit, for a `size` that grows almost linearly; 0 if size(1) is too large.

    Use a secant search, and bisection after six evaluations. Evaluations must be few, because each one compiles a program. The
    result is exact below 200. From 200 on, the search ends when a value at most 1 % above the result does not fit.

    Args:
      size: the function of n ≥ 1. It is called once per n, and may return infinity.
      limit: the largest size that fits.
      start: the second n to evaluate, after n = 1.
    """
    sizes = {n: size(n) for n in (1, max(2, start))}
    while True:
        high = min((n for n, value in sizes.items() if value > limit), default=None)
        low = max((n for n, value in sizes.items() if value <= limit and (high is None or n < high)), default=0)
        if high is not None and high - low <= max(1, low // 100):
            return low
        if high is None:
            *_, left, right = sorted(sizes)
            guess = max(_crossing(sizes, left, right, limit) or 2 * low, low + 1)
        else:
            secant = _crossing(sizes, low, high, limit) if low and len(sizes) < 6 else None
            guess = min(max(secant or (low + high) // 2, low + 1), high - 1)
        sizes[guess] = size(guess)


def _crossing(sizes: dict[int, float], left: int, right: int, limit: float) -> int | None:
    """Return where the line through two sizes crosses `limit`, or None if its slope is not positive and finite."""
    slope = (sizes[right] - sizes[left]) / (right - left)
    return math.floor(left + (limit - sizes[left]) / slope) if 0 < slope < math.inf else None


class Advice(NamedTuple):
    """Settings that fit a device.

    Attributes:
      flags: flags to add to the command; empty if the config fits unchanged, None if no settings fit.
      sentence: the advice in words.
    """

    flags: tuple[str, ...] | None
    sentence: str


class Planner:
    """Compile a config's training step with other batch sizes, remat policies and micro-batches, and cache its needs.

    Args:
      config: the config of any model. The plan is for the devices that `config.devices` selects on this machine.
      classes: number of classes of the network.
      limit: memory of a device in bytes; None means `device_memory()`.
    """

    def __init__(self, config: ConfigDict, classes: int, limit: float | None = None):
        self.config, self.classes = config, classes
        self.limit = device_memory() if limit is None else limit
        self.devices = run.devices_of(config)
        self.devices.check_batch("train.batch_size", config.train.batch_size, config.train.accumulate)
        self.groups = len(self.devices.all) // self.devices.time_shards  # the devices of a group share every clip
        self.clips = config.train.batch_size // self.groups
        self._bytes: dict[tuple[str | None, int, int], float] = {}
        self._flops: dict[str | None, int] = {}

    def program(self, policy: str | None, batch: int, accumulate: int = 1) -> run.Program:
        """Return the config's program with a remat policy, `batch` clips per device and `accumulate` micro-batches."""
        config = configs.from_json(configs.to_json(self.config))
        changes = {"train.batch_size": batch * self.groups, "train.accumulate": accumulate}
        for key, value in (changes | ({"model.remat": policy} if policy else {})).items():
            configs.override(config, key, value)
        return run.Program(config, self.devices, self.classes, clips=config.train.batch_size)

    def bytes(self, policy: str | None, batch: int, accumulate: int = 1) -> float:
        """Return the predicted bytes per device of the training step, or infinity if the compiler itself runs out of memory."""
        key = (policy, batch, accumulate)
        if key not in self._bytes:
            started = time.perf_counter()
            program = self.program(*key)
            try:
                self._bytes[key] = Needs.of(program.train_step.lower(*program.shapes()).compile()).predicted_bytes
            except JaxRuntimeError as error:
                if not ran_out(error):
                    raise
                self._bytes[key] = math.inf
            micro = f" in {accumulate} micro-batches" if accumulate > 1 else ""
            say(
                f"compiled {_named(policy)}batch {batch}{micro}: {show(self._bytes[key])} "
                f"({time.perf_counter() - started:.0f} s)"
            )
        return self._bytes[key]

    def flops(self, policy: str | None) -> int:
        """Return the FLOPs per clip of the training step, counted by `genre_jax.planning.flops`."""
        if policy not in self._flops:
            started = time.perf_counter()
            program = self.program(policy, 1)
            self._flops[policy] = flops(program.train_step, *program.shapes())
            counted = f"{self._flops[policy] / 1e9:,.4g} GFLOP per clip ({time.perf_counter() - started:.0f} s)"
            say(f"counted {_named(policy)}{counted}")
        return self._flops[policy]

    @functools.cached_property
    def policies(self) -> list[str | None]:
        """The model's remat policies that this machine can compile, fewest FLOPs first; `[None]` if the model has none."""
        legal: tuple[str | None, ...] = REMAT if "remat" in self.config.model else (None,)
        refused: list[UserError] = []
        for policy in legal:
            try:
                self.flops(policy)
            except UserError as error:
                refused.append(error)
                say(f"{_named(policy)}is skipped: {error}")
        if not self._flops:
            raise refused[0]
        return sorted(self._flops, key=self.flops)

    def largest(self, policy: str | None) -> int:
        """Return the largest batch per device that fits without micro-batches."""
        return largest(lambda batch: self.bytes(policy, batch), self.limit, self.clips)

    def advise(self) -> Advice:
        """Return the cheapest settings that fit.

        The first choice is the policy with the fewest FLOPs that fits the config's batch, the second choice adds micro-batches,
        and the last choice is the policy with the largest batch that fits.
        """
        for policy, accumulate in self._candidates():
            needed = self.bytes(policy, self.clips, accumulate)
            if needed <= self.limit:
                return self._advice(policy, self.clips, accumulate, needed)
        best = max(self.policies, key=self.largest)
        batch = self.largest(best)
        if batch:
            return self._advice(best, batch, 1, self.bytes(best, batch))
        least = min(self.policies, key=lambda policy: self.bytes(policy, 1))
        return Advice(
            None,
            f"no settings fit {show(self.limit)}: one clip takes {show(self.bytes(least, 1))} {_with(least)}; "
            "reduce data.samples or the size of the model",
        )

    def _candidates(self) -> Iterator[tuple[str | None, int]]:
        """Yield (policy, number of micro-batches) for the config's batch, the preferred pair first."""
        accumulate = self.config.train.accumulate
        yield from ((policy, accumulate) for policy in self.policies)
        for policy in self.policies:
            most = self.largest(policy)
            for parts in range(accumulate + 1, self.clips + 1):
                if self.clips % parts == 0 and self.clips // parts <= most:
                    yield policy, parts

    def _advice(self, policy: str | None, batch: int, accumulate: int, needed: float) -> Advice:
        changes: dict[str, Any] = {"model.remat": policy} if policy else {}
        changes |= {"train.accumulate": accumulate, "train.batch_size": batch * self.groups}
        now = configs.flat(self.config)
        flags = tuple(f"--config.{key}={value}" for key, value in changes.items() if now[key] != value)
        what = f"{batch} clips per device" + (f" in micro-batches of {batch // accumulate}" if accumulate > 1 else "")
        how = f"use {' '.join(flags)}" if flags else "keep the config as it is"
        return Advice(flags, f"{how}: {what} take {show(needed)} of {show(self.limit)} {_with(policy)}".rstrip())


def _named(policy: str | None) -> str:
    return f"remat={policy} " if policy else ""


def _with(policy: str | None) -> str:
    return f"with remat={policy}" if policy else ""


def advice(config: ConfigDict, error: BaseException) -> str:
    """Return the sentence for a run that ran out of memory: the error, and settings whose training step needs less."""
    what = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
    say(f"out of memory ({what}); looking for settings that need less")
    planner = Planner(config, count_classes(config))
    failed = planner.bytes(config.model.get("remat"), planner.clips, config.train.accumulate)
    planner.limit = min(planner.limit, failed - 1)  # this much was not available, even if the prediction fits the limit
    return f"out of memory ({what}): {planner.advise().sentence}"
