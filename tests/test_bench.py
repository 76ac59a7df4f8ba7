"""The benchmarks of front ends, `prepare` and metrics run, and their rows are consistent. No time is asserted."""

import json
import sys

import numpy as np
import pytest
from conftest import finish, run_module


@pytest.mark.slow
@pytest.mark.parametrize("cases", [("log_mel",), ("mfcc", "stft", "cqt_short")])
def test_front_ends_dry_run_and_figure(tmp_path, cases):
    path = tmp_path / "rows.json"
    out, _ = finish(run_module("genre_jax.bench", "frontends", "--dry_run", f"--cases={','.join(cases)}", f"--json={path}"))
    written = json.loads(path.read_text())
    assert written["dry_run"] and "jax" in written["environment"]
    rows = {(row["case"], row["library"]): row for row in written["rows"]}
    assert {case for case, _ in rows} == set(cases)
    for (case, library), row in rows.items():
        assert row["median_s"] >= row["least_s"] > 0
        assert library in out
        if library.startswith("genre_jax"):
            assert row["error"] < 1e-5, (case, library)
            assert np.isfinite(row["compile_s"])
            assert row["memory_times_in_and_out"] >= 1
        elif not case.startswith("cqt"):
            assert row["error"] < 1e-5, (case, library)  # the peer computes the same
    if len(cases) > 1:
        finish(run_module("genre_jax.bench", "frontends", f"--plot={path}"))
        assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_peers_in_another_interpreter(tmp_path):
    path = tmp_path / "rows.json"
    arguments = ("--dry_run", "--cases=stft", f"--json={path}", f"--peer_python={sys.executable}")
    finish(run_module("genre_jax.bench", "frontends", *arguments, hide=("librosa",)))
    (row,) = [row for row in json.loads(path.read_text())["rows"] if row["library"] == "librosa"]
    assert row["median_s"] >= row["least_s"] > 0
    assert row["error"] < 1e-5
    _, err = finish(run_module("genre_jax.bench", "frontends", "--dry_run", "--peer_python=/no/python"), code=1)
    assert "--peer_python must be a Python interpreter, but '/no/python' does not start" in err


def test_front_ends_need_neither_librosa_nor_tensorflow():
    hidden = ("librosa", "tensorflow", "matplotlib", "sklearn", "soundfile")
    out, _ = finish(run_module("genre_jax.bench", "frontends", "--dry_run", "--cases=log_mel", hide=hidden))
    assert "genre_jax fft" in out and "librosa" not in out


@pytest.mark.slow
def test_prepare_rows(tmp_path):
    path = tmp_path / "rows.json"
    out, _ = finish(run_module("genre_jax.bench", "prepare", "--files=8", "--seconds=1,2", f"--json={path}"))
    rows = json.loads(path.read_text())["rows"]
    assert [(row["seconds"], row["files"]) for row in rows] == [(1, 8), (2, 4)] and "factor" in out
    for row in rows:
        assert row["audio_seconds"] == pytest.approx(row["seconds"] * row["files"], rel=0.1)
        assert row["real_time_factor"] == pytest.approx(row["audio_seconds"] / row["clock_seconds"])


def test_metrics_rows(tmp_path):
    path = tmp_path / "rows.json"
    flags = ("--clips=30", "--classes=5", "--windows_per_clip=2", "--clips_per_track=3", f"--json={path}")
    out, _ = finish(run_module("genre_jax.bench", "metrics", *flags, hide=("jax", "sklearn", "scipy")))
    assert "30 clips, 5 classes, 60 windows" in out
    rows = json.loads(path.read_text())["rows"]
    assert [row["task"] for row in rows] == ["single", "multi"]
    assert all(row["clock_seconds"] > 0 and 10**7 < row["peak_bytes"] < 10**9 for row in rows)


def test_error_for_an_unknown_case():
    _, err = finish(run_module("genre_jax.bench", "frontends", "--cases=log_mels"), code=1)
    assert "unknown case 'log_mels' (did you mean 'log_mel'?): choose one of cqt_long" in err
