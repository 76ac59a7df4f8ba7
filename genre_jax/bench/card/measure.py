"""Run measurements one after the other within a time. No JAX is loaded here: a measurement needs all memory of the device."""

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
from typing import Any, NamedTuple

from genre_jax.atomic import read_json
from genre_jax.bench.card.parts import Measurement
from genre_jax.console import UserError, say

PEERS = ("torch", "torchvision", "torchaudio")
POLL = 0.5  # seconds between two looks at the file of a measurement


def environment(peer_python: str) -> dict[str, Any]:
    """Return what this machine is, without loading JAX: command, flags of XLA, driver, and the versions of the peers.

    Versions of JAX and the name of the device are added by the first measurement.
    """
    marks = ("XLA_", "JAX_", "NVIDIA_TF32", "TF32")
    variables = {key: value for key, value in sorted(os.environ.items()) if key.startswith(marks)}
    facts = {"command": " ".join(sys.orig_argv[1:]), "variables": variables, "driver": driver()}
    return facts | {"peers": peers(peer_python)}


def driver() -> str | None:
    """Return name, driver and memory of the first NVIDIA card as nvidia-smi prints them, or None."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        lines = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        return lines[0].strip() if lines else None
    return None


def peers(python: str) -> dict[str, str | None]:
    """Return package → version, or None if the interpreter `python` lacks it. Raise `UserError` if it does not start."""
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


class Limits(NamedTuple):
    """When the measurements end (of `time.monotonic`) and the words for it, and the flags that they get."""

    end: float
    over: str
    dry_run: bool = False
    peer_python: str | None = None


def measure_all(chosen: Sequence[Measurement], record: dict[str, Any], limits: Limits, save: Callable[[], None]) -> None:
    """Run the measurements for which the time suffices. Their results enter the record, and `save` is called at each change."""
    for one in chosen:
        result: dict[str, Any] = {"part": one.part, "name": one.name, "estimate_s": one.seconds, "status": "not finished"}
        record["measurements"].append(result)
        left = limits.end - time.monotonic()
        if left < one.seconds:
            result["status"] = f"left out: {max(0.0, left):.0f} s were left, and it takes about {one.seconds:.0f} s"
        else:
            say(f"\n{one.name} (part {one.part}), {left:.0f} s are left")
            run(one, result, limits, save)
            _share_environment(record, result)
        save()


def _share_environment(record: dict[str, Any], result: dict[str, Any]) -> None:
    """Keep what the environments of all measurements share in the record, and what differs in the result."""
    common = record["environment"]
    own = {key: value for key, value in result.pop("environment", {}).items() if key not in ("command", "platform", "time")}
    if "devices" not in common:
        common |= {key: value for key, value in own.items() if key not in common}
    result["environment"] = {key: value for key, value in own.items() if common.get(key) != value}


def command_of(one: Measurement, path: str, limits: Limits) -> list[str]:
    """Return the command of a measurement, which writes its rows to `path`."""
    arguments = [*one.arguments, *(one.small if limits.dry_run else ())]
    if one.peers and limits.peer_python:
        arguments.append(f"--peer_python={limits.peer_python}")
    return [sys.executable, "-m", "genre_jax.bench", *arguments, f"--json={path}"]


def run(one: Measurement, result: dict[str, Any], limits: Limits, save: Callable[[], None]) -> None:
    """Run a measurement until the end of the time. Its rows enter `result`, and are saved, as soon as it writes them."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        path = Path(folder, "rows.json")
        command = command_of(one, str(path), limits)
        result["command"] = shlex.join(["python", *command[1:-1]])
        seen = 0
        with _child(command, errors) as child:
            while child.poll() is None and time.monotonic() < limits.end:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(min(POLL, max(0.0, limits.end - time.monotonic())))
                if path.exists() and path.stat().st_mtime_ns != seen:
                    seen = path.stat().st_mtime_ns
                    result |= _rows(path)
                    save()
            code = child.poll()
        result |= _rows(path) | {"seconds": time.monotonic() - started}
        errors.seek(0)
        words = [line.strip() for line in errors if line.strip()]
    result["status"] = _status(code, words, result) if code is not None else f"stopped: {limits.over}"


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


def _status(code: int, words: list[str], result: dict[str, Any]) -> str:
    """Return "ok", or what went wrong."""
    reasons = [str(start["skipped"]) for start in result.get("starts", ()) if "skipped" in start]
    reasons += [row["status"] for row in result.get("rows", ()) if row.get("status", "ok") != "ok"]
    if code == 0 and result.get("rows") and not any(row.get("status", "ok") != "ok" for row in result["rows"]):
        return "ok"
    killed = "the process was killed, as Linux does if memory runs out" if code == -signal.SIGKILL else f"exit status {code}"
    return f"failed: {reasons[-1] if reasons else words[-1].removeprefix('error: ') if words else killed}"
