"""Tests of runs on several hosts, which are processes with two CPU devices each: the same results, one writer, one end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, finish, run_module

from genre_jax.hosts import free_port

CONFIG = (
    "--config=tests/small_run.py:resnet,model.stages=[1]",
    "--config.train.batch_size=16",
    "--config.evaluate.batch_size=16",
)
WIDE = ("--config.dtype=float64", "--config.optimizer.name=amsgrad")
LONG = ("--config.train.duration=4000 steps", "--config.train.log_every=10 steps", "--config.train.checkpoint_every=20 steps")


def start(hosts: int, data_dir: Path, workdir: Path, *arguments: str, devices: int = 2) -> list[subprocess.Popen]:
    """Start the processes of a run on the tones."""
    port = free_port()
    command = [*CONFIG, f"--config.data.data_dir={data_dir}", f"--workdir={workdir}", "--start_timeout=60", *arguments]
    team = [(f"--coordinator=127.0.0.1:{port}", f"--processes={hosts}", f"--process_id={number}") for number in range(hosts)]
    return [run_module("genre_jax.main", *command, *(where if hosts > 1 else ()), devices=devices) for where in team]


def run(hosts: int, data_dir: Path, workdir: Path, *arguments: str, devices: int = 2, code: int = 0) -> list[str]:
    """Run to the end, and return what each process printed."""
    return ["\n".join(finish(process, code)) for process in start(hosts, data_dir, workdir, *arguments, devices=devices)]


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same(workdir: Path, reference: Path, tolerance: float) -> None:
    """Assert that two runs recorded the same numbers and made the same predictions."""
    for line, expected in zip(lines(workdir), lines(reference), strict=True):
        assert line.pop("split") == expected.pop("split")
        assert line == pytest.approx(expected, abs=tolerance, rel=tolerance)
    with np.load(workdir / "predictions.npz") as ours, np.load(reference / "predictions.npz") as theirs:
        assert set(ours.files) == set(theirs.files)
        for key in ours.files:
            if ours[key].dtype.kind == "f":
                np.testing.assert_allclose(ours[key], theirs[key], atol=tolerance, rtol=tolerance)
            else:
                np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.fixture(scope="module")
def alone(tones, tmp_path_factory) -> Path:
    """The workdir of a run in one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    run(1, tones, workdir, *WIDE, devices=4)
    return workdir


def test_two_hosts_train_the_run_of_one(tones, alone, tmp_path):
    """`launch/local.sh` starts them."""
    workdir = tmp_path / "run"
    launched = subprocess.run(
        [ROOT / "launch" / "local.sh", "--processes=2", "--devices=2", "--platform=cpu", "--",
         *CONFIG, *WIDE, f"--config.data.data_dir={tones}", f"--workdir={workdir}"],
        cwd=ROOT, env=os.environ | {"PYTHON": sys.executable, "GENRE_JAX_CACHE": str(ROOT / ".cache" / "children")}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert "2 processes on " in launched.stdout and "4 device(s)" in launched.stdout
    seconds = [line for line in (launched.stdout + launched.stderr).splitlines() if line.startswith("[1] ")]
    (note,) = [line for line in seconds if "Gloo" not in line]
    assert note.endswith("coordinates the run and prints its progress")
    assert_same(workdir, alone, 1e-10)
    assert {path.name for path in workdir.iterdir()} == {path.name for path in alone.iterdir()}
    assert json.loads((workdir / "environment.json").read_text())["hosts"] == "2"


def test_a_mistake_is_one_sentence_on_all_hosts(tones, tmp_path):
    first, second = run(2, tones, tmp_path / "run", "--config.train.batch_size=6", code=1)
    assert first.count("error: config key 'train.batch_size' must be a multiple of 4") == 1
    assert "error" not in second
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--coordinator=localhost:1", "--processes=2"], "--coordinator, --processes and --process_id go together: set all three"),
        (["--process_id=0"], "--coordinator, --processes and --process_id go together: set all three, or --distributed"),
        (["--coordinator=localhost", "--processes=2", "--process_id=1"], "--coordinator must be HOST:PORT, and was given 'localhost'"),
        (["--coordinator=localhost:1", "--processes=2", "--process_id=2"], "--process_id must lie in [0, 1] for --processes=2, and was given 2"),
        (["--coordinator=no.such.host:1", "--processes=2", "--process_id=1"], "the host 'no.such.host' of --coordinator=no.such.host:1"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit_are_refused(call_main, flags, sentence):
    _, err = call_main("--config=bytenet:demo", *flags, code=1)
    assert err.startswith(f"error: {sentence}") and err.count("\n") == 1


def test_distributed_without_a_cluster_is_refused():
    _, err = finish(run_module("genre_jax.main", "--config=bytenet:demo", "--distributed"), 1)
    assert err.startswith("error: the other processes of the run are not known") and err.count("\n") == 1


def test_a_port_that_is_in_use_is_refused(call_main):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _, err = call_main(f"--coordinator=localhost:{port}", "--processes=2", "--process_id=0", code=1)
    assert err.startswith(f"error: port {port} of --coordinator=localhost:{port} cannot be opened (Address already in use)")


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("runner", ["pmap", "jit"])
def test_losses_and_predictions_do_not_depend_on_the_hosts(tones, tmp_path, hosts, runner):
    steps = ("--config.train.duration=20 steps", "--config.train.log_every=1 steps")
    run(1, tones, tmp_path / "one", *WIDE, *steps, devices=1)
    jit = (f"--config.runner={runner}", f"--config.shard_optimizer={str(runner == 'jit').lower()}")
    run(hosts, tones, tmp_path / "many", *WIDE, *steps, *jit, "--config.train.keep=9")
    assert_same(tmp_path / "many", tmp_path / "one", 1e-10)
    # The checkpoint of these hosts is resumed by one process, with the other runner.
    for checkpoint in (tmp_path / "many" / "checkpoints").iterdir():
        if int(checkpoint.name) > 10:
            shutil.rmtree(checkpoint)
    for name in ("results.json", "predictions.npz"):
        (tmp_path / "many" / name).unlink()
    out = run(1, tones, tmp_path / "many", *WIDE, *steps, "--config.train.keep=9", devices=4)
    assert "from its checkpoint at step 10" in out[0]
    assert_same(tmp_path / "many", tmp_path / "one", 1e-10)


@pytest.mark.slow
def test_the_first_step_in_float32_and_predictions_of_the_same_weights(tones, tmp_path):
    """Weights that do not change, because the learning rate is 0."""
    every = ("--config.train.log_every=1 steps", "--config.schedule.learning_rate=0.0")
    run(1, tones, tmp_path / "one", *every, devices=1)
    run(2, tones, tmp_path / "two", *every)
    assert lines(tmp_path / "two")[0]["loss"] == pytest.approx(lines(tmp_path / "one")[0]["loss"], abs=1e-6)
    still = f"--config.init_from={tmp_path / 'one'}", "--config.train.duration=1 steps", "--config.freeze.batch_stats=true"
    tables = []
    for hosts in (1, 2):
        run(hosts, tones, tmp_path / f"of-{hosts}", *every, *still, '--config.freeze.patterns=["*"]')
        with np.load(tmp_path / f"of-{hosts}" / "predictions.npz") as file:
            tables.append(file["logits"])
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-6)


def wait_for(team: list[subprocess.Popen], path: Path, steps: int) -> None:
    """Wait until the run has recorded so many steps."""
    deadline = time.monotonic() + 120
    while (
        not path.exists() or not path.read_text().count("\n") or json.loads(path.read_text().splitlines()[-1])["step"] < steps
    ):
        assert time.monotonic() < deadline and all(process.poll() is None for process in team)
        time.sleep(0.05)


def ends(team: list[subprocess.Popen], seconds: float) -> tuple[list[int], list[str]]:
    """The exit codes, and what the processes printed; fail if they have not ended within these seconds."""
    outputs, deadline = [], time.monotonic() + seconds
    for process in team:
        outputs.append("\n".join(process.communicate(timeout=max(1, deadline - time.monotonic()))))
    return [process.returncode for process in team], outputs


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_end_when_a_host_dies(tones, tmp_path, victim):
    team = start(2, tones, tmp_path / "run", *LONG)
    wait_for(team, tmp_path / "run" / "metrics.jsonl", 20)
    team[victim].kill()
    codes, outputs = ends(team, 60)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] not in (0, -signal.SIGKILL)
    sentence = f"error: process {victim} on {socket.gethostname()}"
    jax_says = "the leader task was preempted/died/restarted unexpectedly"
    assert sentence in outputs[1 - victim] or (victim == 0 and jax_says in outputs[1 - victim])


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "number"), [(0, signal.SIGTERM), (1, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_signal_to_one_host_saves_and_ends_all(tones, tmp_path, victim, number):
    """The run goes on in one process, and equals a run that was not interrupted."""
    steps = (
        "--config.train.duration=400 steps",
        "--config.train.log_every=10 steps",
        "--config.train.checkpoint_every=1e4 steps",
    )
    workdir = tmp_path / "run"
    team = start(2, tones, workdir, *WIDE, *steps, "--config.train.evaluate_every=90 steps")
    wait_for(team, workdir / "metrics.jsonl", 20)
    os.kill(team[victim].pid, number)
    codes, outputs = ends(team, 60)
    assert codes == [128 + number] * 2, outputs
    assert "is saved in" in outputs[0]
    (saved,) = [int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()][-1:]
    assert saved >= 20
    for hosts, where in ((1, workdir), (1, tmp_path / "whole")):
        run(hosts, tones, where, *WIDE, *steps, "--config.train.evaluate_every=90 steps")
    assert_same(workdir, tmp_path / "whole", 1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["pmap", "jit"])
def test_a_dry_run_on_two_hosts(tones, tmp_path, runner):
    first, second = run(2, tones, tmp_path / "run", "--dry_run", f"--config.runner={runner}")
    assert "steps per epoch   1.5 (24 clips in batches of 16)" in first and "ETA" in first
    assert "ETA" not in second and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_teams_in_one_workdir(tones, tmp_path):
    team = start(2, tones, tmp_path / "run", *LONG)
    wait_for(team, tmp_path / "run" / "metrics.jsonl", 10)
    first, second = run(2, tones, tmp_path / "run", *LONG, code=1)
    busy = f"another run holds the workdir {tmp_path / 'run'}"
    assert f"error: {busy}" in first and f"error: process 0 on {socket.gethostname()} ended: {busy}" in second
    os.kill(team[0].pid, signal.SIGTERM)
    assert ends(team, 60)[0] == [143, 143]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_on_all_hosts(tones, tmp_path):
    short = ("--config.train.evaluate_every=6 steps",)
    run(2, tones, tmp_path / "run", *WIDE, *short)
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    (tmp_path / "run" / "results.json").unlink()
    array = max((tmp_path / "run/checkpoints/6/training").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    array.write_bytes(array.read_bytes()[:-40] + bytes(40))
    first, _ = run(2, tones, tmp_path / "run", *WIDE, *short)
    assert "the checkpoint of step 6 is damaged" in first and "resuming" in first and "from its checkpoint at step 4" in first
    assert_same(tmp_path / "run", tmp_path / "whole", 1e-12)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_explained(tones, tmp_path):
    """The dump holds the clips of all hosts, and a single process replays it."""
    huge = ("--config.schedule.learning_rate=1e30", "--config.optimizer.name=sgd")
    first, second = run(2, tones, tmp_path / "run", *huge, code=1)
    assert "not finite" in first and first.count("train/") == 16 and "error" not in second
    with np.load(tmp_path / "run" / "nonfinite" / "batch.npz") as batch:
        assert len(batch["clip"]) == 16
    out, _ = finish(run_module("genre_jax.main", f"--replay={tmp_path / 'run' / 'nonfinite'}", devices=4))
    assert "now and in the run" in out and "is not reproduced" not in out


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_that_stream_their_shards_train_the_same_run(tones, tmp_path, hosts):
    """Each host reads its streams from the shards; the single process reads the same batches by index."""
    by_shard = ("--config.data.order=by_shard", "--config.data.streams=4", "--config.data.shuffle_buffer=5")
    run(1, tones, tmp_path / "one", *WIDE, *by_shard, "--config.data.reader=threads", devices=2)
    run(hosts, tones, tmp_path / "many", *WIDE, *by_shard, "--config.data.reader=sequential")
    assert_same(tmp_path / "many", tmp_path / "one", 1e-10)
