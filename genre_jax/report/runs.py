"""The files of a run, read from its workdir for the report. What is damaged is left out, with a sentence that says so."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from genre_jax.console import UserError, printable
from genre_jax.report import predictions

LARGEST = 1e100  # a larger number in a log is a fault, and no axis can show it
LATEST = 2**53  # steps and counts are whole numbers in float64
DEEPEST = 30  # levels of a JSON file
TEXTS = ("run", "split", "data_set", "task", "directory")  # entries of results.json
NUMBERS = (
    *("step", "sample_rate", "windows", "clips", "tracks", "parameters", "train_seconds", "clips_per_second", "loss"),
    *("flops_per_clip", "peak_memory_bytes"),
)
# Names of splits, or parts of them: "fold1+fold2", "train[0:100]", "train[:-100@7]".
SPLIT = re.compile(r"[\w.-]+(\[-?\d*:-?\d*(@\d+)?\])?(\+[\w.-]+(\[-?\d*:-?\d*(@\d+)?\])?)*")
LEVELS = {"raw": "windows", "clip": "clips", "track": "tracks"}  # entries with scores → their examples
SCORES = (*LEVELS, "train", "classes")  # entries of scores, nested


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
      results: contents of results.json, with the entries of `TEXTS`, `NUMBERS` and `SCORES`.
      predictions: columns of predictions.npz.
      trained: columns of predictions-train.npz, which scores the training split.
      faults: a sentence for each file that is damaged.
    """

    workdir: Path
    name: str
    config: dict
    environment: dict
    metrics: list[dict]
    timings: list[dict]
    results: dict | None
    predictions: dict[str, np.ndarray] | None
    trained: dict[str, np.ndarray] | None = None
    faults: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """Task of the run, "single" or "multi"."""
        return (self.results or {}).get("task", "single")

    @property
    def folder(self) -> Path | None:
        """Folder of the prepared data set, or None if it is not known or no longer there."""
        directory = (self.results or {}).get("directory")
        with contextlib.suppress(OSError, ValueError):  # a name that is too long, or contains a zero
            if directory and (Path(directory) / "passport.json").exists():
                return Path(directory)
        return None

    @property
    def train_split(self) -> str:
        """Name of the training split; its default if the config does not say it."""
        data = self.config.get("data")
        split = data.get("train") if isinstance(data, dict) else None
        return split if isinstance(split, str) and SPLIT.fullmatch(split) else "train"


def read_run(workdir: Path) -> Run:
    """Read the files of a workdir. Raises `UserError` if it has neither config, results nor metrics."""
    faults: list[str] = []
    config, results, environment = (
        _read_json(workdir / name, faults) for name in ("config.json", "results.json", "environment.json")
    )
    lines = _read_lines(workdir / "metrics.jsonl", faults)
    if config is None and results is None and not lines:
        found = f" ({'; '.join(faults)})" if faults else ""
        raise UserError(f"no run in {str(workdir)!r}: a workdir holds config.json, metrics.jsonl or results.json{found}")
    results = None if results is None else _legal_results(results, faults)
    trained = _read_predictions(workdir / "predictions-train.npz", faults)
    if results and trained and "train" in results:
        results["train"] = _counts(trained) | results["train"]
    name = str((results or {}).get("run") or (config or {}).get("name") or workdir.resolve().name)
    return Run(
        workdir=workdir,
        name=printable(name),
        config=config or {},
        environment=environment or {},
        metrics=[line for line in lines if 0 <= finite(line.get("step")) < LATEST],
        timings=_read_lines(workdir / "timings.jsonl", faults),
        results=results,
        predictions=_read_predictions(workdir / "predictions.npz", faults),
        trained=trained,
        faults=tuple(faults),
    )


def finite(value: object) -> float:
    """Returns a number of a JSON file as float. It is NaN if the value is not a number, or exceeds `LARGEST`."""
    return float(value) if isinstance(value, int | float) and abs(value) <= LARGEST else float("nan")


def _read_json(path: Path, faults: list[str]) -> dict | None:
    """Returns the object in a JSON file, or None if the file is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        faults.append(f"{path.name} cannot be read: {error.strerror}")
        return None
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and _depth_is_legal(value):
        return value
    faults.append(f"{path.name} is damaged and left out: it is not a JSON object")
    return None


def _depth_is_legal(value: object, left: int = DEEPEST) -> bool:
    """Whether a JSON value has at most `left` levels. Deeper values would exhaust Python's stack when they are printed."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left > 0 and all(_depth_is_legal(item, left - 1) for item in inner)


def _legal_results(results: dict, faults: list[str]) -> dict:
    """Returns the entries of results.json that have the types that the page expects; a sentence names the others."""
    legal: dict[str, Any] = {}
    for key in (*TEXTS, *NUMBERS, *SCORES):
        if key in results:
            value = results[key]
            if _is_legal(key, value):
                legal[key] = value
            else:
                faults.append(f"results.json is damaged, and its entry {key!r} is left out")
    return legal


def _is_legal(key: str, value: object) -> bool:
    """Whether an entry of results.json has its type."""
    if key == "task":
        return value in ("single", "multi")
    if key == "split":
        return isinstance(value, str) and SPLIT.fullmatch(value) is not None
    if key in TEXTS:
        return isinstance(value, str)
    if key in LEVELS.values():
        return isinstance(value, int) and 0 <= value < LATEST
    if key in NUMBERS:
        return value is None or isinstance(value, int | float)
    return isinstance(value, dict) and _are_scores(value)


def _are_scores(value: object) -> bool:
    """Whether a value is a number, None, or a map from names to such values."""
    if isinstance(value, dict):
        return all(_are_scores(inner) for inner in value.values())
    return value is None or isinstance(value, int | float)


def _read_lines(path: Path, faults: list[str]) -> list[dict]:
    """Returns the objects of a JSON-lines file, without damaged lines. A last line that is still being written is no fault."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        faults.append(f"{path.name} cannot be read: {error.strerror}")
        return []
    objects: list[dict] = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and _depth_is_legal(value):
            objects.append(value)
    whole = lines[:-1]
    if len(objects) < len(whole):
        faults.append(f"{path.name} is damaged, and {len(whole) - len(objects)} of its {len(whole)} lines are left out")
    return objects


def _read_predictions(path: Path, faults: list[str]) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        return predictions.read(path)
    except predictions.Damaged as error:
        faults.append(f"{path.name} is left out: {error}")
        return None


def _counts(table: dict[str, np.ndarray]) -> dict[str, int]:
    """How many windows, clips and tracks a table has, by the names of results.json."""
    return {"windows": len(table["clip"])} | {f"{level}s": len(np.unique(table[level])) for level in ("clip", "track")}


def distinct(runs: list[Run]) -> list[Run]:
    """Return the runs with the workdir appended to the names that several runs share."""
    names = [run.name for run in runs]
    return [
        run if names.count(run.name) == 1 else dataclasses.replace(run, name=printable(f"{run.name} ({run.workdir})"))
        for run in runs
    ]
