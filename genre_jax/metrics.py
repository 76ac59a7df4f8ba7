"""Scores of a table of predictions, in NumPy: accuracy, F1, average precision, area under the ROC curve, voting.

All sums are in float64. A tie for the largest score goes to the lowest class number (`np.argmax`). A score that is not
defined (no examples, no positives) is NaN, and means leave it out.
"""

import statistics
from collections.abc import Callable

import numpy as np

from genre_jax.console import pick

VOTES = ("max_logit", "max_probability", "majority")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, `(..., classes)`, float64."""
    shifted = np.asarray(logits, np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logistic sigmoid, same shape, float64, without overflow for large logits of either sign."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))


# ---------------------------------------------------------------- single-label


def accuracy(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Return the accuracy, in [0, 1], of class numbers `(examples,)`; NaN without examples."""
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    return float(np.mean(targets == predictions)) if targets.size else float("nan")


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Return counts `(classes, classes)` int64; rows are true classes, columns are predicted classes."""
    pairs = np.asarray(targets, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision_recall_f1(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return `precision`, `recall`, `f1` and `support`, each `(classes,)`, from a confusion matrix (rows are true classes).

    A quotient with a zero denominator (a class without predictions or without examples) is 0, as in scikit-learn with
    `zero_division=0`.
    """
    hits = np.diagonal(confusion).astype(np.float64)
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    return {
        "precision": _quotient(hits, predicted),
        "recall": _quotient(hits, support),
        "f1": _quotient(2 * hits, predicted + support),
        "support": support,
    }


def macro_precision_recall_f1(confusion: np.ndarray) -> dict[str, float]:
    """Return the unweighted means of `precision`, `recall` and `f1` over the classes that occur as target or prediction."""
    scores = precision_recall_f1(confusion)
    seen = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return {name: _mean(scores[name][seen]) for name in ("precision", "recall", "f1")}


def wilson_interval(share: float, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion `share` in `count` independent trials (95 % by default)."""
    if not count or not np.isfinite(share):
        return float("nan"), float("nan")
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


# ---------------------------------------------------------------- multi-label


def average_precision(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the average precision `(classes,)` of multi-hot `targets` and `scores`, both `(examples, classes)`.

    It is the sum over distinct thresholds of (increase of recall) x precision, without interpolation, as in scikit-learn.
    NaN for a class without positives.
    """
    return np.array([_average_precision(*column) for column in _columns(targets, scores)])


def mean_average_precision(targets: np.ndarray, scores: np.ndarray) -> tuple[float, int]:
    """Return (mean average precision over the classes with positives, number of classes without positives)."""
    values = average_precision(targets, scores)
    return _mean(values), int(np.isnan(values).sum())


def roc_auc(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve `(classes,)`.

    It is the probability that a positive scores higher than a negative; a tie counts one half. NaN for a class without
    positives or without negatives.
    """
    return np.array([_roc_auc(*column) for column in _columns(targets, scores)])


def d_prime(auc: np.ndarray | float) -> np.ndarray:
    """Return the sensitivity index sqrt(2) * (inverse normal CDF of the ROC area), same shape.

    The areas 1 and 0 give ±inf; NaN gives NaN.
    """
    normal = statistics.NormalDist()

    def index(area: float) -> float:
        if 0 < area < 1:
            return 2**0.5 * normal.inv_cdf(area)
        return float("nan") if area != area else float("inf") if area else float("-inf")

    areas = np.asarray(auc, np.float64)
    return np.array([index(area) for area in areas.ravel().tolist()]).reshape(areas.shape)


def top_k_accuracy(targets: np.ndarray, scores: np.ndarray) -> float:
    """Return the top-k accuracy after Pollack, in [0, 1], of multi-hot `targets` and `scores`, both `(examples, classes)`.

    k is the number of labels of each example. The score is the number of labels among the k largest scores, divided by
    the number of labels; both are summed over the examples.
    """
    targets = np.asarray(targets).astype(bool)
    rank = np.argsort(np.argsort(-np.asarray(scores, np.float64), axis=1, kind="stable"), axis=1)
    predicted = rank < targets.sum(axis=1, keepdims=True)
    total = int(targets.sum())
    return float((predicted & targets).sum() / total) if total else float("nan")


# ---------------------------------------------------------------- windows → clips and tracks


def group_sums(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (numbers, sums): the distinct `groups` in ascending order, and the sum of the rows of `values` in each, float64.

    Shapes: `values` `(rows, ...)`, `groups` `(rows,)`, numbers `(groups,)`, sums `(groups, ...)`.
    """
    order = np.argsort(groups, kind="stable")
    numbers, first = np.unique(np.asarray(groups)[order], return_index=True)
    rows = np.asarray(values, np.float64)[order]
    return numbers, np.add.reduceat(rows, first, axis=0) if len(rows) else rows


def vote_scores(logits: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Return voting rule → scores `(groups, classes)`, in ascending order of group number.

    The predicted class of a group is the argmax of its scores; a tie goes to the lowest class number.

    Args:
      logits: `(windows, classes)`.
      groups: number of the clip or track of each window, int `(windows,)`.

    The rules: 'max_logit' sums the logits over the windows of a group, 'max_probability' sums their softmax probabilities,
    and 'majority' counts the windows in which the class has the largest logit.
    """
    winners = np.eye(logits.shape[1])[np.argmax(logits, axis=1)]
    terms = {"max_logit": logits, "max_probability": softmax(logits), "majority": winners}
    return {rule: group_sums(terms[rule], groups)[1] for rule in VOTES}


def votes(logits: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Return voting rule → predicted class of each group, int `(groups,)`, in ascending order of group number."""
    return {rule: np.argmax(scores, axis=1) for rule, scores in vote_scores(logits, groups).items()}


def group_targets(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the most frequent class among the windows of each group, int `(groups,)`; `labels` is `(windows, classes)`."""
    return np.argmax(group_sums(labels, groups)[1], axis=1)


def group_probabilities(logits: np.ndarray, groups: np.ndarray, task: str) -> np.ndarray:
    """Return the mean probability over the windows of each group, `(groups, classes)`.

    The probability is a sigmoid for `task` "multi", and a softmax for "single".
    """
    probabilities = sigmoid(logits) if task == "multi" else softmax(logits)
    return group_sums(probabilities, groups)[1] / group_sums(np.ones((len(groups), 1)), groups)[1]


def group_labels(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the union of the labels of the windows of each group, multi-hot uint8 `(groups, classes)`."""
    return (group_sums(labels, groups)[1] > 0).astype(np.uint8)


def summarise(logits: np.ndarray, labels: np.ndarray, loss: np.ndarray, clip: np.ndarray, track: np.ndarray, task: str) -> dict:
    """Compute the entries `loss`, `raw` (per window), `clip` and `track` of results.json from the rows of predictions.npz.

    Args:
      logits: `(windows, classes)`.
      labels: multi-hot, `(windows, classes)`.
      loss: loss of each window, `(windows,)`.
      clip: clip number of each window, `(windows,)`.
      track: track number of each window, `(windows,)`.
      task: a key of `METRICS`. Task "single" scores clips and tracks by each voting rule. Task "multi" scores them by the mean
        sigmoid probability over their windows.

    A score that is not defined is None. Raises `UserError` for another task.
    """
    scores = pick("task", task, METRICS)

    def score(targets: np.ndarray, answers: np.ndarray) -> dict[str, float | None]:
        return {name: _plain(metric(targets, answers)) for name, metric in scores.items()}

    summary: dict = {"loss": _plain(_mean(np.asarray(loss, np.float64)))}
    levels = {"clip": clip, "track": track}
    if task == "multi":
        summary["raw"] = score(labels, sigmoid(logits))
        for level, groups in levels.items():
            summary[level] = score(group_labels(labels, groups), group_probabilities(logits, groups, task))
        return summary
    summary["raw"] = score(np.argmax(labels, axis=1), np.argmax(logits, axis=1))
    for level, groups in levels.items():
        targets = group_targets(labels, groups)
        summary[level] = {rule: score(targets, answers) for rule, answers in votes(logits, groups).items()}
    return summary


# The scores of each task, by name. A metric of task "single" takes class numbers (targets, predictions), both (examples,); a
# metric of task "multi" takes multi-hot targets and scores, both (examples, classes). NaN means that a score is not defined.
METRICS: dict[str, dict[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "single": {"accuracy": accuracy},
    "multi": {
        "mean_average_precision": lambda targets, scores: mean_average_precision(targets, scores)[0],
        "roc_auc": lambda targets, scores: _mean(roc_auc(targets, scores)),
        "top_k_accuracy": top_k_accuracy,
        "classes_without_positives": lambda targets, scores: mean_average_precision(targets, scores)[1],
    },
}


def _columns(targets: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(np.asarray(targets).astype(bool).T, np.asarray(scores, np.float64).T, strict=True))


def _average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_tie]
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / positive.sum())


def _roc_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2
    return float((middle_rank[place][positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
