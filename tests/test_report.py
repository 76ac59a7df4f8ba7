"""The report of fabricated runs: contents of the page, escaping, and incomplete, damaged or moved files."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from report_runs import CLASSES, EVIL, RATE, WINDOW, Page, make_data_set, write, write_lines, write_run

from genre_jax import intervals, metrics
from genre_jax.console import UserError
from genre_jax.data import shards
from genre_jax.report import clips, figures, formats, predictions, runs, scores
from genre_jax.report import page as report

for package in (*report.NEEDED, "sklearn"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def finished(data_set, tmp_path_factory):
    """The workdir of a single-label run, and its page."""
    workdir = write_run(tmp_path_factory.mktemp("runs") / "one", data_set)
    return workdir, report.write_report([workdir], workdir / "report")


def test_the_page_of_a_finished_run(data_set, finished):
    workdir, path = finished
    output = workdir / "report"
    assert path == output / "index.html"
    page = Page(path)
    page.check_files()
    assert "script" not in page.tags and not any("//" in name for name in page.files)
    for text in (EVIL, *CLASSES, "8,041,219", "1 min 15 s", "2 x <cpu>", "toy at 8,000 Hz", "25.0 % of the time"):
        assert text in page.text
    track = shards.load_index(data_set, "exam").track
    found = intervals.bootstrap_ratio(np.arange(24) >= 4, np.ones(24), track)  # the first four clips are wrong
    interval = formats.interval((found.low, found.high))
    for row in (f"Per clip, majority of windows 83.3 % {interval} 24", "Per window 83.3 %"):
        assert row in page.text
    rows = [title for name, title in scores.BASELINES.items() if name != "musicnn"]
    for row in (*rows, "Always the most frequent class 25.0 %"):
        assert row in page.text
    assert "Some baselines are missing: the weights of musicnn are not in the cache" in page.text
    for name in ("curves", "optimiser", "throughput", "confusion-rates", "confusion-counts", "classes"):
        assert (output / f"{name}.png").read_bytes() != (output / f"{name}-dark.png").read_bytes()
    assert (data_set / "baselines.json").exists()


def test_mistakes_have_players_with_the_evaluated_audio(data_set, finished):
    workdir, _ = finished
    names = sorted(path.name for path in (workdir / "report" / "mistakes").iterdir())
    assert names == sorted(f"{i:02d}.{kind}" for i in range(1, 5) for kind in ("png", "wav"))
    with np.load(workdir / "predictions.npz") as file:
        worst = clips.worst_clips(dict(file), "single")[0]
    index = shards.load_index(data_set, "exam")
    with wave.open(str(workdir / "report" / "mistakes" / "01.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    np.testing.assert_array_equal(audio, index.cut(index.names.index(worst["clip"]), 0, 2 * WINDOW))


def test_worst_first():
    labels = np.eye(3, dtype=np.uint8)[[0, 0, 1, 2, 2]]
    probabilities = [[0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]]
    table = {
        "logits": np.log(probabilities),
        "labels": labels,
        "target": labels.argmax(axis=1),
        "loss": np.array([1.0, 5.0, 9.0, 2.0, 3.0]),
        "clip": np.array([4, 6, 7, 9, 9]),  # the mean of the two windows of clip 9 gives the right class
        "track": np.zeros(5, int),
        "start": np.array([0, 0, 0, 0, 10]),
        "samples": np.array(10),
        "classes": np.array(["a", "b", "c"]),
        "clip_names": np.array([f"clip {i}" for i in range(10)]),
        "track_names": np.array(["t"]),
    }
    single = clips.worst_clips(table, "single")
    assert [mistake["clip"] for mistake in single] == ["clip 6", "clip 4"]
    assert single[0]["score"] == pytest.approx(-np.log(0.1))
    assert single[0]["truth"] == [("a", pytest.approx(0.1))] and single[0]["predicted"] == [("c", pytest.approx(0.7))]
    multi = clips.worst_clips(table, "multi", most=3)
    assert [(mistake["clip"], mistake["score"]) for mistake in multi] == [("clip 7", 9), ("clip 6", 5), ("clip 9", 2.5)]
    assert multi[2]["span"] == (0, 20)


def test_the_page_of_a_multi_label_run(data_set, nothing_rendered, tmp_path):
    page = Page(report.write_report([write_run(tmp_path / "run", data_set, task="multi")], tmp_path / "report"))
    page.check_files()
    for text in ("Mean average precision", "Top-k accuracy", "d′", "Clips with the highest loss"):
        assert text in page.text
    assert "Confusion matrix" not in page.text


def test_several_runs_are_compared(data_set, nothing_rendered, tmp_path):
    runs = [write_run(tmp_path / name, data_set, right=right) for name, right in (("a/net", 20), ("b/net", 24))]
    output = tmp_path / "report"
    page = Page(report.write_report(runs, output))
    page.check_files()
    for text in ("2 runs compared", "Config differences Key", "seed 20 24"):
        assert text in page.text
    assert all(f"net ({run})" in page.text for run in runs)  # two runs have the same name
    assert "None: every clip was classified correctly." in page.text
    assert (output / "comparison.png").exists() and (output / "run-2" / "curves.png").exists()


@pytest.mark.parametrize(
    "left, text",
    [
        (("config.json",), "No metrics yet."),
        (("config.json", "metrics.jsonl"), "The last logged step is 40."),
        (("results.json",), "No predictions yet."),
        (("metrics.jsonl", "predictions.npz"), "There is no audio: the run has no results yet."),
    ],
)
def test_partial_runs(data_set, nothing_rendered, tmp_path, left, text):
    workdir = write_run(tmp_path / "run", data_set)
    for path in workdir.iterdir():
        if path.name not in left:
            path.unlink()
    page = Page(report.write_report([workdir], tmp_path / "report"))
    assert text in page.text
    assert "The run has no environment.json." in page.text


def test_broken_files_and_undefined_values(data_set, tmp_path):
    workdir = write_run(tmp_path / "run", data_set)
    lines = '{"step": 1, "split": "train", "loss": NaN, "accuracy": null}\n{"step": 2, "split": "validation", "lo'
    (workdir / "metrics.jsonl").write_text(lines)
    (workdir / "timings.jsonl").write_text('{"step": 1, "seconds": 1.0, "clips_per_second": NaN}\n')
    (workdir / "predictions.npz").write_bytes((workdir / "predictions.npz").read_bytes()[:100])
    results = json.loads((workdir / "results.json").read_text())
    write(workdir / "results.json", {"task": "single", "loss": float("nan"), "raw": {"accuracy": None}})
    page = Page(report.write_report([workdir], tmp_path / "report"))
    page.check_files()
    assert "Median: – clips/s" in page.text and "Per window –" in page.text
    for task in ("single", "multi"):
        write(workdir / "results.json", {"task": task, "directory": results["directory"]})
        report.write_report([workdir], tmp_path / "report")


def npy(descr: str, shape: tuple, data: bytes = b"") -> bytes:
    """A .npy file whose header states a type and a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def in_npz(path: Path, name: str, content: bytes | None) -> None:
    """Replace one column of an .npz file, or remove it."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members[f"{name}.npy"] = content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            if data is not None:
                archive.writestr(member, data)


WRONG_COLUMNS = {  # name → (column, content, sentence on the page)
    "missing": ("loss", None, "it has no column loss"),
    "huge": ("logits", npy("<f4", (2**20, 2**20)), "its column logits states the shape (1048576, 1048576), and holds 0 bytes"),
    "objects": ("classes", npy("|O", (4,), b"cos\nsystem\n(S'true'\ntR."), "its column classes has 1 dimensions of object"),
    "target": ("target", npy("<i4", (48,), b"\x04\0\0\0" * 48), "its column target contains numbers outside -1 to 3"),
    "type": ("clip", npy("<f4", (48,), bytes(192)), "its column clip has 1 dimensions of float32"),
    "dimensions": ("clip", npy("<i4", (48, 1), bytes(192)), "its column clip has 2 dimensions of int32"),
    "length": ("clip", npy("<i4", (47,), bytes(188)), "its column clip has the shape (47,), where (48,) fits to the logits"),
    "outside": ("track", npy("<i4", (48,), b"\xff" * 192), "its column track points outside the 12 names of tracks"),
    "infinite": ("logits", npy("<f4", (48, 4), b"\xff" * 768), "its column logits contains numbers that are not finite"),
    "labels": ("labels", npy("|u1", (48, 4), b"\x07" * 192), "its column labels contains other numbers than 0 and 1"),
    "embedding": ("embedding", npy("<f4", (3, 2), bytes(24)), "its column embedding has the shape (3, 2), and there are 12"),
    "text": ("classes", npy("<U1", (4,), b"\xff" * 16), "it is cut off or damaged"),
}


@pytest.mark.parametrize("name", WRONG_COLUMNS)
def test_a_damaged_column_is_left_out_with_a_reason(data_set, tmp_path, name):
    workdir = write_run(tmp_path / "run", data_set)
    column, content, sentence = WRONG_COLUMNS[name]
    in_npz(workdir / "predictions.npz", column, content)
    tracemalloc.start()
    run = runs.read_run(workdir)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert run.predictions is None and peak < 2**27
    assert run.faults[0].startswith(f"predictions.npz is left out: {sentence}")


def test_predictions_that_would_fill_the_memory_are_left_out(data_set, tmp_path, monkeypatch):
    workdir = write_run(tmp_path / "run", data_set)
    in_npz(workdir / "predictions.npz", "loss", npy("<f4", (2**20,), bytes(2**22)))
    monkeypatch.setattr(predictions, "MOST_BYTES", 2**20)
    (fault,) = runs.read_run(workdir).faults
    assert re.fullmatch(r"predictions.npz is left out: its columns take 4,\d+,\d+ bytes, and 1,048,576 are legal", fault)


@pytest.mark.parametrize("name", ["config.json", "environment.json", "results.json", "metrics.jsonl", "timings.jsonl"])
@pytest.mark.parametrize(
    "content", [b"\xff\xfe\0", b"[1, 2", b"[" * 100_000, b'{"a":' * 900 + b"0" + b"}" * 900, b"1" * 5000 + b"\n"]
)
def test_a_damaged_json_file_is_left_out_with_a_reason(data_set, tmp_path, name, content):
    workdir = write_run(tmp_path / "run", data_set)
    (workdir / name).write_bytes(content + b"\n")
    assert [fault.startswith(f"{name} is damaged") for fault in runs.read_run(workdir).faults] == [True]


def test_values_of_the_wrong_type_are_left_out_with_a_reason(data_set, nothing_rendered, tmp_path):
    workdir = write_run(tmp_path / "run", data_set)
    results = json.loads((workdir / "results.json").read_text())
    wrong = {"task": "both", "split": "../*", "tracks": "many", "windows": -1, "raw": [1], "clip": {"accuracy": {"a": []}}}
    write(workdir / "results.json", results | wrong | {"parameters": 1e308, "track": {"max_probability": {"accuracy": 7}}})
    write(workdir / "config.json", {"name": ["\ud800"], "data": "train"})
    write_lines(
        workdir / "metrics.jsonl", [{"step": s, "split": "train", "loss": v} for s, v in ((1e308, 1), (1, 1e308), (2, 10**400))]
    )
    write_lines(workdir / "timings.jsonl", [{"step": 1, "seconds": "long", "clips_per_second": 10**400}])
    page = Page(report.write_report([workdir], tmp_path / "report"))
    page.check_files()
    for key in wrong:
        assert f"results.json is damaged, and its entry '{key}' is left out" in page.text
    other = write_run(tmp_path / "other", data_set)
    report.write_report([workdir, other], tmp_path / "report")


def test_damaged_scores_of_the_baselines_are_computed_again(data_set, tmp_path):
    folder = make_data_set(tmp_path / "data")
    workdir = write_run(tmp_path / "run", folder)
    key = "learn 16 > exam 24"
    for damaged in ([], {key: 3}, {key: {"other": 0.5}}, {key: {"mfcc_means": "high"}}):
        (folder / "baselines.json").write_text(json.dumps(damaged))
        assert scores.BASELINES["mfcc_means"] in [row[0] for row in scores._baseline_rows(runs.read_run(workdir))[0]]


def test_one_line_of_metrics_is_a_point(data_set, tmp_path):
    workdir = write_run(tmp_path / "run", data_set)
    write_lines(workdir / "metrics.jsonl", [{"step": 5, "split": "train", "loss": 1.5}])
    Page(report.write_report([workdir], tmp_path / "report")).check_files()
    lines = runs.read_run(workdir).metrics
    (axes,) = figures.curves({"run": lines}, {"loss": "Loss"})(figures.LIGHT).axes
    assert [line.get_marker() for line in axes.lines] == ["None", "o"]


def test_a_moved_data_set_leaves_no_players(finished, nothing_rendered, tmp_path):
    folder = make_data_set(tmp_path / "data")
    workdir = write_run(tmp_path / "run", folder)
    folder.rename(tmp_path / "elsewhere")
    shutil.copytree(finished[0] / "report" / "mistakes", tmp_path / "report" / "mistakes")
    page = Page(report.write_report([workdir], tmp_path / "report"))
    assert f"There is no audio: the data set is no longer at {folder}." in page.text
    assert "Some baselines are missing: the data set is no longer there." in page.text
    assert "audio" not in page.tags and EVIL in page.text
    assert not list((tmp_path / "report" / "mistakes").iterdir())  # the files of the previous page are deleted


@pytest.mark.slow
def test_many_classes_and_foreign_names_are_drawn_without_a_warning(tmp_path):
    names = [f"class {i} 音楽 " + "long " * 9 for i in range(67)]
    matrix = np.diag(np.arange(67))
    size = figures.save(tmp_path / "confusion.png", figures.confusion(matrix, names, False))
    assert 1000 <= size["width"] <= 1300  # the page is 1100 pixels wide
    axes = figures.confusion(matrix, names, True)(figures.LIGHT).axes[0]
    assert min(label.get_fontsize() for label in axes.get_yticklabels()) >= 6
    assert len(axes.get_yticklabels()) == 67
    scores = metrics.precision_recall_f1(matrix)
    support = scores.pop("support")
    figures.save(tmp_path / "classes.png", figures.per_class(scores, names, support, np.arange(67)))


def test_smoothing_ignores_values_that_are_not_finite():
    values = np.ones(200)
    values[[3, 50]] = np.nan, np.inf
    smoothed = figures.smooth(values)
    assert np.isnan(smoothed[[3, 50]]).all()
    np.testing.assert_allclose(np.delete(smoothed, [3, 50]), 1)
    noisy = np.random.default_rng(0).normal(size=400)
    assert figures.smooth(noisy).std() < 0.3


@pytest.mark.parametrize(
    "seconds, text",
    [(2.5, "2.5 s"), (42, "42 s"), (75, "1 min 15 s"), (5025, "1 h 23 min"), (200_000, "2 d 7 h"), (None, "–")],
)
def test_durations(seconds, text):
    assert formats.duration(seconds) == text


def test_user_errors(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    sentence = "no run in '.*empty': a workdir holds config.json, metrics.jsonl or results.json"
    with pytest.raises(UserError, match=sentence):
        report.write_report([tmp_path / "empty"], tmp_path / "report")
    with pytest.raises(UserError, match="no run given: name at least one workdir"):
        report.write_report([], tmp_path / "report")
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None if name == "jinja2" else True)
    with pytest.raises(UserError, match="the report needs jinja2, which is not installed: pip install jinja2"):
        report.write_report([tmp_path / "empty"], tmp_path / "report")


def test_the_command_needs_neither_jax_nor_tensorflow(data_set, tmp_path):
    workdir = write_run(tmp_path / "run", data_set)
    root = Path(report.__file__).parents[2]
    code = "import runpy, sys; sys.modules.update(jax=None, tensorflow=None)\n"
    code += "runpy.run_module('genre_jax.report', run_name='__main__')"
    run = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(root)}
    options = {"capture_output": True, "text": True, "env": environment}
    done = subprocess.run([*run, f"--output={tmp_path / 'page'}", str(workdir)], check=False, **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"report: {tmp_path / 'page' / 'index.html'}\n"
    done = subprocess.run([*run, str(workdir)], check=False, **options)
    assert done.returncode == 1
    assert done.stderr == "error: --output is missing: name the directory for the page, as in --output=report\n"
