"""Memory of a compiled training step, and what of a config fits a device: from shapes alone, no data and no step run."""

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

# Of the data sets that `prepare` makes with these labels alone, for configs whose data is not there yet.
CLASSES = {
    "audioset_music": 67,
    "fma_medium": 16,
    "fma_small": 8,
    "gtzan": 10,
    "gtzan_music_speech": 2,
    "hunonspeech": 1,
    "musan": 3,
    "synthetic": 10,
    "synthetic_multilabel": 10,
}


class Needs(NamedTuple):
    """Bytes that XLA plans for a compiled program, on each device; `host_temp_bytes` lie in the host's memory."""

    temp_bytes: int
    host_temp_bytes: int
    argument_bytes: int
    output_bytes: int
    aliased_bytes: int

    @property
    def predicted_bytes(self) -> int:
        """All at once: temporaries, arguments and outputs; an output that is written over an argument counts once."""
        return self.temp_bytes + self.argument_bytes + self.output_bytes - self.aliased_bytes

    @classmethod
    def of(cls, compiled: Any) -> "Needs":
        """What `jax.stages.Compiled` says."""
        m = compiled.memory_analysis()
        return cls(
            m.temp_size_in_bytes, m.host_temp_size_in_bytes, m.argument_size_in_bytes, m.output_size_in_bytes,
            m.alias_size_in_bytes,
        )  # fmt: skip


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or (isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error))


def parse_bytes(text: str, flag: str) -> int:
    """Bytes of a size such as "24GiB" or "80 GB"; raises `UserError` for what is none."""
    match = re.fullmatch(rf"\s*([0-9]+\.?[0-9]*)\s*({'|'.join(UNITS)})\s*", text)
    if not match or not float(match[1]):
        raise UserError(f"{flag} must be a number and one of {', '.join(UNITS)}, as in '24GiB', and was given {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def show(size: float) -> str:
    """Bytes for people: MB of a million below ten thousand of them, else GB."""
    return f"{size / 1e6:,.0f} MB" if size < 1e10 else f"{size / 1e9:,.1f} GB"


def device_memory() -> int:
    """Bytes a device of this machine can give: its own limit, or a CPU device's share of the physical memory."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def count_classes(config: ConfigDict) -> int:
    """Classes of the config's data set: of its passport, else the known number; raises `UserError` where there is neither."""
    data = config.data
    folder = locate.directory(data.data_dir, data.name, data.sample_rate)
    if (folder / "passport.json").exists():
        return len(locate.read_passport(folder)["labels"])
    if data.name not in CLASSES:
        raise UserError(f"data set {data.name!r} is not in {data.data_dir!r}: say how many classes it has, as in --classes=10")
    return CLASSES[data.name]


def largest(size: Callable[[int], float], limit: float, start: int = 2) -> int:
    """The largest n ≥ 0 with size(n) ≤ limit, of a size that grows almost in a straight line; `size` is asked of few n.

    It goes by straight lines, after six sizes by halves, and has seen n fit and n + 1 not when it stops: from 200 on, some n
    at most a hundredth larger.
    """
    known = {n: size(n) for n in (1, max(2, start))}
    while True:
        high = min((n for n, found in known.items() if found > limit), default=None)
        low = max((n for n, found in known.items() if found <= limit and (high is None or n < high)), default=0)
        if high is not None and high - low <= max(1, low // 100):
            return low
        if high is None:
            *_, one, other = sorted(known)
            guess = max(_crossing(known, one, other, limit) or 2 * low, low + 1)
        else:
            line = _crossing(known, low, high, limit) if low and len(known) < 6 else None
            guess = min(max(line or (low + high) // 2, low + 1), high - 1)
        known[guess] = size(guess)


def _crossing(known: dict[int, float], one: int, other: int, limit: float) -> int | None:
    """Where the line through two sizes crosses `limit`; None where it never does."""
    slope = (known[other] - known[one]) / (other - one)
    return math.floor(one + (limit - known[one]) / slope) if 0 < slope < math.inf else None


class Advice(NamedTuple):
    """Settings that fit: flags to type (none where the config fits as it is, None where nothing fits), and a sentence."""

    flags: tuple[str, ...] | None
    sentence: str


class Planner:
    """Compiles the training step of a config at other batches, policies and micro-batches, and remembers what it needed.

    Args:
      config: of any model; its `devices` are those of this machine.
      classes: how many the network tells apart.
      limit: bytes a device has; `device_memory()` by default.
    """

    def __init__(self, config: ConfigDict, classes: int, limit: float | None = None):
        self.config, self.classes = config, classes
        self.limit = device_memory() if limit is None else limit
        self.devices = run.devices_of(config)
        self.devices.check_batch("train.batch_size", config.train.batch_size, config.train.accumulate)
        self.groups = len(self.devices.all) // self.devices.time_shards  # each holds a share of the batch
        self.own = config.train.batch_size // self.groups
        self._bytes: dict[tuple[str | None, int, int], float] = {}
        self._flops: dict[str | None, int] = {}

    def program(self, policy: str | None, batch: int, accumulate: int = 1) -> run.Program:
        """The config's program with `batch` clips a device."""
        config = configs.from_json(configs.to_json(self.config))
        changes = {"train.batch_size": batch * self.groups, "train.accumulate": accumulate}
        for key, value in (changes | ({"model.remat": policy} if policy else {})).items():
            configs.override(config, key, value)
        return run.Program(config, self.devices, self.classes, clips=config.train.batch_size)

    def bytes(self, policy: str | None, batch: int, accumulate: int = 1) -> float:
        """Predicted bytes a device of the training step; infinite where the compiler itself finds that it does not fit."""
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
        """FLOPs of matrix products that the training step spends on a clip (`genre_jax.flops`)."""
        if policy not in self._flops:
            started = time.perf_counter()
            program = self.program(policy, 1)
            self._flops[policy] = flops(program.train_step, *program.shapes())
            counted = f"{self._flops[policy] / 1e9:,.4g} GFLOP a clip ({time.perf_counter() - started:.0f} s)"
            say(f"counted {_named(policy)}{counted}")
        return self._flops[policy]

    @functools.cached_property
    def policies(self) -> list[str | None]:
        """The model's remat policies that this machine can compile, fewest FLOPs first; `[None]` for a model without."""
        legal: tuple[str | None, ...] = REMAT if "remat" in self.config.model else (None,)
        refused: list[UserError] = []
        for policy in legal:
            try:
                self.flops(policy)
            except UserError as error:
                refused.append(error)
                say(f"{_named(policy)}is left out: {error}")
        if not self._flops:
            raise refused[0]
        return sorted(self._flops, key=self.flops)

    def largest(self, policy: str | None) -> int:
        """The largest batch a device, in one piece, that fits."""
        return largest(lambda batch: self.bytes(policy, batch), self.limit, self.own)

    def advise(self) -> Advice:
        """The policy of fewest FLOPs that fits the config's batch, else the same with micro-batches, else the largest batch."""
        for policy, accumulate in self._candidates():
            needed = self.bytes(policy, self.own, accumulate)
            if needed <= self.limit:
                return self._advice(policy, self.own, accumulate, needed)
        best = max(self.policies, key=self.largest)
        batch = self.largest(best)
        if batch:
            return self._advice(best, batch, 1, self.bytes(best, batch))
        least = min(self.policies, key=lambda policy: self.bytes(policy, 1))
        return Advice(
            None,
            f"nothing fits {show(self.limit)}: one clip takes {show(self.bytes(least, 1))} {_with(least)}; "
            "shorten data.samples or take a smaller model",
        )

    def _candidates(self) -> Iterator[tuple[str | None, int]]:
        """(policy, micro-batches) for the config's batch, in the order of preference."""
        accumulate = self.config.train.accumulate
        yield from ((policy, accumulate) for policy in self.policies)
        for policy in self.policies:
            most = self.largest(policy)
            for parts in range(accumulate + 1, self.own + 1):
                if self.own % parts == 0 and self.own // parts <= most:
                    yield policy, parts

    def _advice(self, policy: str | None, batch: int, accumulate: int, needed: float) -> Advice:
        changes: dict[str, Any] = {"model.remat": policy} if policy else {}
        changes |= {"train.accumulate": accumulate, "train.batch_size": batch * self.groups}
        now = configs.flat(self.config)
        flags = tuple(f"--config.{key}={value}" for key, value in changes.items() if now[key] != value)
        what = f"{batch} clips a device" + (f" in micro-batches of {batch // accumulate}" if accumulate > 1 else "")
        how = f"use {' '.join(flags)}" if flags else "leave it as it is"
        return Advice(flags, f"{how}: {what} take {show(needed)} of {show(self.limit)} {_with(policy)}".rstrip())


def _named(policy: str | None) -> str:
    return f"remat={policy} " if policy else ""


def _with(policy: str | None) -> str:
    return f"with remat={policy}" if policy else ""


def advice(config: ConfigDict, error: BaseException) -> str:
    """The sentence for a run that ran out of memory: what did, and settings whose training step needs less."""
    what = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
    say(f"out of memory ({what}); looking for settings that need less")
    planner = Planner(config, count_classes(config))
    own = planner.bytes(config.model.get("remat"), planner.own, config.train.accumulate)
    planner.limit = min(planner.limit, own - 1)  # the prediction may have fitted, yet this much was not to be had
    return f"out of memory ({what}): {planner.advise().sentence}"
