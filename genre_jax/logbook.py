"""What a run records: metrics.jsonl, timings.jsonl, TensorBoard events, environment.json, and progress on the console.

JAX is imported inside the functions that need it, because the report imports this module on machines without JAX.
"""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax import hosts
from genre_jax.atomic import write_text
from genre_jax.console import UserError, say

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-cpu", "tensorflow-datasets", "librosa")


class Logbook:
    """The logs of a workdir, which are appended to; on several hosts, by the first one.

    metrics.jsonl holds only numbers that follow from the config, so that a run that was killed and resumed writes the same
    bytes. Speeds go to timings.jsonl.
    """

    def __init__(self, workdir: Path, step: int):
        """Remove the lines after `step`, where the run starts or resumes."""
        self._metrics, self._timings = workdir / "metrics.jsonl", workdir / "timings.jsonl"
        self._writes = hosts.is_first()
        self._started, self._seconds_before = time.perf_counter(), 0.0
        self._board = None
        if self._writes:
            cut_back(self._metrics, step)
            earlier = cut_back(self._timings, step)
            self._seconds_before = earlier[-1]["seconds"] if earlier else 0.0
            if importlib.util.find_spec("tensorboardX"):
                self._board = _Board(workdir / "tensorboard", step + 1)

    @property
    def seconds(self) -> float:
        """Seconds of training up to now, over all starts of the run."""
        return self._seconds_before + time.perf_counter() - self._started

    def metrics(self, step: int, split: str, values: dict[str, float]) -> None:
        """Record the metrics of a split at a step."""
        self._record(self._metrics, {"step": step, "split": split} | values)
        self._to_board(step, split, values)

    def timing(self, step: int, clips_per_second: float, waiting: float) -> None:
        """Record the speed, and the share of the time spent waiting for data, since the last record."""
        values = {"clips_per_second": round(clips_per_second, 3), "waiting": round(waiting, 4)}
        self._record(self._timings, {"step": step, "seconds": round(self.seconds, 3)} | values)
        self._to_board(step, "speed", values)

    def _record(self, path: Path, values: dict[str, Any]) -> None:
        if self._writes:
            _append(path, values)

    def _to_board(self, step: int, group: str, values: dict[str, float]) -> None:
        if self._board:
            self._board.add(step, {f"{group}/{key}": value for key, value in values.items()})

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self._board:
            self._board.close()


class _Board:
    """A file of TensorBoard events. tensorboardX's SummaryWriter writes in a thread, in which the error of a full disk is lost.

    Args:
      folder: folder of the event files.
      first: first step of this start; TensorBoard drops what another start wrote from there on.
    """

    def __init__(self, folder: Path, first: int):
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder.mkdir(exist_ok=True)
        self._summary, self._events = summary, event_pb2
        self._writer = EventsWriter(str(folder / "events"))
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.write_event(event_pb2.Event(wall_time=time.time(), step=first, session_log=session))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Write the scalars of a step."""
        for tag, value in values.items():
            summary = self._summary.scalar(tag, value)
            self._writer.write_event(self._events.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class NotFinite(Exception):
    """A loss or gradient that is NaN or infinite, in the `metrics` of `step`."""

    def __init__(self, step: int, metrics: dict[str, float]):
        super().__init__(
            f"loss {metrics['loss']:g} and gradient norm {metrics['gradient_norm']:g} at step {step} are not finite"
        )
        self.step, self.metrics = step, metrics


Rows = list[tuple[int, dict[str, float]]]  # (step, metrics) of steps that are not recorded yet


class Meter:
    """Measures the steps of a run: collects their metrics, and at `record` checks, averages, records and shows them.

    A record averages the steps since the last record. Records are due at log, evaluation and checkpoint steps. A run that is
    interrupted between them saves the rows of `take`, so that the resumed run averages over the same steps.

    Args:
      logbook: where the records go.
      batch_size: clips per step.
      total: steps of the run.
      most: steps that may fail, `config.train.skip_nonfinite`.
      skipped: steps that failed before.
      rows: what `take` returned when the run was interrupted.
    """

    IN_FLIGHT = 2  # steps that may run behind the host

    def __init__(self, logbook: Logbook, batch_size: int, total: int, most: int = 0, skipped: int = 0, rows: Sequence = ()):
        self.logbook, self.batch_size, self.total, self.most = logbook, batch_size, total, most
        self.pending: list[tuple[int, dict[str, Any]]] = list(rows)
        self.skipped = skipped - sum(not _finite(metrics) for _, metrics in rows)  # `record` counts these again
        self.timed = 0  # steps since the clock was restarted
        self.speeds: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Restart the clock, so that an evaluation counts in no speed."""
        self.started, self.waited, self.timed = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Take the metrics of a step on the device, and wait until few steps are in flight."""
        import jax

        self.pending.append((step, metrics))
        self.timed += 1
        if len(self.pending) > self.IN_FLIGHT:
            jax.block_until_ready(self.pending[-1 - self.IN_FLIGHT][1])

    def take(self) -> Rows:
        """Return the metrics of the steps since the last record, and forget them."""
        import jax

        rows = [(step, {key: float(value) for key, value in jax.device_get(metrics).items()}) for step, metrics in self.pending]
        self.pending = []
        return rows

    def record(self, step: int, rows: Rows) -> None:
        """Record and show the means of `rows`, without failed steps. Raises `NotFinite` if more steps failed than may."""
        whole = []
        for row in rows:
            if _finite(row[1]):
                whole.append(row[1])
                continue
            self.skipped += 1
            error = NotFinite(*row)
            if self.skipped > self.most:
                raise error
            say(f"{error}: its update is left out ({self.skipped} of {self.most} that train.skip_nonfinite allows)")
        if whole:
            values = {key: float(np.mean([metrics[key] for metrics in whole], dtype=np.float64)) for key in whole[0]}
            values["learning_rate"] = whole[-1]["learning_rate"]
            self.logbook.metrics(step, "train", values)
            self._show(step, values)
        self.restart()

    def _show(self, step: int, values: dict[str, float]) -> None:
        """Record the speed since the clock was restarted, and print a line."""
        seconds = time.perf_counter() - self.started
        speed, waiting = self.timed * self.batch_size / seconds, self.waited / seconds
        self.logbook.timing(step, speed, waiting)
        self.speeds.append(speed)
        recent = self.speeds[1:][-10:] or self.speeds  # the first includes the compilation
        left = (self.total - step) * self.batch_size / max(float(np.median(recent)), 1e-9)
        shown = "  ".join(f"{key} {values[key]:.4g}" for key in ("loss", "accuracy"))
        say(
            f"step {step:>{len(str(self.total))}}/{self.total}  {shown}  {speed:,.1f} clips/s  "
            f"waiting for data {waiting:.0%}  ETA {clock(left)}"
        )


def _finite(metrics: dict[str, float]) -> bool:
    return all(np.isfinite(value) for value in metrics.values())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, without a last line that a kill has cut short. Raises `UserError` for a damaged line."""
    objects = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1] if path.exists() else [], 1):
        try:
            objects.append({"step": int(json.loads(line)["step"]), **json.loads(line)})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"line {number} of {path} is damaged: delete the file, only curves are drawn from it") from error
    return objects


def cut_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Keep the lines of steps up to `step` in the file, and return them."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


def _append(path: Path, values: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package → installed version, or "not installed"."""
    installed = {}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def peak_memory() -> int:
    """The largest memory in bytes of a device up to now; on CPUs, which do not count it, of this process."""
    import jax

    known = [device.memory_stats() for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in known if stats and "peak_bytes_in_use" in stats]
    return max(peaks) if peaks else peak_resident()


def peak_resident() -> int:
    """The largest resident memory of this process up to now, in bytes."""
    import resource

    status = Path("/proc/self/status")  # on Linux ru_maxrss may be that of the parent process
    if status.exists():
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def environment(**chosen: str) -> dict[str, str]:
    """Versions, devices, commit and command of this process, and the choices made at run time, as a flat dict."""
    import jax

    devices, system = jax.devices(), platform.uname()
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.orig_argv[1:]),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": " ".join((system.system, system.release, system.machine)),
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
