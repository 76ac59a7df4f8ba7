"""A long run of a small ByteNet: resident memory, open files and the time of a step must not grow."""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from genre_jax.bench.chaos import world
from genre_jax.console import UserError
from genre_jax.logbook import read_lines

MEMORY_GROWTH, TIME_GROWTH = 0.02, 0.05


def run(folder: Path, steps: int) -> dict[str, int]:
    """Train for `steps` steps; return how memory, open files and the time of a step change after a twentieth of them."""
    world.write_tones(folder)
    workdir, every = folder / "long", max(1, steps // 200)
    command = world.command(
        folder, workdir, "auto", train__duration=f"{steps} steps", train__log_every=f"{every} steps",
        train__evaluate_every=f"{steps // 10} steps", train__checkpoint_every=f"{steps // 20} steps",
    )  # fmt: skip
    process = world.start(command)
    samples: list[tuple[int, float, float]] = []  # step, resident MB, open files
    while process.poll() is None:
        time.sleep(1)
        path = workdir / "timings.jsonl"
        lines = read_lines(path) if path.exists() else []
        if lines and process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                files = len(os.listdir(f"/proc/{process.pid}/fd"))
            except OSError:
                break
            resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
            samples.append((lines[-1]["step"], resident, files))
    _, err = process.communicate()
    if process.returncode:
        raise UserError(f"the long run failed: {err[-1000:]}")
    after = steps // 20
    late = [sample for sample in samples if sample[0] >= after]
    times = [1 / line["clips_per_second"] for line in read_lines(workdir / "timings.jsonl") if line["step"] >= after]
    first, last = _ends(times)
    begin, end = _ends([sample[1] for sample in late])
    few, many = _ends([sample[2] for sample in late])
    memory, time_of_step = end / begin - 1, last / first - 1
    found = {
        f"resident memory {begin:.0f} to {end:.0f} MB ({memory:+.2%})": memory <= MEMORY_GROWTH,
        f"open files {few:g} to {many:g}": many <= few,
        f"time of a clip {first * 1e3:.3g} to {last * 1e3:.3g} ms ({time_of_step:+.2%})": time_of_step <= TIME_GROWTH,
    }
    return {f"{what}: {'finished' if good else 'grows'}": 1 for what, good in found.items()}


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The medians of the first and of the last quarter."""
    quarter = max(1, len(values) // 4)
    return statistics.median(values[:quarter]), statistics.median(values[-quarter:])
