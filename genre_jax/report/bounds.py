"""95 % intervals of the scores of a run, from predictions.npz if it is there.

The bootstrap draws whole tracks, because the windows and clips of a track are alike. An accuracy of tracks, which are
independent trials, has Wilson's interval, which is right for 0 % and 100 % as well. Without predictions all accuracies have it.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from genre_jax import intervals, metrics
from genre_jax.report.runs import LEVELS, Run, finite

MOST = 20_000  # examples of a score that is computed anew for each resample; it takes seconds
RESAMPLES = 200  # of such a score
Bounds = tuple[float, float]


def interval(run: Run, path: Sequence[str]) -> Bounds | None:
    """The interval of the score at a path of results.json, such as track, max_logit, accuracy, or train, raw, accuracy.

    None if the score is missing, or if no interval is known for it.
    """
    results, table = run.results or {}, run.predictions
    if path[0] == "train":
        results, table, path = results.get("train") or {}, run.trained, path[1:]
    level, rule, metric = (path[0], path[1] if len(path) == 3 else "", path[-1]) if 2 <= len(path) <= 3 else ("", "", "")
    value = lookup(results, path) if path else math.nan
    if level not in LEVELS or not math.isfinite(value):
        return None
    count = finite(results.get(LEVELS[level]))
    if metric == "accuracy" and (level == "track" or not table or value in (0, 1)):
        tracks = finite(results.get("tracks"))
        return wilson(value, min(count, tracks) if math.isfinite(tracks) else count)
    if not table or not len(table["clip"]) or metric not in metrics.METRICS[run.task]:
        return None
    if run.task == "single" and level != "raw" and rule not in metrics.VOTES:
        return None
    return _bootstrap(table, run.task, level, rule, metric)


def wilson(share: float, count: float) -> Bounds | None:
    """Wilson's interval of a share of `count` independent examples; None if it is not defined."""
    if not 0 <= share <= 1 or not count >= 1:
        return None
    return intervals.wilson_interval(share, int(count))


def _bootstrap(table: Mapping[str, np.ndarray], task: str, level: str, rule: str, metric: str) -> Bounds | None:
    examples, track = examples_of(table, task, level, rule)
    if metric == "accuracy":
        known = examples.target >= 0
        found = intervals.bootstrap_ratio(known & (examples.answers == examples.target), known, track)
    elif metric == "top_k_accuracy":
        found = intervals.bootstrap_ratio(*metrics.top_k_hits(examples.labels, examples.scores), track)
    elif len(track) <= MOST:
        score = metrics.METRICS[task][metric]
        columns = {"target": examples.target, "labels": examples.labels, "scores": examples.scores}
        found = intervals.bootstrap(
            lambda rows: score(metrics.Examples(rows["target"], rows["labels"], rows["scores"])),
            columns | {"track": track, "clip": np.arange(len(track))},
            resamples=RESAMPLES,
        )
    else:
        return None
    return (found.low, found.high) if math.isfinite(found.low) else None


def examples_of(table: Mapping[str, np.ndarray], task: str, level: str, rule: str) -> tuple[metrics.Examples, np.ndarray]:
    """The examples of a level and voting rule, and the number of the track of each, `(examples,)`."""
    if level == "raw":
        target = table["target"] if task == "single" else np.full(len(table["clip"]), -1)
        return metrics.Examples(target, table["labels"], table["logits"]), table["track"]
    groups = table[level]
    _, first = np.unique(groups, return_index=True)
    labels = metrics.group_labels(table["labels"], groups)
    if task == "multi":
        scores = metrics.group_probabilities(table["logits"], groups, task)
        return metrics.Examples(np.full(len(labels), -1), labels, scores), table["track"][first]
    scores = metrics.vote_scores(table["logits"], groups)[rule]
    return metrics.Examples(metrics.group_targets(table["target"], groups), labels, scores), table["track"][first]


def lookup(values: dict, path: Sequence[str]) -> float:
    """The number at a path of keys in results.json; NaN if there is none. A key may itself contain a slash."""
    for end in range(1, len(path) + 1):
        inner = values.get("/".join(path[:end]))
        if end == len(path):
            return finite(inner)
        if isinstance(inner, dict) and math.isfinite(found := lookup(inner, path[end:])):
            return found
    return math.nan
