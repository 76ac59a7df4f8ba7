"""`bench card`: the order of the measurements, the time that they may take, what fails, and the tables. No time is asserted."""

import contextlib
import json
import os
import sys
import time

import pytest
from conftest import ROOT, finish, run_module

from genre_jax.atomic import write_json
from genre_jax.bench.card import measure, parts, tables

FAKE = """#!/bin/sh
for last; do :; done
file="${last#--json=}"
case "$*" in
  *" first "*) echo '{"environment": {"devices": "1 × TPU", "jax": "1"}, "rows": [{"status": "ok"}]}' > "$file";;
  *" lost "*) echo '{"environment": {"devices": "1 × TPU", "jax": "2"}, "rows": [{"status": "out of memory"}]}' > "$file";;
  *" wrong "*) echo noise >&2; echo 'error: torch is missing' >&2; exit 1;;
  *" killed "*) kill -9 $$;;
  *" endless "*) echo '{"rows": [{"status": "ok", "clips": 3}], "starts": []}' > "$file"; echo $$ > "$file.pid"; sleep 1000;;
  *" skipped "*) echo '{"rows": [], "starts": [{"skipped": "ValueError: other losses"}]}' > "$file"; echo x >&2; exit 1;;
esac
"""


def measurement(name, seconds=1.0, peers=False):
    return parts.Measurement(1, name, seconds, (name, "--flag=1"), ("--dry_run",), peers)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A function that runs measurements, each of which is a shell script that its name chooses, and returns the results."""
    script = tmp_path / "python"
    script.write_text(FAKE)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(measure, "POLL", 0.02)
    saved = []

    def run(*measurements, seconds=60.0):
        record = {"environment": {"cpus": 2}, "measurements": []}
        limits = measure.Limits(time.monotonic() + seconds, "the 8 minutes were over")
        measure.measure_all(measurements, record, limits, lambda: saved.append(json.loads(json.dumps(record))))
        return record, saved

    return run


def test_the_most_valuable_comes_first_and_what_compiles_for_minutes_last():
    names = [one.name for one in parts.MEASUREMENTS]
    assert len(set(names)) == len(names)
    assert names[0] == "bytenet_512_lean_10" and names[-1] == "torch_densenet121"
    first = {part: next(i for i, one in enumerate(parts.MEASUREMENTS) if one.part == part) for part in range(1, 6)}
    assert sorted(first, key=first.get) == [1, 2, 3, 4, 5]
    in_one_piece = [i for i, name in enumerate(names) if name.endswith("lean_100")]
    assert min(in_one_piece) > max(first.values())  # may run out of memory
    arguments = {one.name: one.arguments for one in parts.MEASUREMENTS}
    assert {"--max_dilation=512", "--remat=offload", "--batch=100", "--micro_batch=100", "--seconds=10"} < set(
        arguments["bytenet_512_offload_100"]
    )


def test_the_flags_of_every_measurement_exist():
    """The benchmarks parse them in other processes; here only the names are compared with the definitions."""
    for one in parts.MEASUREMENTS:
        source = (ROOT / f"genre_jax/bench/{one.arguments[0]}.py").read_text()
        for argument in [*one.arguments[1:], *one.small, *(["--peer_python=x"] if one.peers else [])]:
            assert f'("{argument.removeprefix("--").partition("=")[0]}"' in source, (one.name, argument)


def test_results_are_saved_at_once_and_what_fails_leaves_the_rest_alone(fake):
    names = ("first", "wrong", "killed", "lost", "skipped", "nothing")
    record, saved = fake(*map(measurement, names))
    status = {one["name"]: one["status"] for one in record["measurements"]}
    assert status == {
        "first": "ok",
        "wrong": "failed: torch is missing",
        "killed": "failed: the process was killed, as Linux does if memory runs out",
        "lost": "failed: out of memory",
        "skipped": "failed: ValueError: other losses",
        "nothing": "failed: exit status 0",
    }
    assert record["environment"] == {"cpus": 2, "devices": "1 × TPU", "jax": "1"}
    environments = {one["name"]: one["environment"] for one in record["measurements"]}
    assert environments["first"] == {} and environments["lost"] == {"jax": "2"}
    first = record["measurements"][0]
    assert first["command"] == "python -m genre_jax.bench first --flag=1" and first["rows"] == [{"status": "ok"}]
    assert [len(one["measurements"]) for one in saved if one["measurements"][-1]["status"] != "not finished"] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_what_the_time_does_not_suffice_for_is_left_out(fake):
    record, _ = fake(measurement("wrong", 1000), measurement("first", 5), seconds=30)
    long, short = record["measurements"]
    assert long["status"].startswith("left out: ") and long["status"].endswith(" s were left, and it takes about 1000 s")
    assert "command" not in long and short["status"] == "ok"


def test_a_measurement_is_stopped_at_the_end_and_its_rows_are_kept(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(measure.tempfile, "TemporaryDirectory", lambda: contextlib.nullcontext(tmp_path))
    record, saved = fake(measurement("endless", 0.5), seconds=2)
    (one,) = record["measurements"]
    (before,) = saved[0]["measurements"]  # while it ran
    assert before["status"] == "not finished" and before["rows"] == one["rows"]
    assert one["status"] == "stopped: the 8 minutes were over" and one["rows"] == [{"status": "ok", "clips": 3}]
    group = int((tmp_path / "rows.json.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(group, 0)


RECORD = {
    "benchmark": "card",
    "dry_run": False,
    "minutes": 8,
    "environment": {
        "cpus": 16, "devices": "1 × NVIDIA H200", "driver": "NVIDIA H200, 580.1, 143771 MiB", "command": "-m genre_jax.bench card",
        "jax": "0.12", "python": "3.12", "peers": {"torch": "2.13", "torchaudio": None},
    },
    "measurements": [
        {
            "name": "a", "command": "python -m genre_jax.bench dilation --x=1", "status": "failed: out of memory",
            "rows": [
                {"max_dilation": 512, "remat": "lean", "batch": 100, "seconds": 10.0, "micro_batch": 10, "predicted_bytes": 10_400_000_000,
                 "measured_bytes": 13_000_000_000, "host_temp_bytes": 0, "clips_per_second": 76.54, "flops": 2e14, "step_seconds": 1.25,
                 "compile_seconds": 51.23, "status": "ok"},
                {"max_dilation": 16, "remat": "lean", "batch": 100, "seconds": 10.0, "micro_batch": 100, "predicted_bytes": 80_200_000_000,
                 "measured_bytes": None, "host_temp_bytes": 0, "clips_per_second": None, "flops": 1e14, "step_seconds": None,
                 "compile_seconds": 60.0, "status": "out of memory"},
            ],
        },
        {
            "name": "b", "command": "python -m genre_jax.bench train_step --x=1", "status": "stopped: the 8 minutes were over",
            "rows": [],
            "starts": [
                {"network": "resnet101", "library": "genre_jax", "batch": 128, "shape": [224, 224, 1], "step_s": 0.048, "compile_s": 70.0},
                {"network": "resnet101", "library": "torch.compile", "batch": 128, "shape": [224, 224, 1], "skipped": "no torch"},
            ],
        },
        {
            "name": "c", "command": "python -m genre_jax.bench backends --x=1", "status": "ok",
            "rows": [{"dilation": 4, "pass": "weight_gradient", "lax": 0.004, "shift": 0.001, "fastest": "shift",
                      "first_s": {"lax": 0.5, "shift": 1.25}}],
        },
    ],
}  # fmt: skip


def test_tables():
    text = tables.markdown(RECORD)
    assert (
        "1 × NVIDIA H200, driver: NVIDIA H200, 580.1, 143771 MiB, 16 CPU cores" in text and "torchaudio not installed" in text
    )
    assert "| 512 | `lean` | 100 × 10, 10 | 10.40 | 13.00 | 1.25 | 0.0 | 76.5 | 160 | 51.2 | ok |" in text
    assert "| 16 | `lean` | 100 × 10, 100 | 80.20 |  |  | 0.0 |  |  | 60.0 | out of memory |" in text
    assert "| `resnet101` | genre_jax | 128 × 224 × 224 × 1 | 48.00 |  |  |  | 70.0 | second step, a single one |" in text
    assert "| `resnet101` | torch.compile | 128 × 224 × 224 × 1 |  |  |  |  |  | no torch |" in text
    assert "| 4 | weight gradient | 4.000 | 1.000 | `shift` | 1.8 |" in text
    assert "## Front ends\n\nNot measured." in text
    assert text.endswith("## Not measured\n\n- `a`: failed: out of memory\n- `b`: stopped: the 8 minutes were over")
    assert "dry run" not in text and "dry run" in tables.markdown(RECORD | {"dry_run": True})


def test_flags(tmp_path):
    path = tmp_path / "card.json"
    write_json(path, RECORD)
    out, _ = finish(run_module("genre_jax.bench", "card", f"--table={path}", hide=("jax", "matplotlib")))
    assert out == tables.markdown(RECORD) + "\n"
    write_json(path, {"benchmark": "dilation"})
    _, err = finish(run_module("genre_jax.bench", "card", f"--table={path}"), code=1)
    assert err == f"error: --table must name a JSON file that this benchmark wrote; '{path}' is not one\n"
    _, err = finish(run_module("genre_jax.bench", "card", "--only=backend"), code=1)
    assert err.startswith("error: unknown measurement 'backend' (did you mean 'backends'?): choose one of ")
    _, err = finish(run_module("genre_jax.bench", "card", "--peer_python=/no/python"), code=1)
    assert err.startswith("error: --peer_python must be a Python interpreter, but '/no/python' does not run: ")
    out, err = finish(run_module("genre_jax.bench", "card", "--minutes=0.1"), code=1)
    assert "torch_densenet121: left out: " in out and err == "error: nothing was measured (see above)\n"


def test_a_measurement_without_optional_libraries(tmp_path):
    path = tmp_path / "deep" / "card.json"
    hidden = ("librosa", "tensorflow", "matplotlib", "sklearn", "soundfile")
    out, _ = finish(run_module("genre_jax.bench", "card", "--dry_run", "--only=backends", f"--json={path}", hide=hidden))
    record = json.loads(path.read_text())
    (one,) = record["measurements"]
    assert (
        one["status"] == "ok" and {"devices", "jax", "command", "driver", "variables", "peers"} < record["environment"].keys()
    )
    assert "optimization_level=0" in record["environment"]["variables"]["XLA_FLAGS"]
    assert {row["pass"] for row in one["rows"]} == {"forward", "input_gradient", "weight_gradient"}
    assert all(min(row["first_s"].values()) > 0 for row in one["rows"]) and "measured: 1 of 1" in out
    assert "| 2 | weight gradient |" in tables.markdown(record)


@pytest.mark.slow
def test_dry_run(tmp_path):
    path = tmp_path / "card.json"
    finish(run_module("genre_jax.bench", "card", "--dry_run", "--minutes=60", f"--json={path}"))
    record = json.loads(path.read_text())
    assert [one["name"] for one in record["measurements"]] == [one.name for one in parts.MEASUREMENTS]
    for one in record["measurements"]:
        assert one["status"] == "ok" or "No module named 'torch" in one["status"], one
        assert one["rows"]
    text = tables.markdown(record)
    assert "Not measured." not in text and text.count("`log_mel_1024` | 1024 × 1 |") >= 2
