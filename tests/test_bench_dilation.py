"""`bench dilation`: its rows are consistent, also if memory runs out, and the figure shows them."""

import csv
import json
import os
import subprocess
import sys

import jax
import pytest
from conftest import ROOT, finish, run_module

from genre_jax import config as configs
from genre_jax.bench import dilation_figure, dilation_point
from genre_jax.console import UserError
from genre_jax.report import figures

NAMES = (
    "target max_dilation remat backend dtype seconds batch micro_batch time_shards temp_bytes host_temp_bytes argument_bytes "
    "output_bytes gradient_bytes predicted_bytes measured_bytes parameter_bytes optimizer_bytes receptive_field_samples "
    "effective_field_samples compile_seconds step_seconds clips_per_second flops status"
)
KEYS = NAMES.split()
HUGE = 100_000_000  # clips, whose audio takes 410 GB

POINT = {
    "max_dilation": 4, "remat": "block", "backend": "auto", "dtype": "float32", "seconds": 0.128, "batch": 1, "micro_batch": 1,
    "time_shards": 1, "width": 112, "steps": 1, "plan_only": True, "dry_run": True, "target": "",
}  # fmt: skip


# A network without blocks, which compiles in a second.
BARE = {"width": 4, "strides": [], "decoder_sets": 0}


def check_measured(row):
    assert list(row) == KEYS and row["status"] == "ok"
    settings = [row[key] for key in ("max_dilation", "remat", "dtype", "seconds", "batch", "micro_batch", "time_shards")]
    assert settings == [4, "block", "float32", 0.128, 2, 1, 1]
    assert row["backend"] in ("lax", "shift", "phases")  # "auto" is resolved
    state = row["parameter_bytes"] + row["optimizer_bytes"]
    audio = 2 * 2 * 2048
    assert row["gradient_bytes"] == row["parameter_bytes"] and row["optimizer_bytes"] > 3 * row["parameter_bytes"]
    assert state + audio < row["argument_bytes"] < state + audio + 2000
    added = row["temp_bytes"] + row["argument_bytes"]  # outputs overwrite the state, and add only the metrics
    assert added < row["predicted_bytes"] < added + 2000 < added + row["output_bytes"]
    assert row["temp_bytes"] > row["gradient_bytes"] and row["host_temp_bytes"] == 0
    assert row["measured_bytes"] > 50e6  # the interpreter is resident too
    assert row["receptive_field_samples"] >= row["effective_field_samples"] > 1
    assert row["compile_seconds"] > 0 and row["flops"] > 0
    assert row["clips_per_second"] == pytest.approx(2 / row["step_seconds"])


ARGUMENTS = ("--dry_run", "--max_dilation=4", "--remat=block", "--micro_batch=1", "--steps=1")


@pytest.mark.slow
def test_a_row(tmp_path):
    path, table = tmp_path / "deep" / "rows.json", tmp_path / "rows.csv"
    out, _ = finish(run_module("genre_jax.bench", "dilation", *ARGUMENTS, "--batch=2", f"--json={path}", f"--csv={table}"))
    written = json.loads(path.read_text())
    assert written["benchmark"] == "dilation" and written["dry_run"]
    assert "jax" in written["environment"] and "--remat=block" in written["environment"]["command"]
    (row,) = written["rows"]
    check_measured(row)
    with table.open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line == {key: str(value) for key, value in row.items()}
    title, shown = out.splitlines()
    assert title.split()[-1] == "status" and shown.split()[:6] == ["4", "block", "float32", "0.128", "2", "1"]
    assert shown.endswith("ok")


@pytest.mark.slow
def test_a_row_after_a_row_that_ran_out_of_memory(tmp_path):
    path = tmp_path / "rows.json"
    finish(run_module("genre_jax.bench", "dilation", *ARGUMENTS, f"--batch={HUGE},2", f"--json={path}"))
    failed, row = json.loads(path.read_text())["rows"]
    assert failed["status"] == "out of memory" and failed["predicted_bytes"] > HUGE * 2 * 2048
    check_measured(row)


def test_a_row_that_ran_out_of_memory_has_the_plan_of_the_compiler(monkeypatch):
    monkeypatch.setattr(dilation_point, "TINY", BARE)
    row = {}
    dilation_point.measure(POINT | {"batch": HUGE, "micro_batch": 1, "plan_only": False}, row.update)
    assert row["status"] == "out of memory"
    assert row["predicted_bytes"] > HUGE * 2 * 2048 > row["parameter_bytes"]
    assert {"temp_bytes", "compile_seconds", "flops"} < set(row) and "step_seconds" not in row


def test_a_point_is_compiled_without_optional_libraries():
    hidden = ["librosa", "tensorflow", "matplotlib", "sklearn", "soundfile"]
    code = f"""
import sys; sys.modules.update(dict.fromkeys({hidden!r}))
from genre_jax.bench import dilation_point
dilation_point.TINY = {BARE!r}
dilation_point.main(["", "measure", {json.dumps(POINT)!r}])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    row = {}
    for line in finish(process)[0].splitlines():
        row |= json.loads(line)
    assert row["status"] == "ok" and row["predicted_bytes"] > 0 and "step_seconds" not in row


@pytest.mark.slow
def test_time_shards_share_a_clip():
    arguments = ("--dry_run", "--max_dilation=4", "--remat=lean", "--time_shards=2", "--dtype=float64")
    out, _ = finish(run_module("genre_jax.bench", "dilation", *arguments))
    assert out.splitlines()[1].endswith("ok")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("kill -9 $$", "out of memory"),  # Linux does so if memory runs out
        ("echo terminate: std::bad_alloc >&2; exit 134", "out of memory"),
        ("echo first >&2; echo what went wrong >&2; exit 3", "failed: what went wrong"),
        ("exit 3", "failed: exit status 3"),
    ],
)
def test_a_point_that_dies_is_a_row(tmp_path, script, status):
    """The parent does not import JAX, because the points need all of the device's memory."""
    fake = tmp_path / "python"
    fake.write_text(f"""#!/bin/sh
if [ "$3" = check ]; then echo '{{"environment": {{}}}}'; exit; fi
echo '{{"backend": "shift"}}'
echo '{{"predicted_bytes": 5000000}}'
{script}
""")
    fake.chmod(0o755)
    path = tmp_path / "rows.json"
    code = f"""
import sys
from absl import flags
from genre_jax.bench import dilation
flags.FLAGS(["dilation", "--max_dilation=4,8", "--remat=lean", "--json={path}"])
sys.executable = {str(fake)!r}
dilation.main([])
assert "jax" not in sys.modules
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, _ = finish(process)
    rows = json.loads(path.read_text())["rows"]
    assert [row["max_dilation"] for row in rows] == [4, 8]
    assert [(row["status"], row["predicted_bytes"], row["backend"]) for row in rows] == 2 * [(status, 5_000_000, "shift")]
    assert [line.split()[-len(status.split()) :] for line in out.splitlines()[1:]] == 2 * [status.split()]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max_dilation=16,x"], "--max_dilation must be whole numbers above 0, separated by commas, not '16,x'"),
        (["--seconds=-1"], "--seconds must be numbers above 0, separated by commas, not '-1'"),
        (["--batch=4,6", "--micro_batch=4"], "--micro_batch must divide each --batch, and 4 does not divide 6"),
        (["--max_dilation", "16", "512"], "unknown argument '512': separate the values of a list by commas, as in "
         "--max_dilation=16,512"),
        (["--plot=Makefile"], "--plot must name JSON files that this benchmark wrote; 'Makefile' is not one"),
    ],
)  # fmt: skip
def test_errors_for_illegal_flags(arguments, sentence):
    _, err = finish(run_module("genre_jax.bench", "dilation", *arguments), code=1)
    assert err == f"error: {sentence}\n"


def test_errors_for_unknown_names_come_before_any_compilation():
    out, err = finish(run_module("genre_jax.bench", "dilation", "--remat=block,leen"), code=1)
    assert err.startswith("error: unknown model.remat 'leen' (did you mean 'lean'?): choose one of ") and not out


def test_the_step_has_the_settings_of_the_published_bytenet():
    """The same network, loss, optimiser, schedule and augmentation."""
    expected = configs.flat(configs.load(os.path.join(ROOT, "configs", "bytenet.py:thesis")))
    ours = configs.flat(dilation_point.config_of(POINT | {"seconds": 3.584, "dry_run": False, "max_dilation": 16}))
    same = (
        "optimizer",
        "schedule",
        "loss",
        "augment",
        "model",
        "frontend",
        "ema",
        "gradient_clip",
        "data.samples",
        "data.labels",
    )
    for key, value in expected.items():
        if key.startswith(same) and key != "model.remat":
            assert ours[key] == value, key
    assert ours["data.samples"] == 57_344


def rows_of(*policies, **values):
    default = dict.fromkeys(KEYS) | {"dtype": "float32", "seconds": 3.584, "batch": 1, "micro_batch": 1, "time_shards": 1}
    for policy in policies:
        for number, dilation in enumerate((512, 16)):
            row = default | {"remat": policy, "max_dilation": dilation, "predicted_bytes": 10**9 * (2 + number), "status": "ok"}
            yield row | {"backend": "shift", "clips_per_second": 2.0} | values


def test_figure_has_a_line_per_policy_and_a_cross_if_memory_ran_out(tmp_path):
    first = [*rows_of("block", "lean"), *rows_of("none", status="out of memory", clips_per_second=None)]
    for name, rows in {"first": first, "second": list(rows_of("lean", dtype="bfloat16"))}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"benchmark": "dilation", "rows": rows}))
    out = dilation_figure.plot([tmp_path / "first.json", tmp_path / "second.json"])
    assert out == tmp_path / "first.png"
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("first.png", "first-dark.png"))
    memory, speed = dilation_figure.memory_and_speed(first)(figures.LIGHT).axes
    assert [line.get_label() for line in memory.lines] == ["block", "lean", "none"]
    assert list(memory.lines[0].get_xdata()) == [16, 512] and list(memory.lines[0].get_ydata()) == [3, 2]
    crosses = [[list(at) for at in marks.get_offsets()] for marks in memory.collections if len(marks.get_offsets())]
    assert crosses == [[[16, 3], [512, 2]]]
    assert list(speed.lines[0].get_ydata()) == [2, 2] and not len(speed.lines[2].get_xdata())
    labels = [
        line.get_label()
        for line in dilation_figure.memory_and_speed([*first, *rows_of("lean", dtype="bfloat16")])(figures.LIGHT).axes[0].lines
    ]
    assert labels == ["block, float32", "lean, float32", "none, float32", "lean, bfloat16"]


def test_figure_of_plan_only_rows_has_no_panel_of_speed():
    """The labels name the card."""
    planned = [*rows_of("block"), *rows_of("block", target="h100")]
    for row in planned:
        row["clips_per_second"] = None
    (memory,) = dilation_figure.memory_and_speed(planned)(figures.LIGHT).axes
    assert [line.get_label() for line in memory.lines] == ["block, here", "block, h100"]


def test_error_for_a_figure_without_rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"benchmark": "dilation", "rows": list(rows_of("lean", predicted_bytes=None))}))
    with pytest.raises(UserError, match=r"^there is nothing to draw in .*rows\.json: no row was compiled$"):
        dilation_figure.plot([path])


def test_a_peak_is_measured_from_the_reset():
    from genre_jax.bench import resident

    before = resident.reset_peak()
    jax.block_until_ready(jax.numpy.ones(30_000_000))
    assert before + 100e6 < resident.peak() < before + 400e6
    assert resident.reset_peak() < before + 60e6
