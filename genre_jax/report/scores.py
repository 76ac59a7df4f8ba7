"""The scores of a run: accuracies with intervals and baselines, and every other metric that results.json holds."""

import contextlib

import numpy as np

from genre_jax import metrics
from genre_jax.report import baselines, bounds, formats
from genre_jax.report.runs import LEVELS, Run, finite
from genre_jax.report.tables import INTERVAL, Column, Table
from genre_jax.report.tracks import VOTES

# Metric → (title, how it is written). A metric that is not listed is shown by its key.
METRICS = {
    "accuracy": ("Accuracy", formats.percent),
    "macro_f1": ("Macro F1", formats.percent),
    "macro_precision": ("Macro precision", formats.percent),
    "macro_recall": ("Macro recall", formats.percent),
    "top_k_accuracy": ("Top-k accuracy", formats.percent),
    "mean_average_precision": ("Mean average precision", formats.decimal),
    "roc_auc": ("ROC area", formats.decimal),
    "d_prime": ("d′", formats.decimal),
    "lwlrap": ("lwlrap", formats.decimal),
    "classes_without_positives": ("Classes without positives", formats.number),
}
BASELINES = {
    "rms_centroid": "RMS + spectral centroid, logistic regression",
    "mfcc_means": "Means of 20 MFCCs, logistic regression",
    "musicnn": "musicnn, logistic regression",
}


def levels(results: dict) -> list[tuple[str, int | None, tuple[str, ...], dict]]:
    """(title, examples, path, metric → value) of each level and voting rule that results.json has, tracks first."""
    rows: list[tuple[str, int | None, tuple[str, ...], dict]] = []
    for key, level in reversed(LEVELS.items()):
        entry, count = results.get(key, {}), results.get(level)
        title = f"Per {level[:-1]}"
        rules = [(rule, entry[rule]) for rule in ("max_probability", "max_logit", "majority") if _is_dict(entry.get(rule))]
        rows += [(f"{title}, {VOTES[rule]}", count, (key, rule), values) for rule, values in rules]
        if not rules and entry:
            rows.append((title, count, (key,), entry))
    return rows


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def accuracy_table(run: Run) -> tuple[Table | None, list[str], str]:
    """The table of accuracies with 95 % intervals of a single-label run, the kind of each row, and why baselines are missing.

    The kinds are "run" and "baseline". The table is None if there are no results.
    """
    if not run.results or run.task != "single":
        return None, [], ""
    lines: list[tuple] = []
    for title, count, path, values in levels(run.results):
        value = values.get("accuracy")
        share = value if 0 <= finite(value) <= 1 else None
        interval = bounds.interval(run, (*path, "accuracy")) if share is not None else None
        lines.append((title, share, interval, count))
    kinds = ["run"] * len(lines)
    baseline_rows, reason = _baseline_rows(run)
    for name, value, count in baseline_rows:
        lines.append((name, value, bounds.wilson(finite(value), finite(count)), count))
        kinds.append("baseline")
    columns = (Column(""), Column("Accuracy", formats.percent), INTERVAL, Column("Examples", formats.number))
    return Table("accuracy", "Accuracy", columns, lines), kinds, reason


def _baseline_rows(run: Run) -> tuple[list[tuple[str, float | None, int | None]], str]:
    """Return the baseline rows of a single-label run, and the reason if some are missing."""
    tracks = (run.results or {}).get("tracks", 0)
    scores, reason = None, "the data set is no longer there"
    with contextlib.suppress(OSError, ValueError, KeyError):
        if run.folder and run.results:
            scores, reason = baselines.cached_score(run.folder, run.train_split, run.results["split"])
    rows: list = [(BASELINES[name], value, tracks) for name, value in (scores or {}).items()]
    if run.predictions:
        truth = metrics.group_targets(run.predictions["target"], run.predictions["track"])
        truth = truth[truth >= 0]
        if len(truth):
            share = metrics.accuracy(truth, np.full_like(truth, np.argmax(np.bincount(truth))))
            rows.append(("Always the most frequent class", share, tracks))
    return rows, reason


def metric_table(run: Run) -> Table | None:
    """The table of the metrics that `accuracy_table` does not show, a row for each level; None if there are none.

    The rows of the training split, if results.json has it, come last.
    """
    if not run.results:
        return None
    trained = run.results.get("train")
    rows = levels(run.results)
    if isinstance(trained, dict):
        for title, count, path, values in levels(trained):
            rows.append((f"Training split: {title[0].lower()}{title[1:]}", count, path, values))
    numbers = [key for *_, values in rows for key, value in values.items() if not _is_dict(value)]
    keys = [key for key in METRICS if key in numbers] + sorted(set(numbers) - METRICS.keys())
    if run.task == "single" and not trained and "accuracy" in keys:
        keys.remove("accuracy")
    if not keys:
        return None
    columns = (
        Column("Per"),
        Column("Examples", formats.number),
        *(Column(*METRICS.get(key, (key, formats.significant))) for key in keys),
    )
    lines = [(title, count, *(values.get(key) for key in keys)) for title, count, _, values in rows]
    return Table("scores", "Scores", columns, lines)


def headline(run: Run, level: str) -> float | None:
    """The score of a level that compares runs: accuracy (by sum of probabilities), or mean average precision."""
    entry = (run.results or {}).get(level, {})
    if run.task == "multi":
        return entry.get("mean_average_precision")
    rule = entry.get("max_probability")
    return (rule if _is_dict(rule) else entry).get("accuracy")
