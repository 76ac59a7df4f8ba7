"""Scores of a table of predictions, in NumPy alone: accuracy, F1, average precision, ROC area, the votes of a group.

Rules that hold throughout: all sums are in float64; a tie for the largest score goes to the lowest class number
(`np.argmax`); a score that is not defined (no examples, no positives) is NaN, and means leave it out.
"""

import statistics

import numpy as np

from genre_jax.console import unknown

TASKS = ("single", "multi")
VOTES = ("max_logit", "max_probability", "majority")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities `(..., classes)` that sum to one, float64."""
    shifted = np.asarray(logits, np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Independent probabilities of the same shape, float64, without overflow at either end."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))


# ---------------------------------------------------------------- one label an example


def accuracy(targets: np.ndarray, predictions: np.ndarray) -> float:
    """Share of equal class numbers in `targets` and `predictions` `(examples,)`; NaN without examples."""
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    return float(np.mean(targets == predictions)) if targets.size else float("nan")


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts `(classes, classes)` int64: row = true class, column = predicted class."""
    pairs = np.asarray(targets, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision_recall_f1(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """`precision`, `recall`, `f1` and `support`, each `(classes,)`, of a confusion matrix (rows = true).

    A quotient with a zero denominator (a class never predicted, or without examples) is 0, as in scikit-learn's
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
    """Unweighted means of `precision`, `recall` and `f1` over the classes that occur as target or as prediction."""
    scores = precision_recall_f1(confusion)
    seen = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return {name: _mean(scores[name][seen]) for name in ("precision", "recall", "f1")}


def wilson_interval(share: float, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share seen in `count` independent trials (95 % by default)."""
    if not count or not np.isfinite(share):
        return float("nan"), float("nan")
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


# ---------------------------------------------------------------- any number of labels an example


def average_precision(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision `(classes,)` of multi-hot `targets` and `scores`, both `(examples, classes)`.

    The step-wise sum over distinct thresholds of (recall gained) x precision, as scikit-learn has it: tied scores enter
    together and nothing is interpolated. NaN for a class without positives.
    """
    return np.array([_average_precision(*column) for column in _columns(targets, scores)])


def mean_average_precision(targets: np.ndarray, scores: np.ndarray) -> tuple[float, int]:
    """(mean over the classes that have positives, number of classes left out because they have none)."""
    values = average_precision(targets, scores)
    return _mean(values), int(np.isnan(values).sum())


def roc_auc(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the ROC curve `(classes,)`: the chance that a positive outranks a negative, ties counting a half.

    NaN for a class without positives or without negatives.
    """
    return np.array([_roc_auc(*column) for column in _columns(targets, scores)])


def d_prime(auc: np.ndarray | float) -> np.ndarray:
    """Sensitivity index sqrt(2) * inverse normal CDF of the ROC area, same shape; ±inf at 1 and 0, NaN stays NaN."""
    normal = statistics.NormalDist()

    def one(area: float) -> float:
        if 0 < area < 1:
            return 2**0.5 * normal.inv_cdf(area)
        return float("nan") if area != area else float("inf") if area else float("-inf")

    areas = np.asarray(auc, np.float64)
    return np.array([one(area) for area in areas.ravel().tolist()]).reshape(areas.shape)


def top_k_accuracy(targets: np.ndarray, scores: np.ndarray) -> float:
    """Pollack's score: each example names as many classes as it has labels; hits / all labels, pooled over examples."""
    targets = np.asarray(targets).astype(bool)
    rank = np.argsort(np.argsort(-np.asarray(scores, np.float64), axis=1, kind="stable"), axis=1)
    named = rank < targets.sum(axis=1, keepdims=True)
    total = int(targets.sum())
    return float((named & targets).sum() / total) if total else float("nan")


# ---------------------------------------------------------------- windows → clips and tracks


def group_sums(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct group numbers ascending `(groups,)`, sums of the rows of `values` in each `(groups, ...)` float64)."""
    order = np.argsort(groups, kind="stable")
    numbers, first = np.unique(np.asarray(groups)[order], return_index=True)
    rows = np.asarray(values, np.float64)[order]
    return numbers, np.add.reduceat(rows, first, axis=0) if len(rows) else rows


def vote_scores(logits: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """What each voting rule adds up over the windows of a group, `(groups, classes)` in ascending group number.

    `logits` is `(windows, classes)`, `groups` int `(windows,)`. 'max_logit' sums logits, 'max_probability' softmax
    probabilities, 'majority' the windows won; a group's answer is the argmax, so that ties go to the lowest class.
    """
    winners = np.eye(logits.shape[1])[np.argmax(logits, axis=1)]
    terms = {"max_logit": logits, "max_probability": softmax(logits), "majority": winners}
    return {rule: group_sums(terms[rule], groups)[1] for rule in VOTES}


def votes(logits: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Voting rule → predicted class of each group, int `(groups,)` in ascending group number (see `vote_scores`)."""
    return {rule: np.argmax(scores, axis=1) for rule, scores in vote_scores(logits, groups).items()}


def group_targets(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The class most windows of a group carry, int `(groups,)`, from multi-hot `labels` `(windows, classes)`."""
    return np.argmax(group_sums(labels, groups)[1], axis=1)


def group_probabilities(logits: np.ndarray, groups: np.ndarray, task: str) -> np.ndarray:
    """Mean probability over the windows of each group, `(groups, classes)`: softmax or, for `task` "multi", sigmoid."""
    probabilities = sigmoid(logits) if task == "multi" else softmax(logits)
    return group_sums(probabilities, groups)[1] / group_sums(np.ones((len(groups), 1)), groups)[1]


def group_labels(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Every label that a window of the group carries: multi-hot uint8 `(groups, classes)`."""
    return (group_sums(labels, groups)[1] > 0).astype(np.uint8)


def summarise(logits: np.ndarray, labels: np.ndarray, loss: np.ndarray, clip: np.ndarray, track: np.ndarray, task: str) -> dict:
    """The `loss`, `raw`, `clip` and `track` entries of results.json from the rows of predictions.npz.

    `logits` and multi-hot `labels` are `(windows, classes)`; `loss`, `clip` and `track` `(windows,)`. Task "single"
    gives the accuracy, per clip and track for each of `VOTES`; "multi" gives mean average precision (classes without
    positives left out and counted), mean ROC area and top-k accuracy, per clip and track of the mean sigmoid
    probabilities. A score that is not defined is None, as JSON has it. Raises `UserError` for another task.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    summary: dict = {"loss": _plain(_mean(np.asarray(loss, np.float64)))}
    levels = {"clip": clip, "track": track}
    if task == "multi":
        summary["raw"] = _multi_label_scores(labels, sigmoid(logits))
        for level, groups in levels.items():
            probabilities = group_probabilities(logits, groups, task)
            summary[level] = _multi_label_scores(group_labels(labels, groups), probabilities)
        return summary
    summary["raw"] = {"accuracy": _plain(accuracy(np.argmax(labels, axis=1), np.argmax(logits, axis=1)))}
    for level, groups in levels.items():
        targets = group_targets(labels, groups)
        answers = votes(logits, groups)
        summary[level] = {rule: {"accuracy": _plain(accuracy(targets, answers[rule]))} for rule in VOTES}
    return summary


def _multi_label_scores(targets: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    mean, left_out = mean_average_precision(targets, scores)
    return {
        "mean_average_precision": _plain(mean),
        "roc_auc": _plain(_mean(roc_auc(targets, scores))),
        "top_k_accuracy": _plain(top_k_accuracy(targets, scores)),
        "classes_without_positives": left_out,
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
