"""Do the probabilities of a network mean what they say? Reliability, calibration error, Brier score, thresholds per class.

Everything takes probabilities, such as those of `metrics.group_probabilities`. A score that is not defined is NaN.
"""

from typing import NamedTuple

import numpy as np

from genre_jax.metrics import threshold_counts


class Reliability(NamedTuple):
    """The reliability diagram: values of each bin `(bins,)`, NaN in a bin without examples.

    Attributes:
      centre: middle of the bin.
      confidence: mean confidence of its examples.
      accuracy: share of its examples that are right.
      examples: number of its examples, int64.
    """

    centre: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    examples: np.ndarray


class Thresholds(NamedTuple):
    """A decision threshold for each class, and what it scores; all `(classes,)` float64.

    Attributes:
      threshold: a class is predicted if its probability is at least this; NaN for a class without positives, which is
        then never predicted.
      precision: share of the predictions that are right; 0 without predictions.
      recall: share of the positives that are predicted; NaN without positives.
      f1: harmonic mean of both; NaN without positives.
    """

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def confidences(target: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (probability of the predicted class, whether it is the target), both `(examples,)`, of a single-label task.

    Args:
      target: class number, int `(examples,)`; examples with -1 (no label) are left out.
      probabilities: `(examples, classes)`.
    """
    target = np.asarray(target)
    probabilities = np.asarray(probabilities)[target >= 0]
    answers = np.argmax(probabilities, axis=1)
    return probabilities[np.arange(len(answers)), answers], answers == target[target >= 0]


def pairs(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (probability, whether it is a label) of all pairs of example and class, `(examples x classes,)`, multi-label."""
    return np.asarray(probabilities).ravel(), np.asarray(labels).ravel() != 0


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> Reliability:
    """Return the reliability diagram of `confidence` in [0, 1] and `correct` (bool), both `(examples,)`.

    The bins have the same width. A bin holds its upper edge and not its lower edge, except that 0 is in the first bin
    (Guo et al., "On Calibration of Modern Neural Networks", 2017).
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], confidence)
    count = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (confidence, correct))
    confidence, accuracy = (np.divide(values, count, out=np.full(bins, np.nan), where=count > 0) for values in sums)
    return Reliability((edges[1:] + edges[:-1]) / 2, confidence, accuracy, count)


def expected_calibration_error(curve: Reliability) -> float:
    """Return the mean of |accuracy - confidence| over the examples, in [0, 1], after Guo et al. 2017; NaN without examples."""
    used = curve.examples > 0
    if not used.any():
        return float("nan")
    return float(np.average(np.abs(curve.accuracy - curve.confidence)[used], weights=curve.examples[used]))


def brier_score(target: np.ndarray, probabilities: np.ndarray) -> float:
    """Return Brier's score, in [0, 2], of a single-label task: the squared error summed over classes, mean over examples.

    `target` is `(examples,)`, where -1 (no label) leaves an example out, and `probabilities` is `(examples, classes)`.
    """
    target = np.asarray(target)
    values = np.asarray(probabilities, np.float64)[target >= 0]
    target = target[target >= 0]
    # |p - e|^2 = |p|^2 - 2 p_target + 1, without a table of one-hot targets
    errors = np.einsum("ij,ij->i", values, values) - 2 * values[np.arange(len(values)), target] + 1
    return float(errors.mean()) if len(errors) else float("nan")


def brier_score_of_pairs(probability: np.ndarray, label: np.ndarray) -> float:
    """Return the mean squared error, in [0, 1], of the result of `pairs`: the Brier score of a multi-label task."""
    errors = np.square(np.asarray(probability, np.float64) - label)
    return float(errors.mean()) if errors.size else float("nan")


def thresholds(labels: np.ndarray, probabilities: np.ndarray) -> Thresholds:
    """Return for each class the threshold with the best F1 on these examples, and its scores.

    Choose on the validation split, and score other splits by `apply_thresholds`. All distinct probabilities are tried; of
    equally good thresholds the highest is taken.

    Args:
      labels: multi-hot, `(examples, classes)`.
      probabilities: `(examples, classes)`.
    """
    labels, probabilities = np.asarray(labels) != 0, np.asarray(probabilities)
    best = np.full(probabilities.shape[1], np.nan)
    for number in range(len(best)):
        values, hits, accepted, _ = threshold_counts(labels[:, number], probabilities[:, number])
        if len(values):
            best[number] = values[np.argmax(2 * hits / (hits[-1] + accepted))]
    return apply_thresholds(labels, probabilities, best)


def apply_thresholds(labels: np.ndarray, probabilities: np.ndarray, threshold: np.ndarray) -> Thresholds:
    """Return the scores of the thresholds `(classes,)` on multi-hot labels and probabilities, both `(examples, classes)`."""
    positive, predicted = np.asarray(labels) != 0, np.asarray(probabilities) >= threshold
    hits, positives, accepted = (np.count_nonzero(x, axis=0) for x in (positive & predicted, positive, predicted))
    precision = hits / np.maximum(accepted, 1)
    undefined = np.where(positives > 0, 0.0, np.nan)
    recall = hits / np.maximum(positives, 1) + undefined
    f1 = 2 * hits / np.maximum(positives + accepted, 1) + undefined
    return Thresholds(np.asarray(threshold, np.float64), precision, recall, f1)
