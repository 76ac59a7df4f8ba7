"""Memory and time of ByteNet's training step by dilation: `python -m genre_jax.bench dilation --json=FILE`.

Every combination of the values of the list flags is a row. A row is one full training step (the loss and AMSGrad of
configs/bytenet.py, 67 classes, random int16 audio), compiled and then timed in a fresh process. A step that runs out of memory
is a row, too. With `--target=h100` XLA compiles for a card that is not in this machine, and nothing runs.
`--plot=FILE.json[,FILE…]` draws the rows of earlier runs instead.

The bytes are XLA's plan for one device. "predicted" is temporaries + arguments + outputs - aliased outputs. "measured" is the
peak that the device reports; on a CPU it is the peak of the process's resident memory during the steps, including the
interpreter and the compiler. FLOPs are those of matrix products and convolutions; a loop counts as often as it runs.
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
from genre_jax.bench.record import write_record
from genre_jax.console import UserError

# This process must not load JAX, because the process that is measured needs all of a GPU's memory.

DILATIONS = flags.DEFINE_list("max_dilation", ["16", "512"], "Largest dilations.")
REMAT = flags.DEFINE_list("remat", ["none", "block", "lean"], "Policies of the config key model.remat.")
BACKENDS = flags.DEFINE_list("backend", ["auto"], "Backends of the config key model.backend.")
DTYPES = flags.DEFINE_list("dtype", ["float32"], "Number types of the network.")
SECONDS = flags.DEFINE_list("seconds", ["3.584"], "Lengths of a clip in seconds, at 16 kHz.")
BATCHES = flags.DEFINE_list("batch", ["1"], "Batch sizes, in clips.")
MICRO_BATCH = flags.DEFINE_integer("micro_batch", 0, "Clips per micro-batch; 0 means no micro-batches.", lower_bound=0)
TIME_SHARDS = flags.DEFINE_integer("time_shards", 1, "Devices that split a clip along time.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 112, "Half-width of the blocks.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 3, "Timed steps per row; the table shows their median.", lower_bound=1)
PLAN_ONLY = flags.DEFINE_bool("plan_only", False, "Only compile; shapes may be too large for this machine.")
TARGET = flags.DEFINE_string("target", None, "Compile for an absent card, such as h100; needs --plan_only.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Use a tiny network and clips of 0.128 s; takes seconds.")
CSV = flags.DEFINE_string("csv", None, "Also write the rows to this CSV file.")
PLOT = flags.DEFINE_list("plot", None, "JSON files to draw; the figure is written beside the first.")

KEYS = (
    "target", "max_dilation", "remat", "backend", "dtype", "seconds", "batch", "micro_batch", "time_shards", "temp_bytes",
    "host_temp_bytes", "argument_bytes", "output_bytes", "gradient_bytes", "predicted_bytes", "measured_bytes",
    "parameter_bytes", "optimizer_bytes", "receptive_field_samples", "effective_field_samples", "compile_seconds",
    "step_seconds", "clips_per_second", "flops", "status",
)  # fmt: skip

# Key → title, width and formatter of a column of the table.
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
    """Measure and print every row, or draw the rows of JSON files."""
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}: separate the values of a list by commas, as in --max_dilation=16,512")
    if PLOT.value:
        from genre_jax.bench import dilation_figure

        console.say(f"wrote {dilation_figure.plot([Path(file) for file in PLOT.value])}")
        return
    settings = points()
    rows: list[dict[str, Any]] = []
    record: dict[str, Any] = {"benchmark": "dilation", "dry_run": DRY_RUN.value, "width": WIDTH.value, "steps": STEPS.value}
    code, words = _child("check", settings, record.update)
    if code:
        raise UserError(words.removeprefix("error: "))
    record["environment"]["command"] = " ".join(sys.orig_argv[1:])  # instead of the child's
    console.say("".join(f"{title:>{width}}" for title, width, _ in COLUMNS.values()))
    for point in settings:
        rows.append(dict.fromkeys(KEYS))
        measure(point, rows[-1], lambda: write_record(record | {"rows": rows}))
        _write_csv(rows)


def points() -> list[dict[str, Any]]:
    """Return the settings of each row: the product of the list flags. Raise `UserError` for illegal flags."""
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
    combinations = [dict(zip(lists, values, strict=True)) | shared for values in itertools.product(*lists.values())]
    for point in combinations:
        point["micro_batch"] = MICRO_BATCH.value or point["batch"]
        if point["batch"] % point["micro_batch"]:
            raise UserError(f"--micro_batch must divide each --batch, and {MICRO_BATCH.value} does not divide {point['batch']}")
    return combinations


def _numbers(flag: flags.FlagHolder, kind: type) -> list[Any]:
    """Return the values of a list flag as positive numbers of type `kind`."""
    try:
        values = [kind(text) for text in flag.value]
    except ValueError:
        values = []
    if not values or not all(0 < value < float("inf") for value in values):
        what = "whole numbers" if kind is int else "numbers"
        raise UserError(f"--{flag.name} must be {what} above 0, separated by commas, not {','.join(flag.value)!r}")
    return values


def measure(point: dict[str, Any], row: dict[str, Any], save: Callable[[], None]) -> None:
    """Measure a point in a child process and fill its row. As values arrive, they are printed, and `save` is called."""
    row |= {key: value for key, value in point.items() if key in KEYS and key != "backend"}
    waiting = list(COLUMNS)

    def update(values: dict[str, Any]) -> None:
        row.update(values)
        while waiting and (row[waiting[0]] is not None or row["status"]):
            key = waiting.pop(0)
            _, width, text = COLUMNS[key]
            sys.stdout.write(f"{'-' if row[key] is None else text(row[key]):>{width}}")
        sys.stdout.flush()
        save()

    code, words = _child("measure", point, update)
    if not row["status"]:
        killed = code == -signal.SIGKILL  # Linux kills a process if memory runs out
        update({"status": "out of memory" if killed or "bad_alloc" in words else f"failed: {words or f'exit status {code}'}"})
    sys.stdout.write("\n")


def _child(task: str, argument: Any, update: Callable[[dict[str, Any]], None]) -> tuple[int, str]:
    """Run `dilation_point` and call `update` with each object that it prints; return its exit status and last error line."""
    command = [sys.executable, "-m", "genre_jax.bench.dilation_point", task, json.dumps(argument)]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ  # with it, the peak of a GPU would be all its memory
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


def _write_csv(rows: list[dict[str, Any]]) -> None:
    """Write the rows to the file that `--csv` names."""
    if CSV.value:
        path = Path(CSV.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, KEYS)
            writer.writeheader()
            writer.writerows(rows)
