"""The command of the chaos benchmark, which makes faults on purpose.

    python -m genre_jax.bench chaos [--parts=kills,flips] [--seed=0] [--json=FILE]

The exit code is 1 if a part finds a fault. The parts are:

    kills     SIGKILL of runs and of `prepare` at random moments; the run that goes on must equal an undisturbed one
    signals   SIGTERM and SIGINT at random moments; the same
    hosts     SIGKILL of one of two processes of a run at random moments; the other one ends, and the same
    flips     single bits of everything that a run reads: an equal result, or a sentence
    inputs    damaged audio, CSV files, run folders and weights: no traceback, crash, hang, nor more than 2 GiB
    disk      full and read-only disks, and two processes at once (needs root, because it mounts small file systems)
    long      memory, open files and step time of a long run
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax.bench.chaos import disk, flips, hosts, inputs, kills, long, world
from genre_jax.bench.record import machine, write_record
from genre_jax.console import UserError, pick, say

PARTS = flags.DEFINE_list("parts", ["kills", "signals", "hosts", "flips", "inputs", "disk", "long"], "Parts to run.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of every part.")
KILLS = flags.DEFINE_integer("kills", 100, "Number of kills; a tenth of them are of prepare.")
SIGNALS = flags.DEFINE_integer("signals", 20, "Number of signals.")
HOSTS = flags.DEFINE_integer("hosts", 20, "Number of kills of one of two processes.")
FLIPS = flags.DEFINE_integer("flips", 200, "Number of flipped bits of each kind of file.")
AUDIO = flags.DEFINE_integer("audio", 5000, "Number of damaged audio files, for `prepare` and for `tag`.")
OTHERS = flags.DEFINE_integer("others", 2000, "Number of damaged CSV files, run folders and files of weights, each.")
DISKS = flags.DEFINE_integer("disks", 20, "Number of disk sizes.")
STEPS = flags.DEFINE_integer("steps", 20_000, "Steps of the long run.")

GOOD = ("equal", "refused", "finished", "saved", "whole")  # words in the outcomes that are no faults


def main(argv: list[str]) -> int:
    """Run the parts and print what they found."""
    del argv
    for part in PARTS.value:
        pick("part", part, TABLE)
    found: dict[str, Any] = {}
    for part in PARTS.value:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found[part] = TABLE[part](Path(folder))
            except UserError as error:  # the other parts still run
                found[part] = {"fault": {str(error): 1}}
            say(f"{part}: {found[part]}")
    write_record({"benchmark": "chaos", "environment": machine(), "seed": SEED.value, "found": found})
    return 1 if any(faults(part) for part in found.values()) else 0


def faults(found: dict[str, Any]) -> list[str]:
    """The outcomes {kind: {outcome: count}} that are faults, as "kind: outcome"."""
    return [
        f"{kind}: {outcome}"
        for kind, outcomes in found.items()
        for outcome, count in outcomes.items()
        if count and not any(word in outcome for word in GOOD)
    ]


def _kills(folder: Path) -> dict[str, Any]:
    _songs(folder / "songs")
    of_prepare = KILLS.value // 10
    prepare = kills.run_prepare(folder / "songs-data", folder / "songs", of_prepare, SEED.value)
    return kills.run(folder / "runs", KILLS.value - of_prepare, SEED.value) | {"prepare": prepare}


def _inputs(folder: Path) -> dict[str, Any]:
    del folder
    parts = {
        "audio, prepare": lambda: inputs.audio_prepare(AUDIO.value, SEED.value),
        "audio, tag": lambda: inputs.audio_tag(AUDIO.value, SEED.value),
        "CSV files": lambda: inputs.tables(OTHERS.value, SEED.value),
        "run folders": lambda: inputs.run_folders(OTHERS.value, SEED.value),
        "weights": lambda: inputs.weights(OTHERS.value, SEED.value),
    }
    found = {}
    for name, part in parts.items():
        tally = part()
        found[name] = {outcome: count for outcome, count in tally.counts.items() if count}
        say(
            "\n".join(
                [f"inputs, {name}: {found[name]}", *(f"  seed {seed}: {what}: {text}" for seed, what, text in tally.faults)]
            )
        )
    return found


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
    "signals": lambda folder: {"runs": kills.signals(folder, SIGNALS.value, SEED.value)},
    "hosts": lambda folder: {"runs": hosts.run(folder, HOSTS.value, SEED.value)},
    "flips": lambda folder: flips.run(folder, FLIPS.value, SEED.value),
    "inputs": _inputs,
    "disk": _disk,
    "long": lambda folder: {"run": long.run(folder, STEPS.value)},
}
