"""The launchers of several runs: folds, seeds, sweeps. Their children are real runs in the last tests, and fakes before."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, finish, tone_clip

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.data import locate
from genre_jax.prepare import passport, tfrecord

sys.path.insert(0, str(ROOT / "launch"))

import child
import repeat

needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="Optuna is not installed")


@pytest.fixture
def foreground():
    """Let child processes receive SIGINT, as those of a shell do: pytest in the background ignores it, and they inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- folds and seeds


def test_every_fold_is_tested_once_and_validated_once():
    runs = repeat.plan(5, 0, True)
    assert runs["fold_3"] == {"data.train": "fold0+fold1+fold2", "data.validation": "fold4", "data.test": "fold3"}
    assert runs["fold_4"] == {"data.train": "fold1+fold2+fold3", "data.validation": "fold0", "data.test": "fold4"}
    for keys in runs.values():
        used = [*keys["data.train"].split("+"), keys["data.validation"], keys["data.test"]]
        assert sorted(used) == [f"fold{i}" for i in range(5)]
    for part in ("data.test", "data.validation"):
        assert sorted(keys[part] for keys in runs.values()) == [f"fold{i}" for i in range(5)]


def test_without_validation_all_other_folds_are_trained_on():
    ten = repeat.plan(12, 0, False)["fold_10"]
    assert ten == {"data.train": "+".join(f"fold{i}" for i in (*range(10), 11)), "data.validation": "", "data.test": "fold10"}


def test_folds_and_seeds_multiply():
    assert list(repeat.plan(0, 3, True)) == ["seed_0", "seed_1", "seed_2"]
    both = repeat.plan(3, 2, True)
    assert list(both)[:3] == ["fold_0_seed_0", "fold_0_seed_1", "fold_1_seed_0"] and len(both) == 6
    assert both["fold_2_seed_1"] == repeat.fold_keys(2, 3, True) | {"seed": "1"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 0, True), "nothing to repeat: give --folds=K, --seeds=N, or both"),
        (
            (2, 0, True),
            "--folds must be at least 3 with a validation fold, and was given 2: give more folds, or --novalidation",
        ),
        ((1, 0, False), "--folds must be at least 2, and was given 1: give more folds"),
    ],
)
def test_too_few_folds(arguments, message):
    with pytest.raises(UserError) as error:
        repeat.plan(*arguments)
    assert str(error.value) == message


def test_the_data_set_must_have_these_folds():
    splits = [f"fold{i}" for i in range(11)]
    repeat.check_folds(["test", *splits], 11, "x")
    with pytest.raises(
        UserError, match=r"--folds=5 needs the splits fold0 to fold4, and data set 'x' has fold0, .*or give --folds=11"
    ):
        repeat.check_folds(splits, 5, "x")
    with pytest.raises(UserError, match=r"data set 'x' has test, train: prepare it with --split=folds:5$"):
        repeat.check_folds(["test", "train"], 5, "x")


def test_summary_is_mean_and_sample_deviation():
    column = [0.7, 0.8, 0.95, None]
    summary = repeat.summarise({"a": column[:3], "b": column, "c": [0.5]})
    assert summary["a"]["mean"] == pytest.approx(np.mean(column[:3]))
    assert summary["a"]["sd"] == pytest.approx(np.std(column[:3], ddof=1))
    assert (summary["b"]["mean"], summary["b"]["sd"]) == (None, None)
    assert summary["c"] == {"mean": 0.5, "sd": None, "values": [0.5]}
    lines = repeat.table({"track/majority/macro_f1": summary["a"], "track/majority/accuracy": summary["a"]}, ["x", "y", "z"])
    assert lines.splitlines() == [
        "score                    mean ± s.d.      x       y       z",
        "track/majority/accuracy  0.8167 ± 0.1258  0.7000  0.8000  0.9500",
    ]


def test_scores_of_results(tmp_path):
    results = {"schema": 1, "loss": 2.0, "raw": {"accuracy": 0.5}, "clip": {"majority": {"accuracy": None, "macro_f1": 1}}}
    results |= {
        "classes": {"jazz": {"f1": 1.0}},
        "train": {"loss": 1.0, "raw": {"accuracy": 0.9}, "classes": {"jazz": {"f1": 0}}},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert child.scores(tmp_path) == {
        "loss": 2.0, "raw/accuracy": 0.5, "clip/majority/accuracy": None, "clip/majority/macro_f1": 1,
        "train/loss": 1.0, "train/raw/accuracy": 0.9,
    }  # fmt: skip


# ---------------------------------------------------------------- child processes

FAKE_MAIN = """
import json, pathlib, signal, sys, time
given = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
seed, folder = int(given["config.seed"]), pathlib.Path(given["workdir"])
def stop(number, frame):
    print("saved", signal.Signals(number).name)
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print("seed", seed, "\\x1b")
if seed == 3:
    sys.exit("no room")
if seed == 4:
    time.sleep(60)
folder.mkdir()
(folder / "results.json").write_text(json.dumps({"loss": seed / 4, "raw": {"accuracy": 0.5}, "task": "single"}))
"""


@pytest.fixture
def fake_main(monkeypatch):
    """A command that takes no second in place of `genre_jax.main`. It fails with seed 3, and waits for a signal with seed 4."""
    monkeypatch.setattr(child, "MAIN", (sys.executable, "-c", FAKE_MAIN))


def test_repeat_does_the_runs_and_summarises_them(tmp_path, fake_main, capsys):
    runs = {"a": {"seed": "1"}, "b": {"seed": "2"}}
    assert repeat.work("x.py:y", {"data.name": "z"}, runs, tmp_path) == 0
    out = capsys.readouterr().out
    assert out.startswith("[a] seed 1 \\x1b\n[b] seed 2 \\x1b\n")
    assert "loss          0.3750 ± 0.1768  0.2500  0.5000\nraw/accuracy  0.5000 ± 0.0000  0.5000  0.5000\n" in out
    assert out.endswith(f"report: {tmp_path / 'report' / 'index.html'}\n")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["config"] == "x.py:y" and summary["overrides"] == ["data.name=z"] and summary["runs"] == runs
    assert summary["scores"]["loss"] == {"mean": 0.375, "sd": pytest.approx(2**0.5 / 8), "values": [0.25, 0.5]}


def test_a_run_that_fails_ends_the_command_with_its_code(tmp_path, fake_main, capsys):
    assert repeat.work("x.py", {}, {"a": {"seed": "3"}, "b": {"seed": "1"}}, tmp_path) == 1
    out, err = capsys.readouterr()
    assert out == "[a] seed 3 \\x1b\n[a] no room\n" and not (tmp_path / "b").exists()
    assert err == "error: run a ended with exit code 1 (its lines above say why): the same command goes on from here\n"


@pytest.mark.parametrize(
    "error, name", [(KeyboardInterrupt(), "SIGINT"), (console.Terminated(), "SIGTERM"), (UserError("x"), "SIGTERM")]
)
def test_a_child_saves_its_state_when_the_launcher_ends(tmp_path, fake_main, foreground, capsys, error, name):
    def at_line(process):
        if process.poll() is None and not seen:
            seen.append(process)
            raise error

    seen: list[subprocess.Popen] = []
    with pytest.raises(type(error)):
        child.run(child.command("x.py", {"seed": "4"}, tmp_path / "x"), "a", at_line)
    assert seen[0].returncode == {"SIGINT": 130, "SIGTERM": 143}[name]
    assert capsys.readouterr().out.splitlines() == ["[a] seed 4 \\x1b", f"[a] saved {name}"]


def test_a_child_that_is_killed(tmp_path, fake_main):
    code = child.run(child.command("x.py", {"seed": "4"}, tmp_path / "x"), "a", lambda process: process.kill())
    assert code == -9
    assert child.exit_sentence("a", code) == "run a was killed by signal 9 (its lines above say why)"


# ---------------------------------------------------------------- real runs


def write_folds(data_dir: Path, folds: int) -> None:
    folder = locate.directory(data_dir, "tones", 8000)
    for fold in range(folds):
        split = ("train", "validation", "test")[fold]
        clips = [tone_clip(split, g, n, 2100 + 371 * n + g) for g in range(4) for n in range(2)]
        tfrecord.write_shards(folder, "tones", f"fold{fold}", clips, num_shards=1)
    facts = {"name": "tones", "sample_rate": 8000, "labels": ("low", "mid", "high", "noise")}
    passport.write(folder, facts | {"splits": {f"fold{fold}": {} for fold in range(folds)}})


def launch(script: str, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, f"launch/{script}.py", f"--config={ROOT}/tests/small_run.py:snn", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"} | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def hiding(tmp_path: Path) -> dict[str, str]:
    """Environment in which Matplotlib is not installed: a report takes longer than a run."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    return {"PYTHONPATH": f"{tmp_path}:{ROOT}"}


@pytest.mark.slow
def test_two_seeds(tones, tmp_path):
    data = f"--config.data.data_dir={tones}"
    folder = tmp_path / "seeds"
    out, err = finish(launch("repeat", f"--workdir={folder}", "--seeds=2", data, **hiding(tmp_path)))
    assert "[seed_1] test at step" in out
    assert err.startswith("error: no report: the report needs matplotlib")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["runs"] == {"seed_0": {"seed": "0"}, "seed_1": {"seed": "1"}}
    assert summary["overrides"] == [f"data.data_dir={tones}"]
    losses = [json.loads((folder / name / "results.json").read_text())["loss"] for name in ("seed_0", "seed_1")]
    assert losses[0] != losses[1]
    assert summary["scores"]["loss"]["values"] == losses
    assert summary["scores"]["loss"]["sd"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)
    assert f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}" in out


def wait_for(process: subprocess.Popen, path: Path) -> None:
    end = time.monotonic() + 200
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number, code, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_an_interrupted_cross_validation_goes_on(tmp_path, foreground, number, code, word):
    write_folds(tmp_path / "data", 3)
    arguments = (f"--workdir={tmp_path / 'cv'}", "--folds=3", f"--config.data.data_dir={tmp_path / 'data'}")
    long = (
        "--config.train.duration=300 steps",
        "--config.train.log_every=1 steps",
        "--config.train.evaluate_every=100 steps",
        "--config.train.checkpoint_every=100 steps",
    )
    process = launch("repeat", *arguments, *long)
    wait_for(process, tmp_path / "cv" / "fold_1" / "metrics.jsonl")
    process.send_signal(number)
    out, err = finish(process, code)
    assert "is saved in" in out and out.rstrip().endswith(f"[fold_1] {word}") and err == f"{word}\n"
    assert not (tmp_path / "cv" / "fold_2").exists()
    out, _ = finish(launch("repeat", *arguments, *long))
    assert "fold_0 holds a finished run" in out and "[fold_1] resuming" in out
    summary = json.loads((tmp_path / "cv" / "summary.json").read_text())
    assert [keys["data.test"] for keys in summary["runs"].values()] == ["fold0", "fold1", "fold2"]
    configs = [json.loads((tmp_path / "cv" / name / "config.json").read_text())["data"] for name in summary["runs"]]
    assert [(c["train"], c["validation"], c["test"]) for c in configs] == [
        ("fold2", "fold1", "fold0"), ("fold0", "fold2", "fold1"), ("fold1", "fold0", "fold2")
    ]  # fmt: skip
    page = (tmp_path / "cv" / "report" / "index.html").read_text()
    assert all(f"cv/{name}" in page for name in summary["runs"])


@pytest.mark.slow
@needs_optuna
def test_a_sweep_of_real_runs(tones, tmp_path):
    keys = ("--space=model.hidden=choice:[8],[16]", "--space=schedule.learning_rate=log:1e-4:1e-2")
    arguments = (f"--workdir={tmp_path / 'sweep'}", "--trials=3", *keys, f"--config.data.data_dir={tones}")
    out, _ = finish(launch("sweep", *arguments))
    with open(tmp_path / "sweep" / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["trial_000", "trial_001", "trial_002"]
    for row in rows:
        config = json.loads((tmp_path / "sweep" / row["trial"] / "config.json").read_text())
        assert config["model"]["hidden"] == json.loads(row["model.hidden"])
        assert config["schedule"]["learning_rate"] == float(row["schedule.learning_rate"])
        scores = [line["score"] for line in child.validations(tmp_path / "sweep" / row["trial"])]
        assert float(row["score"]) == max(scores) and int(row["evaluations"]) == len(scores) == 2
    assert out.splitlines()[-1].startswith("python -m genre_jax.main --config=")
    assert (tmp_path / "sweep" / "history.png").exists()
    again, _ = finish(launch("sweep", *arguments))
    assert "[trial" not in again and again.splitlines()[-1] == out.splitlines()[-1]


ERRORS = {
    (
        "repeat",
        "seeds=2",
        "workdir=",
    ): "--config and --workdir are needed: python launch/repeat.py --config=FILE --workdir=DIR --folds=5",
    ("repeat", "seeds=2", "--config.seed=1"): "--config.seed is set by --folds or --seeds: leave it out",
    (
        "repeat",
        "folds=3",
    ): "--folds=3 needs the splits fold0 to fold2, and data set 'tones' has test, train, validation: prepare it",
    ("sweep",): "--space is missing: give one or more of KEY=log:LOW:HIGH",
    ("sweep", "space=model.hiden=int:1:2"): "unknown config key 'model.hiden' (did you mean 'model.hidden'?)",
    ("sweep", "space=seed=int:1:2", "--config.data.validation="): "a sweep needs a validation split",
    ("sweep", "method=grid"): "unknown --method 'grid': choose one of random, tpe",
}


@needs_optuna
@pytest.mark.parametrize("case", ERRORS)
def test_errors_before_the_first_run(tmp_path, tones, monkeypatch, case):
    script, *arguments = case
    given = dict(argument.split("=", 1) for argument in arguments if not argument.startswith("--"))
    defaults = {"folds": 0, "seeds": 0, "validation": True, "method": "tpe", "space": []}
    values = {"config": f"{ROOT}/tests/small_run.py:snn", "workdir": str(tmp_path / "x")} | defaults | given
    values |= {key: int(values[key]) for key in ("folds", "seeds")} | {"workdir": values["workdir"] or None}
    values["space"] = [values["space"]] if values["space"] else []
    module = importlib.import_module(script)
    monkeypatch.setattr(module.flags, "FLAGS", SimpleNamespace(**values))
    keys = [argument for argument in arguments if argument.startswith("--config.")]
    with pytest.raises(UserError) as error:
        module.main([script, *keys, f"--config.data.data_dir={tones}"])
    assert str(error.value).startswith(ERRORS[case])
    assert not (tmp_path / "x").exists()
