"""The files of a run, read from its workdir for the report."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np

from genre_jax.console import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a workdir. The value of a missing or damaged file is empty or None.

    Attributes:
      workdir: folder of the run.
      name: name on the page.
      config: contents of config.json.
      environment: contents of environment.json.
      metrics: lines of metrics.jsonl that have a step.
      timings: lines of timings.jsonl.
      results: contents of results.json.
      predictions: columns of predictions.npz.
    """

    workdir: Path
    name: str
    config: dict
    environment: dict
    metrics: list[dict]
    timings: list[dict]
    results: dict | None
    predictions: dict[str, np.ndarray] | None

    @property
    def task(self) -> str:
        """Task of the run, "single" or "multi"."""
        return (self.results or {}).get("task", "single")


def read_run(workdir: Path) -> Run:
    """Read the files of a workdir. Raises `UserError` if it has neither config, results nor metrics."""
    config, results = (_read_json(workdir / name) for name in ("config.json", "results.json"))
    lines = _read_lines(workdir / "metrics.jsonl")
    if config is None and results is None and not lines:
        raise UserError(f"no run in {str(workdir)!r}: a workdir holds config.json, metrics.jsonl or results.json")
    return Run(
        workdir=workdir,
        name=str((results or {}).get("run") or (config or {}).get("name") or workdir.resolve().name),
        config=config or {},
        environment=_read_json(workdir / "environment.json") or {},
        metrics=[line for line in lines if isinstance(line.get("step"), int | float)],
        timings=_read_lines(workdir / "timings.jsonl"),
        results=results,
        predictions=_read_predictions(workdir / "predictions.npz"),
    )


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_lines(path: Path) -> list[dict]:
    """Read the objects of a JSON-lines file, without lines that a crash cut off."""
    if not path.exists():
        return []
    objects = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            objects.append(value)
    return objects


def _read_predictions(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with open(path, "rb") as file, np.load(file) as columns:  # NumPy does not close a damaged file
            return dict(columns)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def distinct(runs: list[Run]) -> list[Run]:
    """Return the runs with the workdir appended to the names that several runs share."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else dataclasses.replace(run, name=f"{run.name} ({run.workdir})") for run in runs]
