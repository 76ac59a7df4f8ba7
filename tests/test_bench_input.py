"""The benchmarks of input and augmentation run, and their rows are consistent. No time is asserted."""

import json

import pytest
from conftest import ROOT, finish, run_module

pytestmark = pytest.mark.slow


def test_input(tmp_path):
    path = tmp_path / "rows.json"
    finish(run_module("genre_jax.bench", "input", "--clips=64", "--shards=3", "--batch=8", "--repeats=1", f"--json={path}"))
    record = json.loads(path.read_text())
    rows = record["rows"]
    assert {(row["reader"], row["processes"]) for row in record["hosts"]} >= {("threads", 1), ("threads", 4)}
    assert all(row["clips_per_second"] > 0 for row in record["hosts"])
    assert {row["sampling"] for row in rows} == {"uniform", "balanced"} and {row["seconds"] for row in rows} == {3, 10}
    for row in rows:
        assert row["most"] >= row["clips_per_second"] >= row["least"] > 0 and row["resident_mb"] > 10
        assert row["of_uniform"] == 1 or row["sampling"] == "balanced"


def test_augment(tmp_path):
    path = tmp_path / "rows.json"
    config = f"--config={ROOT}/tests/small_run.py:snn"
    finish(run_module("genre_jax.bench", "augment", config, "--batch=4", "--repeats=1", "--noises=3", f"--json={path}"))
    rows = {(row["what"], row["augmentation"]): row for row in json.loads(path.read_text())["rows"]}
    assert {("inputs", "none"), ("inputs", "noise"), ("inputs", "all"), ("step", "none"), ("step", "all")} <= rows.keys()
    assert all(row["ms"] > 0 for row in rows.values())
