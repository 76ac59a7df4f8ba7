"""Cost of the augmentations, alone and in a training step: `python -m genre_jax.bench augment [--config=FILE:preset]`.

The benchmark times the config's front end with each augmentation and with all of them, and the whole training step with all
of them. Every round also times the same program without augmentation. Core time is the CPU time of all threads.
"""

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from genre_jax import config as configs
from genre_jax import parallel, run
from genre_jax.bench.record import write_record
from genre_jax.console import say
from genre_jax.data import locate
from genre_jax.logbook import environment
from genre_jax.prepare import passport, tfrecord

CONFIG = flags.DEFINE_string("config", "resnet34_spectrogram:single", "Config whose front end and step are timed.")
BATCH = flags.DEFINE_integer("batch", 8, "Clips per step.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each program; the table shows medians.")
NOISES = flags.DEFINE_integer("noises", 100, "Number of 5 s recordings in the noise bank.")
STEP = flags.DEFINE_bool("step", True, "Also time the training step, which takes long to compile.")

CLASSES = 10
CASES: dict[str, dict[str, Any]] = {
    "speed": {"augment.speed": 0.1},
    "pitch and stretch": {"augment.pitch": 2.0, "augment.stretch": 0.2},
    "equalise": {"augment.equalise_db": 6.0},
    "band_limit": {"augment.band_limit.probability": 0.5},
    "gain": {"augment.gain_db": 6.0},
    "noise": {"augment.noise.data_set": "noises", "augment.noise.snr_db": [5.0, 20.0]},
    "polarity": {"augment.polarity": 0.5},
    "shift": {"augment.shift": 0.5},
    "mixup": {"augment.mixup.alpha": 0.4},
    "mask": {"augment.mask.frequency": 2, "augment.mask.time": 2},
}


def main(argv: list[str]) -> None:
    """Measure and print every row."""
    del argv
    with tempfile.TemporaryDirectory() as data_dir:
        plain = configs.load(CONFIG.value, {"data.name": "synthetic", "data.data_dir": data_dir})
        plain.train.batch_size = BATCH.value
        _write(Path(data_dir), plain.data.sample_rate)
        single = {name: _changed(plain, changes) for name, changes in CASES.items()}
        everything = {"all": _changed(plain, functools.reduce(lambda a, b: a | b, CASES.values()))}
        say(f"{'':<24}{'ms per clip':>12}{'core ms':>12}{'ms more':>12}{'core ms more':>14}{'times plain':>14}")
        rows = _rows("inputs", {"none": plain} | single | everything, _inputs)
        if STEP.value:
            rows += _rows("step", {"none": plain} | everything, _step)
    settings = {"benchmark": "augment", "config": CONFIG.value, "batch": BATCH.value, "cpus": os.cpu_count()}
    write_record(settings | {"environment": environment(), "rows": rows})


def _changed(plain: Any, changes: dict[str, Any]) -> Any:
    """Return a copy of the config `plain` with `changes`."""
    config = configs.from_json(configs.to_json(plain))
    for key, value in changes.items():
        configs.override(config, key, value)
    configs.validate(config)
    return config


def _problem(config: Any) -> tuple[run.Program, Any, Any]:
    """Return a config's program on one device, its constants, and a batch of noise."""
    program = run.Program(config, parallel.Devices(1), CLASSES, 1000)
    rng, count = np.random.default_rng(0), config.train.batch_size
    number = np.arange(count, dtype=np.int32)
    batch = {
        "audio": rng.integers(-9000, 9000, (count, config.data.samples)).astype(np.int16),
        "labels": np.eye(CLASSES, dtype=np.uint8)[number % CLASSES],
        "maximum": np.full(count, 0.3, np.float32),
        "mask": np.ones(count, np.float32),
        **dict.fromkeys(("clip", "visit", "track"), number),
        **dict.fromkeys(("start", "variant"), np.zeros(count, np.int32)),
        "length": np.full(count, config.data.samples, np.int32),
    }
    return program, program.devices.replicate(program.constants_of(np.ones(CLASSES), ())), program.devices.shard(batch)


def _inputs(config: Any) -> Callable[[], Any]:
    """Return a function that computes the network's input: gain cap, augmentation, front end."""
    program, constants, batch = _problem(config)
    state = program.state_of({"params": {}, "batch_stats": {}, "frontend": {}})  # no network is called

    def compute(state, constants, batch):
        return program.step.inputs(state, constants, batch)["features"]

    step = program.devices.eval_step(compute)
    return lambda: step(state, constants, batch)


def _step(config: Any) -> Callable[[], Any]:
    """Return a function that runs one training step."""
    program, constants, batch = _problem(config)
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(program.init)
    variables = jax.tree.map(lambda x: rng.normal(0, 0.02, x.shape).astype(x.dtype), shapes)  # without a compilation
    states = [program.devices.replicate(program.state_of(variables))]

    def step():
        states[0], metrics = program.train_step(states[0], constants, batch)
        return metrics

    return step


def _rows(what: str, cases: dict[str, Any], program_of: Callable[[Any], Callable[[], Any]]) -> list[dict[str, Any]]:
    """Run all programs in turn for several rounds, print and return medians. The first round compiles and does not count."""
    programs = {name: program_of(config) for name, config in cases.items()}
    clock: dict[str, list[float]] = {name: [] for name in cases}
    cores: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(REPEATS.value + 1):
        for name, program in programs.items():
            started, on_cores = time.perf_counter(), time.process_time()
            jax.block_until_ready(program())
            clock[name].append((time.perf_counter() - started) / BATCH.value * 1e3)
            cores[name].append((time.process_time() - on_cores) / BATCH.value * 1e3)
    rows = []
    for name in cases:
        seconds, core = (statistics.median(times[name][1:]) for times in (clock, cores))
        more, core_more = (
            statistics.median(a - b for a, b in zip(times[name][1:], times["none"][1:], strict=True))
            for times in (clock, cores)
        )
        ratio = statistics.median(a / b for a, b in zip(cores[name][1:], cores["none"][1:], strict=True))
        row = {"what": what, "augmentation": name, "ms": seconds, "core_ms": core, "ms_more": more, "core_ms_more": core_more}
        rows.append(row | {"times_plain": ratio})
        say(f"{what + ', ' + name:<24}{seconds:>12.2f}{core:>12.2f}{more:>12.2f}{core_more:>14.2f}{ratio:>14.2f}")
    return rows


def _write(data_dir: Path, rate: int) -> None:
    """Write the noise bank as a data set."""
    folder = locate.directory(data_dir, "noises", rate)
    noise = np.random.default_rng(1).integers(-9000, 9000, 5 * rate).astype(np.int16)
    clips = (tfrecord.Clip(f"{i:04d}", f"{i:04d}", (0,), np.roll(noise, 17 * i), 0.3) for i in range(NOISES.value))
    tfrecord.write_shards(folder, "noises", "train", clips)
    facts = {"name": "noises", "sample_rate": rate, "labels": ["noise"], "splits": {"train": {}}}
    passport.write(folder, facts)
