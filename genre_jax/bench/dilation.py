"""What depth of dilation costs ByteNet in bytes and seconds: `python -m genre_jax.bench dilation --json=FILE`.

Every combination of the lists given is a row: one full training step (configs/bytenet.py's loss and AMSGrad, 67 classes, random
int16 audio) in a fresh process, compiled ahead and then timed. Running out of memory is a row too. With `--target=h100` XLA
plans for a card that need not be here, and nothing is run. `--plot=FILE.json[,FILE…]` draws rows that are there.

The bytes are XLA's plan for one device; predicted = temp + arguments + outputs - aliased, all of what a step needs. Measured
is the device's own peak, or on a CPU the peak of resident memory of the process during the steps, interpreter and compiler
in it. FLOPs are those of matrix products, loops counted by their length.
"""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax import console
from genre_jax.atomic import write_json
from genre_jax.console import UserError

# This process must not touch JAX: a GPU's memory belongs to the point that is measured.

DILATIONS = flags.DEFINE_list("max_dilation", ["16", "512"], "Largest dilations.")
REMAT = flags.DEFINE_list("remat", ["none", "block", "lean"], "Policies, of the config key model.remat.")
BACKENDS = flags.DEFINE_list("backend", ["auto"], "Backends of the dilated convolution, of model.backend.")
DTYPES = flags.DEFINE_list("dtype", ["float32"], "Types of the network's compute.")
SECONDS = flags.DEFINE_list("seconds", ["3.584"], "Lengths of a clip at 16 kHz.")
BATCHES = flags.DEFINE_list("batch", ["1"], "Clips a step.")
MICRO_BATCH = flags.DEFINE_integer("micro_batch", 0, "Clips at a time, gradients accumulated; 0 = all at once.", lower_bound=0)
TIME_SHARDS = flags.DEFINE_integer("time_shards", 1, "Devices that share a clip along time.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 112, "Half-width of the blocks.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 3, "Timed steps of a row, of which the median is shown.", lower_bound=1)
PLAN_ONLY = flags.DEFINE_bool("plan_only", False, "Compile and run nothing: shapes that this machine could not hold.")
TARGET = flags.DEFINE_string("target", None, "Compile for a card that need not be here, such as h100; needs --plan_only.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "A tiny network on an eighth of a second: the same rows in seconds.")
JSON = flags.DEFINE_string("json", None, "Write the rows to this file, one by one as they come.")
CSV = flags.DEFINE_string("csv", None, "Write them to this file too.")
PLOT = flags.DEFINE_list("plot", None, "JSON files to draw; the figure lies beside the first.")

KEYS = (
    "target", "max_dilation", "remat", "backend", "dtype", "seconds", "batch", "micro_batch", "time_shards", "temp_bytes",
    "host_temp_bytes", "argument_bytes", "output_bytes", "gradient_bytes", "predicted_bytes", "measured_bytes",
    "parameter_bytes", "optimizer_bytes", "receptive_field_samples", "effective_field_samples", "compile_seconds",
    "step_seconds", "clips_per_second", "flops", "status",
)  # fmt: skip

# Key → title, width and text of a column of the table.
COLUMNS: dict[str, tuple[str, int, Callable[[Any], str]]] = {
    "max_dilation": ("dilation", 8, str),
    "remat": ("remat", 9, str),
    "dtype": ("dtype", 10, str),
    "seconds": ("seconds", 9, "{:g}".format),
    "batch": ("batch", 7, str),
    "micro_batch": ("micro", 7, str),
    "backend": ("backend", 9, str),
    "temp_bytes": ("temp MB", 10, lambda size: f"{size / 1e6:,.0f}"),
    "predicted_bytes": ("predicted", 11, lambda size: f"{size / 1e6:,.0f}"),
    "compile_seconds": ("compile s", 11, "{:.1f}".format),
    "measured_bytes": ("measured MB", 13, lambda size: f"{size / 1e6:,.0f}"),
    "step_seconds": ("step s", 9, "{:.3f}".format),
    "clips_per_second": ("clips/s", 10, "{:,.2f}".format),
    "status": ("  status", 0, lambda status: f"  {status}"),
}


def main(argv: list[str]) -> None:
    """Measure and print every row, or draw files of them."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}: the values of a list follow each other as in --max_dilation=16,512")
    if PLOT.value:
        from genre_jax.bench import dilation_figure

        console.say(f"wrote {dilation_figure.plot([Path(file) for file in PLOT.value])}")
        return
    chosen = points()
    rows: list[dict[str, Any]] = []
    record: dict[str, Any] = {"benchmark": "dilation", "dry_run": DRY_RUN.value, "width": WIDTH.value, "steps": STEPS.value}
    code, words = _child("check", chosen, record.update)
    if code:
        raise UserError(words.removeprefix("error: "))
    record["environment"]["command"] = " ".join(sys.orig_argv[1:])  # not the child's
    console.say("".join(f"{title:>{width}}" for title, width, _ in COLUMNS.values()))
    for point in chosen:
        rows.append(measure(point))
        _write(record | {"rows": rows})


def points() -> list[dict[str, Any]]:
    """What each row asks for: the product of the lists given."""
    lists = {
        "max_dilation": _numbers(DILATIONS, int),
        "dtype": DTYPES.value,
        "seconds": [0.128] if DRY_RUN.value else _numbers(SECONDS, float),
        "batch": _numbers(BATCHES, int),
        "backend": BACKENDS.value,
        "remat": REMAT.value,
    }
    shared: dict[str, Any] = {"time_shards": TIME_SHARDS.value, "width": WIDTH.value, "steps": STEPS.value}
    shared |= {"plan_only": PLAN_ONLY.value, "dry_run": DRY_RUN.value, "target": TARGET.value or ""}
    if TARGET.value and not PLAN_ONLY.value:
        raise UserError(f"--target={TARGET.value} needs --plan_only: what is compiled for a card that is not here cannot run")
    found = [dict(zip(lists, values, strict=True)) | shared for values in itertools.product(*lists.values())]
    for point in found:
        point["micro_batch"] = MICRO_BATCH.value or point["batch"]
        if point["batch"] % point["micro_batch"]:
            raise UserError(f"--micro_batch must divide each --batch, and {MICRO_BATCH.value} does not divide {point['batch']}")
    return found


def _numbers(flag: flags.FlagHolder, kind: type) -> list[Any]:
    try:
        values = [kind(text) for text in flag.value]
    except ValueError:
        values = []
    if not values or not all(0 < value < float("inf") for value in values):
        what = "whole numbers" if kind is int else "numbers"
        raise UserError(f"--{flag.name} must be {what} above 0, separated by commas, and was given {','.join(flag.value)!r}")
    return values


def measure(point: dict[str, Any]) -> dict[str, Any]:
    """The row of a point; its line of the table grows as the values come."""
    row: dict[str, Any] = dict.fromkeys(KEYS)
    row |= {key: value for key, value in point.items() if key in KEYS and key != "backend"}
    waiting = list(COLUMNS)

    def update(values: dict[str, Any]) -> None:
        row.update(values)
        while waiting and (row[waiting[0]] is not None or row["status"]):
            key = waiting.pop(0)
            _, width, text = COLUMNS[key]
            sys.stdout.write(f"{'-' if row[key] is None else text(row[key]):>{width}}")
        sys.stdout.flush()

    code, words = _child("measure", point, update)
    if not row["status"]:
        killed = code == -signal.SIGKILL  # which is the system's answer where memory runs out
        update({"status": "out of memory" if killed or "bad_alloc" in words else f"failed: {words or f'exit status {code}'}"})
    sys.stdout.write("\n")
    return row


def _child(task: str, given: Any, update: Callable[[dict[str, Any]], None]) -> tuple[int, str]:
    """Run `dilation_point`; `update` gets what it prints. Returns its exit status and the last line of its errors."""
    command = [sys.executable, "-m", "genre_jax.bench.dilation_point", task, json.dumps(given)]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ  # or a GPU's peak would be all of it
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as child,
    ):
        assert child.stdout
        for line in child.stdout:
            update(json.loads(line))
        code = child.wait()
        errors.seek(0)
        words = [line.strip() for line in errors if line.strip()]
    return code, words[-1] if words else ""


def _write(record: dict[str, Any]) -> None:
    for path in (Path(file) for file in (JSON.value, CSV.value) if file):
        path.parent.mkdir(parents=True, exist_ok=True)
    if JSON.value:
        write_json(Path(JSON.value), record)
    if CSV.value:
        with Path(CSV.value).open("w", newline="") as file:
            writer = csv.DictWriter(file, KEYS)
            writer.writeheader()
            writer.writerows(record["rows"])
