"""The command of the chaos benchmark.

    python -m genre_jax.bench chaos [--parts=kills,flips] [--seed=0] [--json=FILE]

Parts: kills (SIGKILL at random moments), signals (SIGTERM, SIGINT), flips (single bits of everything that is read), inputs
(mutated audio, CSV, run folders, weights), disk (full and read-only disks, two processes at once), long (a long run). The exit
code is 1 if a part finds a fault.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax.bench.chaos import disk, flips, kills, long, world
from genre_jax.bench.record import machine, write_record
from genre_jax.console import UserError, say, unknown

PARTS = flags.DEFINE_list("parts", ["kills", "signals", "flips", "disk", "long"], "Parts to run.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of every part.")
KILLS = flags.DEFINE_integer("kills", 100, "Number of kills; a tenth of them are of prepare.")
SIGNALS = flags.DEFINE_integer("signals", 20, "Number of signals.")
FLIPS = flags.DEFINE_integer("flips", 200, "Number of flipped bits of each kind of file.")
DISKS = flags.DEFINE_integer("disks", 20, "Number of disk sizes.")
STEPS = flags.DEFINE_integer("steps", 20_000, "Steps of the long run.")

FAULTS = ("silent", "traceback", "resumed and different", "Error", "crash", "hang", "memory", "code")


def main(argv: list[str]) -> int:
    """Run the parts and print what they found."""
    del argv
    for part in PARTS.value:
        if part not in TABLE:
            raise unknown("part", part, TABLE)
    found: dict[str, Any] = {}
    for part in PARTS.value:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[part] = TABLE[part](Path(folder))
            except UserError as error:  # the other parts still run
                found[part] = {"Error": str(error)}
            say(f"{part}: {found[part]}")
    write_record({"benchmark": "chaos", "environment": machine(), "seed": SEED.value, "found": found})
    return 1 if any(fault in str(key) for part in found.values() for key in _keys(part) for fault in FAULTS) else 0


def _keys(found: dict[str, Any]) -> list[str]:
    return [key for name, value in found.items() for key in (name, *(_keys(value) if isinstance(value, dict) else ()))]


def _kills(folder: Path) -> dict[str, Any]:
    _songs(folder / "songs")
    prepare = kills.run_prepare(folder / "songs-data", folder / "songs", KILLS.value // 10, SEED.value)
    return kills.run(folder / "runs", KILLS.value - KILLS.value // 10, SEED.value) | prepare


def _disk(folder: Path) -> dict[str, Any]:
    _songs(folder / "songs")
    world.write_tones(folder / "sized")
    world.finish(world.command(folder / "sized", folder / "sized" / "run"))
    sizes = disk.sizes(folder / "sized" / "run", DISKS.value)
    return {
        "full": disk.full(folder / "full", sizes),
        "read-only": disk.read_only(folder / "read-only"),
        "two at once": disk.twice(folder / "twice", folder / "songs"),
    }


def _songs(folder: Path) -> None:
    """Write 60 short songs as wav files in two folders."""
    import numpy as np
    import soundfile

    for number in range(60):
        path = folder / ("high" if number % 2 else "low") / f"{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = np.random.default_rng(number).normal(0, 0.1, 3 * world.RATE)
        soundfile.write(path, wave, world.RATE)


TABLE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "kills": _kills,
    "signals": lambda folder: disk.signals(folder, SIGNALS.value, SEED.value),
    "flips": lambda folder: flips.run(folder, FLIPS.value, SEED.value),
    "disk": _disk,
    "long": lambda folder: long.run(folder, STEPS.value),
}
