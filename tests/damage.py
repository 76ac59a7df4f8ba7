"""Runs that are written without training, and files in which single bits are flipped."""

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from genre_jax import config as configs
from genre_jax.checkpoint import Checkpoints
from genre_jax.run import Run


def write_run(workdir: Path, config, state, labels=("low", "mid", "high", "noise")) -> None:
    """Write a workdir whose only checkpoint is `state`."""
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(configs.to_json(config)))
    (workdir / "labels.json").write_text(json.dumps(labels))
    with contextlib.closing(Checkpoints(workdir, config, labels)) as checkpoints:
        checkpoints.save(int(state.step), state)


def initial_run(config, workdir: Path, step: int = 1):
    """Write a workdir with the initial state of `config` as the checkpoint at `step`; return the run and the state."""
    run = Run(config)
    state = jax.device_get(run.initial_state()).replace(step=np.int32(step))
    write_run(workdir, config, state, run.splits["train"].classes)
    return run, state


def flips(files: list[Path], count: int) -> Iterator[str]:
    """Flip one bit of a file, yield its place, and put the content back; `count` times, each file about equally often."""
    chance = random.Random(0)
    for number in range(count):
        path = files[number % len(files)]
        whole = path.read_bytes()
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        yield f"{path}: bit {bit} of byte {place}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)
