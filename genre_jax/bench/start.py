"""Seconds from a process start to the first training step, with and without JAX's compilation cache.

    python -m genre_jax.bench start [--networks=resnet101] [--json=FILE]

Each start is a new process. It loads Python and JAX, and traces, compiles and runs the step of the network's case
(`network_cases`) once. The first start of a network has an empty persistent cache, and the second start reads the programs that
the first one stored. "compile" is the time of the first step minus that of a second step: tracing, lowering and XLA. The cache
saves only the time in XLA.
"""

import sys
import tempfile
import time
from typing import Any

from absl import flags

from genre_jax.bench import train_step
from genre_jax.bench.contestants import Side
from genre_jax.bench.record import write_record
from genre_jax.console import say

flags.set_default(train_step.NETWORKS, ["resnet101", "densenet121"])


def main(argv: list[str]) -> None:
    """Start every network twice."""
    del argv
    train_step.check_flags()
    cores = train_step.bind(train_step.THREADS.value)
    record: dict[str, Any] = {"benchmark": "start", "dry_run": train_step.DRY_RUN.value, "dtype": train_step.DTYPE.value}
    record |= {"environment": train_step.environment(cores), "rows": []}
    say(f"{cores} CPU cores\n{'':<30}{'start':>10}{'first step':>14}{'core s':>10}{'compile':>12}{'core s':>10}")
    for name in train_step.NETWORKS.value:
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("empty cache", "filled cache"):
                row, versions = start(name, cache)
                record["environment"] |= versions
                record["rows"].append({"network": name, "start": kind} | row)
                say(
                    f"{name:<17}{kind:<13}{row['start_s']:>8.1f} s{row['first_s']:>12.1f} s{row['first_core_s']:>10.1f}"
                    f"{row['compile_s']:>10.1f} s{row['compile_core_s']:>10.1f}"
                )
    write_record(record)


def start(name: str, cache: str) -> tuple[dict[str, float], dict[str, str]]:
    """Return the seconds of one start and the versions of its process; `cache` is the folder of compiled programs."""
    started = time.perf_counter()
    with Side("genre_jax.bench.network_cases", sys.executable, environment={"JAX_COMPILATION_CACHE_DIR": cache}) as side:
        (step,) = side.build(name, [{}], train_step.DTYPE.value, train_step.DRY_RUN.value, {}).values()
        first, first_core, _ = step.ask("run", 1)
        whole = time.perf_counter() - started
        second, second_core, _ = step.ask("run", 1)
        row = {"start_s": whole, "first_s": first, "first_core_s": first_core}
        return row | {"compile_s": first - second, "compile_core_s": first_core - second_core}, side.versions()
