"""The benchmark of damaged inputs: it finds every kind of fault, and a few cases of each input find none."""

import ctypes
import os
import time
from pathlib import Path

import numpy as np
import pytest

from genre_jax.bench.chaos import inputs
from genre_jax.console import UserError

FAULTS = ("traceback", "crash", "hang", "memory")


def act(path: Path) -> None:
    """Behave as the name of the file says."""
    match path.name:
        case "refused in a sentence":
            raise UserError("a sentence")
        case "traceback":
            raise ZeroDivisionError
        case "crash":
            ctypes.string_at(0)
        case "hang":
            time.sleep(1000)
        case "memory":
            np.ones(2**29)  # 4 GiB


def open_act():
    return act


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_every_outcome_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "SECONDS", 2.0)
    for name in inputs.OUTCOMES:
        (tmp_path / name).touch()
    cases = [(seed, tmp_path / name) for seed, name in enumerate(inputs.OUTCOMES)]
    tally = inputs.run(open_act, (), cases)
    assert tally.counts == dict.fromkeys(inputs.OUTCOMES, 1)
    assert [fault[:2] for fault in tally.faults] == list(enumerate(FAULTS, start=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "cases"), [("audio_prepare", 160), ("audio_tag", 80), ("tables", 200), ("run_folders", 4), ("weights", 40)]
)
def test_damaged_inputs_end_in_a_sentence(part, cases):
    tally = getattr(inputs, part)(cases, seed=1000)
    assert tally.faults == [] and sum(tally.counts.values()) == cases
    assert tally.counts["refused in a sentence"] > 0 or part == "run_folders"
