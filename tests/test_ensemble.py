"""The ensemble of runs against a calculation by hand, and its files in the report."""

import json
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
from conftest import ROOT, finish, run_module

from genre_jax import ensemble, metrics
from genre_jax.console import UserError
from genre_jax.report import page, predictions

RNG = np.random.default_rng(0)
CLASSES = ("blues", "jazz", "rock")
TRUTH = {"a/1.wav": 0, "a/2.wav": 1, "b/1.wav": 2, "b/2.wav": 2, "c/1.wav": 1}  # clip → class; the track is the folder


def write_run(folder, windows=3, order=None, task="single", classes=CLASSES, truth=TRUTH, **changes):
    """Write the predictions of a run with random logits, `windows` windows a clip and its clips in another order."""
    folder.mkdir()
    names = list(truth) if order is None else [list(truth)[i] for i in order]
    tracks = sorted({name.split("/")[0] for name in names})
    clip = np.repeat(np.arange(len(names)), windows)
    labels = np.eye(len(classes), dtype=np.uint8)[[truth[name] for name in names]]
    if task == "multi":
        labels[:, 0] = 1
    logits = RNG.normal(scale=2, size=(len(clip), len(classes))).astype(np.float32)
    columns = {
        "logits": logits, "labels": labels[clip], "loss": np.ones(len(clip), np.float32), "clip": clip,
        "track": np.array([tracks.index(names[c].split("/")[0]) for c in clip]), "start": np.tile(np.arange(windows), len(names)),
        "target": np.array([truth[names[c]] for c in clip], np.int32),
        "classes": np.array(classes), "clip_names": np.array(names), "track_names": np.array(tracks),
        "sample_rate": np.array(8000), "samples": np.array(2000 * windows),
    }  # fmt: skip
    np.savez(folder / "predictions.npz", **columns)
    results = {"task": task, "data_set": "tones", "split": "test", "directory": "/nowhere", "parameters": 10 * windows}
    (folder / "results.json").write_text(json.dumps(results | changes))
    link = np.exp if task == "single" else lambda x: 1 / (1 + np.exp(-x))
    p = link(logits.astype(np.float64))
    p = p / p.sum(1, keepdims=True) if task == "single" else p
    return {name: p[clip == row].mean(0) for row, name in enumerate(names)}


def command(*arguments: str) -> subprocess.Popen:
    return run_module("genre_jax.ensemble", *arguments)


def test_ensemble_of_two_runs_with_other_windows(tmp_path):
    runs = [str(tmp_path / name) for name in "xy"]
    one, two = write_run(tmp_path / "x", 3), write_run(tmp_path / "y", 5, order=[4, 2, 0, 1, 3])
    out, _ = finish(command(f"--output={tmp_path / 'both'}", "--weights=3,1", *runs))
    mean = np.array([0.75 * one[name] + 0.25 * two[name] for name in TRUTH])
    truth = np.array(list(TRUTH.values()))
    table = predictions.read(tmp_path / "both" / "predictions.npz")
    assert table["clip_names"].tolist() == list(TRUTH) and table["clip"].tolist() == list(range(5))
    assert table["track_names"][table["track"]].tolist() == ["a", "a", "b", "b", "c"]
    np.testing.assert_allclose(metrics.softmax(table["logits"]), mean, rtol=1e-9)
    np.testing.assert_allclose(table["loss"], -np.log(mean[range(5), truth]), rtol=1e-9)
    with np.load(tmp_path / "both" / "predictions.npz") as file:
        np.testing.assert_array_equal(file["target"], truth)
    results = json.loads((tmp_path / "both" / "results.json").read_text())
    accuracy = sklearn.metrics.accuracy_score(truth, mean.argmax(1))
    assert results["clip"]["max_probability"]["accuracy"] == results["raw"]["accuracy"] == pytest.approx(accuracy)
    assert results["loss"] == pytest.approx(sklearn.metrics.log_loss(truth, mean))
    tracks = [mean[:2].sum(0).argmax(), mean[2:4].sum(0).argmax(), mean[4].argmax()]  # a tie of labels goes to the first
    assert results["track"]["max_probability"]["accuracy"] == pytest.approx(np.mean(np.array(tracks) == [0, 2, 1]))
    assert results["ensemble"] == {"runs": runs, "weights": [0.75, 0.25]}
    assert (results["clips"], results["tracks"], results["parameters"], results["data_set"]) == (5, 3, 80, "tones")
    alone = [np.mean(np.array([run[name] for name in TRUTH]).argmax(1) == truth) for run in (one, two)]
    lines = out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [*runs, str(tmp_path / "both")]
    assert [float(line.split("clip accuracy ")[1].split()[0]) for line in lines] == pytest.approx([*alone, accuracy])


def test_ensemble_of_several_labels(tmp_path):
    runs = [write_run(tmp_path / name, n, task="multi") for name, n in (("x", 2), ("y", 1), ("z", 4))]
    members = [ensemble.read(tmp_path / name) for name in "xyz"]
    mean = np.mean([[run[name] for name in TRUTH] for run in runs], axis=0)
    table = ensemble.table_of(members[0], ensemble.combine(members, [1 / 3] * 3))
    np.testing.assert_allclose(metrics.sigmoid(table["logits"]), mean, rtol=1e-9)
    labels = table["labels"]
    expected = [sklearn.metrics.log_loss(row, p, labels=[0, 1]) for row, p in zip(labels, mean, strict=True)]
    np.testing.assert_allclose(table["loss"], expected, rtol=1e-9)
    summary = metrics.summarise(table, "multi")
    assert summary["clip"]["mean_average_precision"] == pytest.approx(sklearn.metrics.average_precision_score(labels, mean))


def test_the_report_shows_an_ensemble_like_a_run(tmp_path):
    for name in "xy":
        write_run(tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps({"name": f"run {name}"}))
    finish(command(f"--output={tmp_path / 'both'}", str(tmp_path / "x"), str(tmp_path / "y")))
    text = page.write_report([tmp_path / "both", tmp_path / "x", tmp_path / "y"], tmp_path / "report").read_text()
    assert "ensemble of 2" in text and "run y" in text
    assert "damaged" not in text and "left out" not in text
    assert (tmp_path / "report" / "run-1" / "confusion-rates.png").exists()


def test_runs_that_do_not_fit(tmp_path):
    write_run(tmp_path / "x")
    cases = {
        "task": ({"task": "multi"}, "have different tasks ('single' and 'multi')"),
        "classes": ({"classes": ("blues", "jazz", "punk")}, "have different classes ('punk' is in only one of them)"),
        "order": ({"classes": ("jazz", "blues", "rock")}, "have different classes (their order differs)"),
        "clips": (
            {"truth": {name: TRUTH[name] for name in list(TRUTH)[:3]}},
            "were not tested on the same clips (2 clips are in only one of them, such as 'b/2.wav')",
        ),
        "labels": ({"truth": TRUTH | {"a/1.wav": 1}}, "have other labels or tracks for the same clips"),
    }
    for name, (changes, message) in cases.items():
        write_run(tmp_path / name, **changes)
        with pytest.raises(UserError) as error:
            ensemble.check([ensemble.read(tmp_path / "x"), ensemble.read(tmp_path / name)])
        assert message in str(error.value) and str(error.value).startswith(f"{tmp_path / 'x'} and {tmp_path / name} ")


def test_files_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(UserError, match=r"results.json is missing"):
        ensemble.read(tmp_path)
    write_run(tmp_path / "x")
    (tmp_path / "x" / "predictions.npz").write_bytes(b"PK" * 99)
    with pytest.raises(UserError, match=r"predictions.npz cannot be used: it is cut off or damaged"):
        ensemble.read(tmp_path / "x")
    (tmp_path / "x" / "predictions.npz").unlink()
    with pytest.raises(UserError, match=r"predictions.npz is missing"):
        ensemble.read(tmp_path / "x")
    (tmp_path / "x" / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"names no task"):
        ensemble.read(tmp_path / "x")


@pytest.mark.parametrize("text", ["1", "1,2,3", "1,x", "0,0", "-1,2", "nan,1", "inf,1"])
def test_illegal_weights(text):
    with pytest.raises(UserError, match=r"--weights needs 2 numbers, at least 0 and not all 0, as in 2,1, and was given"):
        ensemble.parse_weights(text, 2)


def test_errors_of_the_command(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    _, err = finish(command(f"--output={tmp_path / 'run'}", "x", "y"), 1)
    assert err == f"error: {tmp_path / 'run'} is the workdir of a run: choose another --output\n"
    _, err = finish(command(f"--output={tmp_path / 'out'}", "x"), 1)
    assert err.startswith("error: --output=DIR and two or more runs are needed")


def test_no_jax_is_needed():
    code = "import sys, genre_jax.ensemble; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
