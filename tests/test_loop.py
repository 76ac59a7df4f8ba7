"""A run in its workdir: signals save it, a second run waits outside, and a step that is not finite is explained."""

import json
import os
import re
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from test_resume import finish, outcome, start

from genre_jax import interrupt, lock, loop, replay, train
from genre_jax.checkpoint import Checkpoints, named
from genre_jax.console import Terminated, UserError
from genre_jax.data import shards
from genre_jax.logbook import Meter
from genre_jax.loop import train_and_evaluate
from genre_jax.run import Run

TIMED = ("train_seconds", "clips_per_second", "peak_memory_bytes")


def different(workdir, other) -> list[str]:
    """Return the names of what differs in two finished runs: metrics, predictions and scores must be equal."""

    def content(workdir):
        with np.load(workdir / "predictions.npz") as file:
            found = {key: file[key].tobytes() for key in file.files}
        results = json.loads((workdir / "results.json").read_text())
        found |= {key: value for key, value in results.items() if key not in TIMED}
        return found | {"metrics.jsonl": (workdir / "metrics.jsonl").read_bytes()}

    ours, theirs = content(workdir), content(other)
    return [key for key in ours | theirs if ours.get(key) != theirs.get(key)]


@pytest.fixture(scope="module")
def whole(tones, tmp_path_factory):
    """Return the workdir of an uninterrupted run of six steps, which evaluates at 3 and 6."""
    workdir = tmp_path_factory.mktemp("whole")
    train_and_evaluate(small_config(tones, "snn"), workdir)
    return workdir


@pytest.fixture(autouse=True)
def default_handlers():
    """Handle both signals as a command in the foreground does: pytest in the background ignores SIGINT."""
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("moment", ["step-1", "step-5", "validation", "save", "test"])
def test_a_signal_saves_the_run_and_the_same_command_goes_on(tones, tmp_path, whole, monkeypatch, capsys, number, kind, moment):
    """Steps 1 and 5 lie between two records, "save" is during the save after a validation, and the test comes after the end."""
    called = []

    def send():
        if not called:
            called.append(moment)
            os.kill(os.getpid(), number)
            time.sleep(0.05)

    def add(self, step, metrics, before=Meter.add):
        before(self, step, metrics)
        if moment == f"step-{step}":
            send()

    def evaluate(self, state, part, embeddings=None, before=Run.evaluate):
        table = before(self, state, part, embeddings)
        if moment == part:
            send()
        return table

    def save(self, step, *arguments, before=Checkpoints.save):
        before(self, step, *arguments)
        if moment == "save" and step == 3:
            send()

    monkeypatch.setattr(Meter, "add", add)
    monkeypatch.setattr(Run, "evaluate", evaluate)
    monkeypatch.setattr(Checkpoints, "save", save)
    config = small_config(tones, "snn")
    with pytest.raises(kind):
        train_and_evaluate(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert moment == "test" or ("is saved" in said and "the same command resumes the run" in said)
    assert not (tmp_path / "run/results.json").exists() and not (tmp_path / "run/.lock").exists()
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    if moment == "save":
        about = json.loads((tmp_path / "run/checkpoints/3/about/metadata").read_text())
        assert about["metrics"]["score"] >= 0  # the checkpoint was not replaced by one without a score
    train_and_evaluate(config, tmp_path / "run")
    assert "resuming" in capsys.readouterr().out
    assert different(tmp_path / "run", whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_with_the_code_of_its_signal(tones, tmp_path, number):
    finish(start(tones, tmp_path / "whole", "snn", 2))
    process = start(tones, tmp_path / "run", "snn", 2)
    while not (tmp_path / "run/metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(number)
    began = time.monotonic()
    out, err = finish(process, code=128 + number)
    assert time.monotonic() - began < 30
    assert f"{number.name}: the run saves its state and ends" in out and "Traceback" not in err
    finish(start(tones, tmp_path / "run", "snn", 2))
    for ours, theirs in zip(outcome(tmp_path / "whole"), outcome(tmp_path / "run"), strict=True):
        assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))


def test_a_second_signal_and_a_long_wait_end_the_process(monkeypatch):
    ends = []
    monkeypatch.setattr(interrupt.os, "_exit", lambda code: ends.append(code))
    monkeypatch.setattr(interrupt, "GRACE", 0.2)
    with interrupt.Interrupt() as watch, watch.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        assert watch.received == signal.SIGTERM and not ends
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        assert ends == [130]
        time.sleep(0.2)
        assert set(ends) == {130, 143}


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupt.Interrupt() as watch:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        assert watch.received is None
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_workdir_belongs_to_one_run(tones, tmp_path, whole):
    (tmp_path / "run").mkdir()
    with lock.hold(tmp_path / "run/.lock", "busy"), pytest.raises(UserError, match="another run holds the workdir .*run: wait"):
        train_and_evaluate(small_config(tones, "snn"), tmp_path / "run")
    train_and_evaluate(small_config(tones, "snn"), tmp_path / "run")
    assert different(tmp_path / "run", whole) == []


# ---------------------------------------------------------------- steps that are not finite


def spoiled(monkeypatch, *steps, what="loss"):
    """Make loss or gradient of these steps (counted from 1) not finite."""
    before = train._accumulate

    def accumulate(loss_of, state, batch, parts):
        gradients, batch_stats, sums = before(loss_of, state, batch, parts)
        bad = jnp.isin(state.step + 1, jnp.array(steps))
        if what == "loss":
            sums = sums | {"loss": jnp.where(bad, jnp.nan, sums["loss"])}
        return jax.tree.map(lambda g: jnp.where(bad, jnp.inf, g), gradients), batch_stats, sums

    monkeypatch.setattr(train, "_accumulate", accumulate)


@pytest.mark.parametrize("allowed", [0, 1])
def test_a_failed_step_leaves_the_state_before_it(tones, tmp_path, monkeypatch, allowed):
    """Step 4 fails, or steps 2 and 4. The dump holds the state before step 4 whether it was kept or reached again."""
    config = small_config(tones, "snn", train__skip_nonfinite=allowed, devices=1)
    spoiled(monkeypatch, 4, *([2] if allowed else []))
    with pytest.raises(UserError, match=r"loss nan and gradient norm inf at step 4 are not finite; the last good checkpoint is of "
                       r"step 3; `python -m genre_jax.main --replay=.*run/nonfinite` explains the step; .*: train/\w+/0\d.wav"):  # fmt: skip
        train_and_evaluate(config, tmp_path / "run")
    run = Run(config)
    state = run.initial_state()
    for step in range(3):
        state, _ = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(step)))
    assert int(state.skipped) == (1 if allowed else 0)
    with np.load(tmp_path / "run/nonfinite/state.npz") as file, np.load(tmp_path / "run/nonfinite/batch.npz") as batch:
        for name, leaf in named(jax.device_get(state)).items():
            if name != "skipped":
                np.testing.assert_array_equal(file[name], leaf, err_msg=name)
        np.testing.assert_array_equal(batch["audio"], run.batches(3)["audio"])
    assert not (tmp_path / "run/results.json").exists()


def test_skipped_steps_change_nothing_but_the_step(tones, tmp_path, monkeypatch, capsys):
    config = small_config(tones, "snn", train__skip_nonfinite=2, devices=1)
    spoiled(monkeypatch, 2, 5)
    results = train_and_evaluate(config, tmp_path / "run")
    assert results["skipped_steps"] == 2
    said = capsys.readouterr().out
    assert "at step 2 are not finite: its update is left out (1 of 2 that train.skip_nonfinite allows)" in said
    run = Run(config)
    state = run.initial_state()
    states = [jax.device_get(state)]
    for step in range(6):
        state, _ = run.program.train_step(state, run.constants, run.program.devices.shard(run.batches(step)))
        states.append(jax.device_get(state))
    for bad in (2, 5):
        jax.tree.map(np.testing.assert_array_equal, states[bad].params, states[bad - 1].params)
        jax.tree.map(np.testing.assert_array_equal, states[bad].opt_state, states[bad - 1].opt_state)
        assert int(states[bad].step) == bad
    assert b"NaN" not in (tmp_path / "run/metrics.jsonl").read_bytes()


def test_a_resumed_run_counts_the_skipped_steps_once(tones, tmp_path, monkeypatch):
    config = small_config(tones, "snn", train__skip_nonfinite=2, devices=1)
    spoiled(monkeypatch, 2, 5)
    train_and_evaluate(config, tmp_path / "whole")

    def add(self, step, metrics, before=Meter.add):
        before(self, step, metrics)
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "add", add)
        with pytest.raises(Terminated):
            train_and_evaluate(config, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    assert different(tmp_path / "run", tmp_path / "whole") == []


def replayed(workdir, capsys, call_main) -> str:
    out, _ = call_main(f"--replay={workdir / 'nonfinite'}")
    return out


def test_replay_names_the_layer(tones, tmp_path, capsys, call_main):
    """A rate of 1e30 makes the parameters huge after step 1, and the activations overflow in step 2."""
    config = small_config(
        tones, "snn", optimizer__name="sgd", schedule__learning_rate=1e30, train__log_every="1 steps", devices=1
    )
    with pytest.raises(UserError, match="are not finite"):
        train_and_evaluate(config, tmp_path)
    out = replayed(tmp_path, capsys, call_main)
    assert "now and in the run: loss nan and nan" in out or "loss inf and inf" in out
    assert "the first layer whose output is not finite is" in out and "its input is finite" in out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"params": np.inf}, r"the state before the step is not finite already: params/"),
        (
            {"params": 1e38},
            r"the first layer whose output is not finite is hidden_0|the first layer whose output is not finite is ",
        ),
        ({"audio": 0}, "every stage is finite"),
    ],
)
def test_replay_explains_each_stage(tones, tmp_path, change, sentence):
    config = small_config(tones, "snn", devices=1)
    run = Run(config)
    state = jax.device_get(run.initial_state())
    batch = run.batches(0)
    if "params" in change:
        state = state.replace(params=jax.tree.map(lambda x: np.full_like(x, change["params"]), state.params))
    said = replay.explain(run.program, config, state, jax.device_get(run.constants), batch, [str(c) for c in batch["clip"]])
    assert re.search(sentence, said), said


def test_replay_of_a_folder_without_a_dump(tmp_path, call_main):
    _, err = call_main(f"--replay={tmp_path}", code=1)
    assert err.startswith(f"error: '{tmp_path}' is not the dump of a step that is not finite: it lacks config.json, step.json")


def test_one_step_at_a_huge_rate_ends_with_a_sentence(tones, tmp_path):
    """The loss of the only step is finite, and the parameters after it are not."""
    config = small_config(tones, "snn", train__duration="1 steps", optimizer__name="sgd", schedule__learning_rate=3e38)
    with pytest.raises(UserError, match="not finite|NaN or infinity"):
        train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_scores_that_are_not_finite_are_no_result(tones, tmp_path, monkeypatch):
    def evaluate(self, state, part, before=Run.evaluate):
        table = before(self, state, part)
        table["logits"][3:, 1] = np.nan
        return table

    monkeypatch.setattr(Run, "evaluate", evaluate)
    with pytest.raises(UserError, match=r"windows of the validation split have scores that are not finite at step 3, the first is "
                       r"'validation/\w+/0\d.wav' at \d\.\d s: lower schedule.learning_rate"):  # fmt: skip
        train_and_evaluate(small_config(tones, "snn"), tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_damaged_clips_are_counted(tones, tmp_path):
    shutil.copytree(tones / "tones", tmp_path / "tones")
    config = small_config(
        tmp_path, "snn", data__on_corrupt="skip", train__duration="12 steps", train__checkpoint_every="12 steps"
    )
    index = Run(config).splits["train"]
    path = index.shards[index.shard[4]]
    content = bytearray(path.read_bytes())
    content[index.offset[4] + 9] ^= 1
    path.write_bytes(content)
    results = train_and_evaluate(config, tmp_path / "run")
    assert results["damaged_clips"] == {"train": 1, "validation": 0, "test": 0}
    with pytest.raises(shards.DamagedClip, match=f"clip '{index.names[4]}' in shard"):
        train_and_evaluate(small_config(tmp_path, "snn", train__duration="12 steps"), tmp_path / "stopped")
    assert loop.FRESH["damaged"] == []
