"""Metrics and speed of the steps of a run, collected, checked and shown."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from genre_jax.checkpoint import Checkpoints
from genre_jax.console import UserError
from genre_jax.data.batches import Batch
from genre_jax.logbook import Logbook, progress


class Meter:
    """Collects the metrics of each step, and at `flush` checks, averages, writes and shows them.

    A log line averages the steps since the last line; lines fall on log, evaluation and checkpoint steps, so that a resumed
    run averages over the same steps.
    """

    IN_FLIGHT = 2  # steps that may run behind the host

    def __init__(self, run: Any, logbook: Logbook, step: int, checkpoints: Checkpoints):
        self.run, self.logbook, self.checkpoints = run, logbook, checkpoints
        self.pending: list[tuple[int, dict[str, jax.Array], np.ndarray]] = []
        self.speeds: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Start the clock anew, so that evaluation counts in no speed."""
        self.started, self.waited = time.perf_counter(), 0.0

    def next(self, batches: Iterator[Batch]) -> Batch:
        before = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - before
        return batch

    def add(self, step: int, metrics: dict[str, jax.Array], clips: np.ndarray) -> None:
        self.pending.append((step, metrics, clips))
        if len(self.pending) > self.IN_FLIGHT:
            jax.block_until_ready(self.pending[-1 - self.IN_FLIGHT][1])

    def flush(self, step: int) -> None:
        rows = [(at, jax.device_get(metrics), clips) for at, metrics, clips in self.pending]
        self.pending = []
        for at, metrics, clips in rows:
            if not all(np.isfinite(value) for value in metrics.values()):
                self._stop(at, metrics, clips)
        values = {key: float(np.mean([row[1][key] for row in rows], dtype=np.float64)) for key in rows[0][1]}
        values["learning_rate"] = float(rows[-1][1]["learning_rate"])
        self.logbook.metrics(step, "train", values)
        seconds = time.perf_counter() - self.started
        speed = len(rows) * self.run.config.train.batch_size / seconds
        waiting = self.waited / seconds
        self.logbook.timing(step, speed, waiting)
        self.speeds.append(speed)
        recent = self.speeds[1:][-10:] or self.speeds  # the first holds the compilation
        left = (self.run.total - step) * self.run.config.train.batch_size / float(np.median(recent))
        progress(step, self.run.total, {key: values[key] for key in ("loss", "accuracy")}, speed, waiting, left)
        self.restart()

    def _stop(self, step: int, metrics: dict[str, Any], clips: np.ndarray) -> None:
        self.checkpoints.wait()
        good = self.checkpoints.latest()
        names = [self.run.splits["train"].names[clip] for clip in clips]
        raise UserError(
            f"loss {metrics['loss']} and gradient norm {metrics['gradient_norm']} at step {step} are not finite; "
            f"the last good checkpoint is {f'of step {good}' if good else 'none'}; the clips of the batch: {', '.join(names)}"
        )
