"""The first measurements on a machine with an accelerator: `python -m genre_jax.bench card --json=FILE [--minutes=8]`.

The parts, with the most valuable first (`parts.py`):

1. ByteNet on 100 clips of 10 s in bfloat16, at the largest dilations 16 and 512, in micro-batches and with offload: the bytes that
   XLA plans, the peak that the device reports, and clips per second; and the same network in PyTorch with torch.compile.
2. ResNet101 and DenseNet121 against torch.compile. DenseNet121 compiles for minutes, and comes last of all.
3. 1,024 int16 clips of 10 s to log-mel, against torchaudio and torch.stft, with the largest difference of the results.
4. The fastest backend of the dilated convolution, for the forward pass and both gradients, by dilation.
5. Front ends by FFT and by matrix product.

Each measurement is another benchmark in processes of its own, so that one that fails leaves the others alone. What it has measured
is in the JSON file at once. A measurement is left out if the rest of the `--minutes` is shorter than its estimate, and stopped at
their end. The list of what was left out is printed, and `--only=NAME,…` measures it later.

`--table=FILE.json` measures nothing, and prints the Markdown tables of a record. This machine needs JAX, Flax, Optax, NumPy, absl
and ml_collections; torch, torchvision and torchaudio only for the comparisons (in this interpreter or in `--peer_python`).
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from genre_jax.atomic import read_json
from genre_jax.bench.card import tables
from genre_jax.bench.card.parts import MEASUREMENTS, Measurement
from genre_jax.bench.record import machine, write_record
from genre_jax.console import UserError, say, unknown

# This process must not load JAX, because the process that measures needs all of the device's memory.

MINUTES = flags.DEFINE_float("minutes", 8, "Time for everything.", lower_bound=0.01)
ONLY = flags.DEFINE_list("only", [], "Measurements, by name; default: all.")
PEER_PYTHON = flags.DEFINE_string("peer_python", None, "Python interpreter that has torch; default: this one.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Use tiny networks and short clips; takes minutes on a CPU.")
TABLE = flags.DEFINE_string("table", None, "Measure nothing, and print the Markdown tables of this JSON file.")

PEERS = ("torch", "torchvision", "torchaudio")
POLL = 0.5  # seconds between two looks at the file of a measurement


def main(argv: list[str]) -> None:
    """Measure everything that fits into the time, or print the tables of a record."""
    del argv
    if TABLE.value:
        record = read_json(Path(TABLE.value), dict)
        if record.get("benchmark") != "card":
            raise UserError(f"--table must name a JSON file that this benchmark wrote; {TABLE.value!r} is not one")
        say(tables.markdown(record))
        return
    names = [one.name for one in MEASUREMENTS]
    for name in ONLY.value:
        if name not in names:
            raise unknown("measurement", name, names)
    if DRY_RUN.value:  # its figures mean nothing, and compilation would take most of its time
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
    end = time.monotonic() + 60 * MINUTES.value
    record = {"benchmark": "card", "dry_run": DRY_RUN.value, "minutes": MINUTES.value, "environment": environment()}
    record |= {"measurements": []}
    chosen = [one for one in MEASUREMENTS if not ONLY.value or one.name in ONLY.value]
    measure_all(chosen, record, end)
    rest = [result["name"] for result in record["measurements"] if result["status"] != "ok"]
    say(f"\nmeasured: {len(chosen) - len(rest)} of {len(chosen)}")
    for result in record["measurements"]:
        if result["status"] != "ok":
            say(f"{result['name']}: {result['status']}")
    if len(rest) == len(chosen):
        raise UserError("nothing was measured (see above)")
    if rest:
        say(f"to measure the rest: --only={','.join(rest)}")


def environment() -> dict[str, Any]:
    """Return what this machine is, without loading JAX: command, flags of XLA, driver, and the versions of the peers.

    Versions of JAX and the name of the device are added by the first measurement.
    """
    marks = ("XLA_", "JAX_", "NVIDIA_TF32", "TF32")
    variables = {key: value for key, value in sorted(os.environ.items()) if key.startswith(marks)}
    facts = {"command": " ".join(sys.orig_argv[1:]), "variables": variables, "driver": driver()}
    return machine() | facts | {"peers": peers(PEER_PYTHON.value or sys.executable)}


def driver() -> str | None:
    """Return name, driver and memory of the first NVIDIA card as nvidia-smi prints them, or None."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        lines = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        return lines[0].strip() if lines else None
    return None


def peers(python: str) -> dict[str, str | None]:
    """Return package → version, or None if the interpreter `python` does not have it. Raise `UserError` if it does not start."""
    code = (
        "import importlib.metadata as m, json\n"
        f"print(json.dumps({{d.name: d.version for d in m.distributions() if d.name in {PEERS!r}}}))"
    )
    try:
        out = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"--peer_python must be a Python interpreter, but {python!r} does not run: {error}") from error
    found = json.loads(out)
    return {name: found.get(name) for name in PEERS}


def measure_all(chosen: Sequence[Measurement], record: dict[str, Any], end: float) -> None:
    """Run the measurements for which the time suffices until `end` (of `time.monotonic`); add their results to the record."""
    for one in chosen:
        result: dict[str, Any] = {"part": one.part, "name": one.name, "estimate_s": one.seconds}
        record["measurements"].append(result)
        left = end - time.monotonic()
        if left < one.seconds:
            result["status"] = f"left out: {max(0.0, left):.0f} s were left, and it takes about {one.seconds:.0f} s"
        else:
            say(f"\n{one.name} (part {one.part}), {left:.0f} s are left")
            run(one, result, left, lambda: write_record(record))
            _share_environment(record, result)
        write_record(record)


def _share_environment(record: dict[str, Any], result: dict[str, Any]) -> None:
    """Keep what the environments of all measurements share in the record, and what differs in the result."""
    common = record["environment"]
    own = result.pop("environment", {})
    if "devices" not in common:
        common |= {key: value for key, value in own.items() if key not in common}
    result["environment"] = {key: value for key, value in own.items() if common.get(key) != value}


def command_of(one: Measurement, path: str) -> list[str]:
    """Return the command of a measurement, which writes its rows to `path`."""
    arguments = [*one.arguments, *(one.small if DRY_RUN.value else ())]
    if one.peers and PEER_PYTHON.value:
        arguments.append(f"--peer_python={PEER_PYTHON.value}")
    return [sys.executable, "-m", "genre_jax.bench", *arguments, f"--json={path}"]


def run(one: Measurement, result: dict[str, Any], limit: float, save: Callable[[], None]) -> None:
    """Run a measurement for at most `limit` seconds. Its rows enter `result`, and are saved, as soon as it writes them."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        path = Path(folder, "rows.json")
        command = command_of(one, str(path))
        result["command"] = shlex.join(["python", *command[1:-1]])
        seen = 0
        with _child(command, errors) as child:
            while child.poll() is None and time.monotonic() - started < limit:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(min(POLL, max(0.0, limit - time.monotonic() + started)))
                if path.exists() and path.stat().st_mtime_ns != seen:
                    seen = path.stat().st_mtime_ns
                    result |= _rows(path)
                    save()
            code = child.poll()
        result |= _rows(path) | {"seconds": time.monotonic() - started}
        errors.seek(0)
        words = [line.strip() for line in errors if line.strip()]
    result["status"] = _status(code, words, result)


@contextlib.contextmanager
def _child(command: list[str], errors: Any) -> Iterator[subprocess.Popen]:
    """Start a command in a session of its own; at the end of the block it and its children are killed."""
    child = subprocess.Popen(command, stderr=errors, start_new_session=True)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _rows(path: Path) -> dict[str, Any]:
    """Return what a benchmark has written up to now: its rows, its first steps, and its environment."""
    if not path.exists():
        return {}
    written = read_json(path, dict)
    return {key: written[key] for key in ("rows", "starts", "environment") if key in written}


def _status(code: int | None, words: list[str], result: dict[str, Any]) -> str:
    """Return "ok", or what went wrong; `code` is None if the time was over."""
    if code is None:
        return f"stopped: the {MINUTES.value:g} minutes were over"
    reasons = [str(start["skipped"]) for start in result.get("starts", ()) if "skipped" in start]
    reasons += [row["status"] for row in result.get("rows", ()) if row.get("status", "ok") != "ok"]
    if code == 0 and result.get("rows") and not any(row.get("status", "ok") != "ok" for row in result["rows"]):
        return "ok"
    killed = "the process was killed, as Linux does if memory runs out" if code == -signal.SIGKILL else f"exit status {code}"
    return f"failed: {reasons[-1] if reasons else words[-1].removeprefix('error: ') if words else killed}"
