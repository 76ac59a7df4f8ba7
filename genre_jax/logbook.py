"""What a run writes down: metrics.jsonl, timings.jsonl, TensorBoard events, environment.json, the line on the console."""

import datetime
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from genre_jax.atomic import write_text
from genre_jax.console import say

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-cpu", "tensorflow-datasets", "librosa")


class Logbook:
    """Appends to a workdir's logs.

    metrics.jsonl holds nothing but what follows from the config, so that a run that was killed and resumed writes the same
    bytes; speeds go to timings.jsonl.
    """

    def __init__(self, workdir: Path, step: int):
        """Cut metrics.jsonl and timings.jsonl back to `step` and go on from there."""
        self._metrics, self._timings = workdir / "metrics.jsonl", workdir / "timings.jsonl"
        cut_back(self._metrics, step)
        earlier = cut_back(self._timings, step)
        self._seconds_before = earlier[-1]["seconds"] if earlier else 0.0
        self._started = time.perf_counter()
        self._board = None
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all starts of the run."""
        return self._seconds_before + time.perf_counter() - self._started

    def metrics(self, step: int, split: str, values: dict[str, float]) -> None:
        _append(self._metrics, {"step": step, "split": split} | values)
        self._to_board(step, split, values)

    def timing(self, step: int, clips_per_second: float, waiting: float) -> None:
        values = {"clips_per_second": round(clips_per_second, 3), "waiting": round(waiting, 4)}
        _append(self._timings, {"step": step, "seconds": round(self.seconds, 3)} | values)
        self._to_board(step, "speed", values)

    def _to_board(self, step: int, group: str, values: dict[str, float]) -> None:
        if self._board:
            for key, value in values.items():
                self._board.add_scalar(f"{group}/{key}", value, step)

    def close(self) -> None:
        if self._board:
            self._board.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that a kill cut short is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def cut_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Keep the lines of steps up to `step`, and return them."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


def _append(path: Path, values: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package → installed version."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def environment(**chosen: str) -> dict[str, str]:
    """Versions, devices, commit and command of this process, and what was chosen at run time, as a flat dict."""
    import jax  # here alone: a process that only writes must not load it, let alone take a device

    devices = jax.devices()
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.orig_argv[1:]),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "hosts": str(jax.process_count()),
        **versions(PACKAGES),
        **chosen,
    }


def _commit() -> str:
    try:
        git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def progress(step: int, total: int, values: dict[str, float], clips_per_second: float, waiting: float, eta: float) -> None:
    """One line on the console."""
    shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
    say(
        f"step {step:>{len(str(total))}}/{total}  {shown}  {clips_per_second:,.1f} clips/s  "
        f"waiting for data {waiting:.0%}  ETA {clock(eta)}"
    )
