"""What the page says about all runs together: scores, curves, confusion matrices, config keys, cost, labels of the data."""

import json
import math
from pathlib import Path

import numpy as np

from genre_jax.console import UserError
from genre_jax.data.locate import read_passport
from genre_jax.report import formats, scores
from genre_jax.report.runs import Run, finite
from genre_jax.report.tables import Column, Table

CURVES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "track_accuracy": "Track accuracy",
    "mean_average_precision": "Mean average precision",
    "top_k_accuracy": "Top-k accuracy",
    "roc_auc": "ROC area",
}
_LEGEND_SPLITS = 12  # splits of a data set in the figure of its labels


def compare(runs: list[Run], links: list[str], output: Path) -> dict:
    """Return the score table, the overlaid learning curves and the differing config keys of several runs."""
    from genre_jax.report import figures

    lines = {run.name: run.metrics for run in runs}
    validation = {key for run in runs for line in run.metrics if line.get("split") == "validation" for key in line}
    shown = {key: title for key, title in CURVES.items() if key in validation or key == "loss"}
    drawn = any(lines.values())
    picture = figures.save(output / "comparison.png", figures.curves(lines, shown), narrow=True) if drawn else None
    return {"scores": _score_table(runs, links), "picture": picture, "differing": _differing(runs)}


def _score_table(runs: list[Run], links: list[str]) -> Table:
    columns = (
        *(Column("Run"), Column("Data set"), Column("Split"), Column("Metric")),
        *(Column(title, formats.percent) for title in ("Track", "Clip", "Window")),
        *(Column("Loss", formats.decimal), Column("Step", formats.number), Column("Training time", formats.duration)),
    )
    rows = []
    for run in runs:
        results = run.results or {}
        metric = "mAP" if run.task == "multi" else "accuracy"
        values = [scores.headline(run, level) for level in ("track", "clip", "raw")]
        rest = [results.get(key) for key in ("loss", "step", "train_seconds")]
        rows.append((run.name, results.get("data_set"), results.get("split"), metric if results else None, *values, *rest))
    return Table("runs", "Scores", columns, rows, links)


def _differing(runs: list[Run]) -> Table | None:
    runs = [run for run in runs if "ensemble" not in run.config]  # an ensemble has no config of its own
    flat = [flatten(run.config) for run in runs]
    keys = sorted({key for config in flat for key in config} - {"name"})
    columns = (Column("Key"), *(Column(run.name) for run in runs))
    rows = [
        (key, *(None if key not in config else json.dumps(config[key], ensure_ascii=False) for config in flat))
        for key in keys
        if any(config.get(key) != flat[0].get(key) for config in flat)
    ]
    return Table("differences", "Config differences", columns, rows) if rows else None


def flatten(config: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def cost_table(runs: list[Run], links: list[str]) -> Table:
    """Parameters, FLOPs, speed and memory of each run."""
    columns = (
        *(Column("Run"), Column("Parameters", formats.number), Column("FLOPs per clip", formats.prefixed)),
        *(Column("Training, clips/s", formats.number), Column("Evaluation, windows/s", formats.number)),
        *(Column("Training time", formats.duration), Column("Peak memory", formats.size)),
    )
    rows = []
    for run in runs:
        results = run.results or {}
        rows.append(
            (
                run.name,
                *(results.get(key) for key in ("parameters", "flops_per_clip")),
                median(run.timings, "clips_per_second"),
                *(results.get(key) for key in ("clips_per_second", "train_seconds", "peak_memory_bytes")),
            )
        )
    return Table("cost", "Cost", columns, rows, links)


def median(timings: list[dict], key: str) -> float | None:
    """The median of a key of timings.jsonl; None if no line has it."""
    values = [value for line in timings if math.isfinite(value := finite(line.get(key)))]
    return float(np.median(values)) if values else None


def labels(runs: list[Run], output: Path) -> tuple[list[dict], Table | None]:
    """Draw the labels of each data set of the runs by class and split; return the figures and the table of all.

    Each figure is {"name", "picture"}. A data set that is no longer there is left out.
    """
    from genre_jax.report import charts, figures

    folders = {run.folder: run.results["data_set"] for run in runs if run.folder and run.results and "data_set" in run.results}
    drawn, rows = [], []
    for place, (folder, name) in enumerate(folders.items(), 1):
        counts, classes = label_counts(folder)
        if counts:
            draw = charts.distribution(dict(list(counts.items())[:_LEGEND_SPLITS]), classes)
            picture = figures.save(output / f"labels-{place}.png", draw, narrow=True)
            drawn.append({"name": formats.text(name), "picture": picture})
            rows += [(name, split, *row) for split, of in counts.items() for row in zip(classes, of.tolist(), strict=True)]
    columns = (Column("Data set"), Column("Split"), Column("Class"), Column("Clips", formats.number))
    return drawn, Table("labels", "Labels of the data", columns, rows) if rows else None


def label_counts(folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Split → clips of each class, int `(classes,)`, and the names of the classes; empty if the passport is damaged."""
    try:
        passport = read_passport(folder)
        classes = [formats.text(name) for name in passport["labels"]]
        counts = {
            formats.text(split): np.array([about["classes"][name] for name in passport["labels"]], np.int64)
            for split, about in passport["splits"].items()
            if "classes" in about
        }
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, []
    return counts, classes
