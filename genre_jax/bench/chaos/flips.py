"""Invert single bits of the files that a run reads: nothing may change in silence."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genre_jax import config as configs
from genre_jax import save_pretrained
from genre_jax.bench.chaos import world
from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError, say
from genre_jax.data import shards
from genre_jax.run import Run
from genre_jax.weights import pretrained


def flip(path: Path, chance: random.Random) -> None:
    """Invert one random bit of a file."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def read_data(folder: Path) -> Any:
    """Everything that a data set holds."""
    splits = []
    for split in world.SPLITS:
        index = shards.load_index(folder, split)
        cuts = [index.cut(row, 0, int(length)) for row, length in enumerate(index.length)]
        splits.append((index.names, index.tracks, index.classes, index.labels, index.maximum, cuts))
    return splits


def read_trained(source: Path) -> Any:
    """A trained network, as prediction uses it."""
    config, labels, variables, _ = pretrained.load_trained(source)
    values = {key: value for key, value in configs.flat(config).items() if key not in configs.FREE_ON_RESUME}
    return list(values.items()), labels, jax.tree.leaves(variables)


def read_resumed(workdir: Path) -> Any:
    """The state from which a run resumes. A damaged checkpoint is set aside, and the one before is used: that is no silence."""
    run = Run(configs.read_json(workdir / "config.json"))
    checkpoints = Checkpoints(workdir, run.config, run.splits["train"].classes)
    resumed = checkpoints.resume(run.program.abstract_state())
    checkpoints.close()
    if (workdir / "damaged").exists():
        raise UserError("a checkpoint was set aside")
    return resumed and (jax.tree.leaves(jax.device_get(resumed[0])), resumed[1], repr(resumed[2]))


def run(folder: Path, flips: int, seed: int) -> dict[str, dict[str, int]]:
    """Flip `flips` bits in files of each kind, one at a time; return {kind: {outcome: count}}.

    An outcome is "equal", "refused" (a sentence), "silent" (another result) or the type of an exception. The last two are
    faults.
    """
    data = world.write_tones(folder)
    workdir = folder / "run"
    code, _, err = world.finish(world.command(folder, workdir))
    if code:
        raise UserError(f"the run in {workdir} failed: {err[-1000:]}")
    (folder / "file").mkdir()
    save_pretrained(workdir, folder / "file" / "tones.safetensors")
    kinds: dict[str, tuple[Path, Callable, str]] = {
        "shards": (data, read_data, "*.tfrecord-*"),
        "index caches": (data, read_data, "index-*.npz"),
        "passport": (data, read_data, "passport.json"),
        "checkpoints, prediction": (workdir, read_trained, "checkpoints/*/**/*"),
        "checkpoints, resume": (workdir, read_resumed, "checkpoints/*/**/*"),
        "config": (workdir, read_trained, "config.json"),
        "labels": (workdir, read_trained, "labels.json"),
        "safetensors": (folder / "file", lambda place: read_trained(place / "tones.safetensors"), "tones.safetensors"),
    }
    return {kind: _flip_all(folder / "copy", *about, flips, seed, kind) for kind, about in kinds.items()}


def _flip_all(copy: Path, source: Path, read: Callable, pattern: str, flips: int, seed: int, kind: str) -> dict[str, int]:
    chance, outcomes = random.Random(seed), Counter[str]()
    shutil.copytree(source, copy)
    expected = read(copy)
    for _ in range(flips):
        shutil.rmtree(copy)
        shutil.copytree(source, copy)
        if pattern.startswith("index"):
            read(copy)
        path = chance.choice([path for path in sorted(copy.glob(pattern)) if path.is_file() and path.stat().st_size])
        flip(path, chance)
        try:
            outcomes["equal" if _same(read(copy), expected) else "silent"] += 1
        except UserError:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes[type(error).__name__] += 1
    shutil.rmtree(copy)
    say(f"flips, {kind}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return dict(outcomes)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)
