"""A run that was killed and restarted with the same command gives the results of an uninterrupted run."""

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT, finish, run_module

STEPS = 30


def start(data_dir: Path, workdir: Path, model: str, devices: int, *extra: str):
    return run_module(
        "genre_jax.main",
        f"--config={ROOT}/tests/small_run.py:{model}",
        f"--workdir={workdir}",
        f"--config.data.data_dir={data_dir}",
        f"--config.train.duration={STEPS} steps",
        "--config.train.evaluate_every=10 steps",
        "--config.train.checkpoint_every=4 steps",
        "--config.augment.shift=0.5",
        *extra,
        devices=devices,
        hide=("matplotlib",),  # no report
    )


def kill_when(process, due, timeout: float = 240) -> None:
    """Send SIGKILL as soon as `due()` is true. The run must not end before."""
    end = time.monotonic() + timeout
    while process.poll() is None and not due():
        assert time.monotonic() < end, "the moment to kill did not come"
        time.sleep(0.0005)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()


def writing_checkpoint(workdir: Path):
    """Return a function that is true while Orbax writes into a temporary folder."""
    return lambda: any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))


def saved(workdir: Path) -> bool:
    """Return whether the run has a complete checkpoint."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def lines(workdir: Path) -> int:
    """Return the number of complete lines of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def outcome(workdir: Path) -> tuple[bytes, dict[str, np.ndarray], list[np.ndarray]]:
    """Return metrics.jsonl, the predictions and the parameters of a finished run."""
    with np.load(workdir / "predictions.npz") as file:
        predictions = dict(file)
    saved = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(STEPS) / "model").resolve())
    leaves = []

    def collect(tree):
        for key in sorted(tree):
            collect(tree[key]) if isinstance(tree[key], dict) else leaves.append(np.asarray(tree[key]))

    collect(saved)
    return (workdir / "metrics.jsonl").read_bytes(), predictions, leaves


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("snn", ("checkpoint", "line")),  # the second waits for a whole checkpoint, from which the run resumes
        pytest.param("bytenet", ("checkpoint", "line", "checkpoint"), marks=pytest.mark.slow),
        pytest.param("resnet", ("checkpoint", "line"), marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_times_and_resumed_is_bit_identical(tones, tmp_path, model, kinds):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(tones, whole, model, 2))
    chance = random.Random(model)
    last = 0
    for kind in kinds:
        process = start(tones, broken, model, 2)
        if kind == "checkpoint":
            wait = writing_checkpoint(broken)
        else:
            target = last + chance.randint(2, 6)
            wait = lambda target=target: lines(broken) >= target and saved(broken)  # noqa: E731
        kill_when(process, wait)
        time.sleep(chance.random() * 0.01)
        last = lines(broken)
    out, _ = finish(start(tones, broken, model, 2))
    assert "resuming" in out
    for ours, theirs in zip(outcome(whole), outcome(broken), strict=True):
        if isinstance(ours, bytes):
            assert ours == theirs
        else:
            ours, theirs = (list(x.values()) if isinstance(x, dict) else x for x in (ours, theirs))
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["snn", "resnet"])
def test_killed_on_8_devices_and_continued_on_2(tones, tmp_path, model):
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    finish(start(tones, whole, model, 2, "--config.dtype=float64"))
    kill_when(start(tones, moved, model, 8, "--config.dtype=float64"), lambda: lines(moved) >= 8)
    out, _ = finish(start(tones, moved, model, 2, "--config.dtype=float64"))
    assert "resuming" in out
    _, predictions, leaves = outcome(whole)
    _, moved_predictions, moved_leaves = outcome(moved)
    for a, b in zip(leaves, moved_leaves, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-10)
    for key in ("logits", "loss"):
        np.testing.assert_allclose(moved_predictions[key], predictions[key], rtol=0, atol=1e-10)


def test_core_and_main_run_where_tensorflow_is_not_installed(tones, tmp_path, call_main):
    arguments = (
        f"--config={ROOT}/tests/small_run.py:snn",
        f"--workdir={tmp_path}/run",
        f"--config.data.data_dir={tones}",
        "--config.data.reader=auto",
    )
    out, _ = finish(run_module("genre_jax.main", *arguments, hide=("tensorflow", "tensorflow_datasets")))
    assert "test at step" in out
    assert (tmp_path / "run/report/index.html").exists()
    before = (tmp_path / "run/results.json").read_bytes()
    out, _ = call_main(*arguments)
    assert "holds a finished run" in out
    assert (tmp_path / "run/results.json").read_bytes() == before


def test_core_runs_without_the_libraries_of_an_accelerator_machine_that_lacks_them(tones, tmp_path):
    """The core needs only JAX, Flax, Optax, Orbax, NumPy, absl and ml_collections."""
    missing = ("tensorflow", "tensorflow_datasets", "librosa", "matplotlib", "jinja2", "soundfile", "soxr", "av", "sklearn",
               "tensorboardX", "tqdm", "google_crc32c")  # fmt: skip
    process = run_module(
        "genre_jax.main",
        f"--config={ROOT}/tests/small_run.py:snn",
        f"--workdir={tmp_path}/run",
        f"--config.data.data_dir={tones}",
        hide=missing,
    )
    out, _ = finish(process)
    assert "test at step" in out
    assert "no report: " in out
    assert (
        "the audio is not verified" in out and json.loads((tmp_path / "run/environment.json").read_text())["verify"] == "never"
    )
