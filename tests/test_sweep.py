"""The space of a sweep, and sweeps whose runs are replaced by functions (`launch/space.py`, `launch/sweep.py`)."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from genre_jax.console import UserError

sys.path.insert(0, str(ROOT / "launch"))

import space

needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="Optuna is not installed")


# ---------------------------------------------------------------- the space of a sweep


def test_dimensions():
    assert space.parse("schedule.learning_rate=log:1e-5:1e-2") == space.Dimension("schedule.learning_rate", "log", 1e-5, 1e-2)
    assert space.parse("model.width=int:8:64:8") == space.Dimension("model.width", "int", 8, 64, 8)
    assert space.parse("a.b=float:-0.5:0.5") == space.Dimension("a.b", "float", -0.5, 0.5)
    assert space.parse("x=choice:a=1,b").corners() == ("a=1", "b")
    assert space.parse("model.width=int:8:64").corners() == ("8", "64")


@pytest.mark.parametrize(
    "text, message",
    [
        ("x=lag:1:2", "--space must be KEY=log:LOW:HIGH"),
        ("x", "and was given 'x'"),
        ("=int:1:2", "--space must be KEY"),
        ("x=int:1", "--space must be KEY"),
        ("x=float:1:nan", "--space must be KEY"),
        ("x=log:1:2:3", "--space must be KEY"),
        ("x=int:1:2.5", "of kind int needs whole numbers"),
        ("x=log:0:1", "0 < LOW for log"),
        ("x=float:2:1", "needs LOW < HIGH"),
        ("x=int:1:9:0", "a positive STEP"),
        ("x=choice:a", "two or more different choices"),
        ("x=choice:a,a", "two or more different choices"),
    ],
)
def test_illegal_dimensions(text, message):
    with pytest.raises(UserError, match=message):
        space.parse(text)


def test_names_of_components_come_first():
    dimensions = space.parse_all(["model.width=int:1:2", "model.name=choice:snn,bytenet"], {"seed": "1"})
    values = {"model.width": "2", "model.name": "snn"}
    assert list(space.overrides(dimensions, values, {"seed": "1"})) == ["model.name", "seed", "model.width"]
    with pytest.raises(UserError, match=r"config key 'seed' is given twice"):
        space.parse_all(["seed=int:1:2"], {"seed": "1"})
    with pytest.raises(UserError, match=r"--space is missing"):
        space.parse_all([], {})


# ---------------------------------------------------------------- sweeps with fake runs


class FakeRun:
    """Writes the validation lines of a run whose score is -(log10(rate) + 3)², in three evaluations."""

    def __init__(self, stop_at=None, fail=()):
        self.calls, self.stop_at, self.fail, self.terminated = [], stop_at, fail, []

    def __call__(self, arguments, name, at_line):
        rate = float(next(a for a in arguments if a.startswith("--config.schedule.learning_rate=")).partition("=")[2])
        workdir = Path(next(a for a in arguments if a.startswith("--workdir=")).partition("=")[2])
        workdir.mkdir(exist_ok=True)
        self.calls.append((name, rate))
        if name in self.fail:
            return 1
        score = -((np.log10(rate) + 3) ** 2)
        for evaluation in range(3):
            if self.stop_at == (name, evaluation):
                raise KeyboardInterrupt
            lines = [
                {"step": s + 1, "split": "validation", "score": score - 0.1 * (2 - s), "loss": -score}
                for s in range(evaluation + 1)
            ]
            (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            at_line(self)
            if self.terminated[-1:] == [name]:
                return 143
        return 0

    def terminate(self):
        self.terminated.append(self.calls[-1][0])


def sweep_of(folder, run, **options):
    import sweep

    folder.mkdir(exist_ok=True)
    dimensions = space.parse_all(["schedule.learning_rate=log:1e-5:1e-1"], {"seed": "3"})
    return sweep.Sweep(folder, "config.py", dimensions, {"seed": "3"}, run=run, **options)


@needs_optuna
@pytest.mark.parametrize("method", ["tpe", pytest.param("random", marks=pytest.mark.slow)])
def test_an_interrupted_sweep_is_the_same_as_a_whole_one(tmp_path, method):
    whole, halves = FakeRun(), FakeRun(stop_at=("trial_003", 1))
    assert sweep_of(tmp_path / "whole", whole, method=method).work(12) == 0
    with pytest.raises(KeyboardInterrupt):
        sweep_of(tmp_path / "halves", halves, method=method).work(12)
    halves.stop_at = None
    resumed = sweep_of(tmp_path / "halves", halves, method=method)
    assert resumed.work(12) == 0
    assert halves.calls[3] == halves.calls[4]  # the trial goes on in its workdir
    assert halves.calls[:4] + halves.calls[5:] == whole.calls
    assert [name for name, _ in whole.calls] == [f"trial_{i:03d}" for i in range(12)]
    assert len({rate for _, rate in whole.calls}) == 12
    texts = [(tmp_path / name / "trials.csv").read_text() for name in ("whole", "halves")]
    assert texts[0] == texts[1]
    assert resumed.work(12) == 0 and len(halves.calls) == 13  # finished
    assert resumed.work(13) == 0 and halves.calls[-1][0] == "trial_012"


@needs_optuna
def test_the_median_ends_trials_early_and_the_best_is_printed(tmp_path, capsys):
    run = FakeRun()
    sweep = sweep_of(tmp_path, run, startup=2, method="random")
    sweep.work(10)
    scores = {name: -((np.log10(rate) + 3) ** 2) for name, rate in run.calls}
    with open(tmp_path / "trials.csv") as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    complete: list[float] = []
    for name, score in scores.items():  # all trials have the same curve, and the first evaluation decides
        early = len(complete) >= 2 and score < np.median(complete)
        assert (rows[name]["state"], rows[name]["evaluations"]) == (("ended early", "1") if early else ("complete", "3"))
        complete.append(score) if not early else None
    assert run.terminated == [name for name, row in rows.items() if row["state"] == "ended early"] != []
    best = max(scores, key=scores.get)
    assert float(rows[best]["score"]) == pytest.approx(scores[best])
    command = sweep.best_command()
    assert f"--config.seed=3 --config.schedule.learning_rate={dict(run.calls)[best]!r} --workdir={tmp_path}/best" in command
    assert f"best: {best} with score" in capsys.readouterr().out
    sweep.draw()
    assert (tmp_path / "history.png").stat().st_size > 5000


@needs_optuna
def test_loss_is_minimised(tmp_path):
    run = FakeRun()
    sweep = sweep_of(tmp_path, run, metric="loss", prune=False, method="random")
    sweep.work(6)
    best = min(run.calls, key=lambda call: (np.log10(call[1]) + 3) ** 2)
    assert f"learning_rate={best[1]!r}" in sweep.best_command()


@needs_optuna
def test_failed_trials_count_and_three_in_a_row_end_the_sweep(tmp_path, capsys):
    run = FakeRun(fail=("trial_001", "trial_003", "trial_004", "trial_005"))
    sweep = sweep_of(tmp_path, run, prune=False)
    assert sweep.work(9) == 1
    assert [name for name, _ in run.calls] == [f"trial_{i:03d}" for i in range(6)]
    err = capsys.readouterr().err
    assert "error: run trial_001 ended with exit code 1 (its lines above say why); the sweep goes on without it" in err
    assert "error: 3 trials failed one after the other" in err
    states = [row["state"] for row in sweep.rows()]
    assert states == ["complete", "failed", "complete", "failed", "failed", "failed"]


@needs_optuna
def test_a_study_with_other_arguments_is_refused(tmp_path):
    sweep_of(tmp_path, FakeRun(), metric="lose", method="random")  # no trial yet: the arguments may change
    run = FakeRun()
    sweep_of(tmp_path, run, metric="loss").work(1)
    with pytest.raises(
        UserError, match=r"holds a study with other arguments \(they differ in method, metric\): choose another"
    ):
        sweep_of(tmp_path, run, method="random")


@needs_optuna
def test_an_unknown_metric_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"unknown --metric 'scor' \(did you mean 'score'\?\): choose one of loss, score"):
        sweep_of(tmp_path, FakeRun(), metric="scor").work(1)
