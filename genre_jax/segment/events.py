"""Scores of segments against annotated segments, with the definitions and the values of the package sed_eval 0.2.1.

Mesaros, Heittola and Virtanen, "Metrics for polyphonic sound event detection", Applied Sciences 6(6), 2016. A golden file pins
the values (`tests/golden/make_sed_eval.py`). A rate whose denominator is 0 is NaN.
"""

import math
from collections.abc import Sequence

import numpy as np

Event = tuple[float, float, str]  # start s, end s, label


def f_measure(precision: float, recall: float) -> float:
    """Return 2 · precision · recall / (precision + recall); 0 if both are 0."""
    return 0.0 if precision == recall == 0 else 2 * precision * recall / (precision + recall)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _measures(hits: float, reference: float, found: float) -> dict[str, float]:
    precision, recall = _ratio(hits, found), _ratio(hits, reference)
    return {"f_measure": f_measure(precision, recall), "precision": precision, "recall": recall}


class SegmentScores:
    """Segment-based scores: time is cut into segments of `resolution` seconds, a label is active in all that it touches."""

    def __init__(self, labels: Sequence[str], resolution: float = 1.0):
        """Score events with these labels; events with other labels are ignored."""
        self._labels, self._resolution = list(labels), resolution
        self._counts = np.zeros((3, len(labels)))  # hits, reference, found, by class
        self._errors = np.zeros(3)  # substitutions, deletions, insertions

    def add(self, reference: Sequence[Event], found: Sequence[Event]) -> None:
        """Count the events of a recording."""
        length = math.ceil(max((end for _, end, _ in (*reference, *found)), default=0.0) / self._resolution)
        a, b = self._active(reference, length), self._active(found, length)
        self._counts += [(a & b).sum(0), a.sum(0), b.sum(0)]
        hits, wanted, given = (a & b).sum(1), a.sum(1), b.sum(1)
        substituted = np.minimum(wanted, given) - hits
        missing, extra = np.maximum(wanted - given, 0), np.maximum(given - wanted, 0)
        self._errors += [substituted.sum(), missing.sum(), extra.sum()]

    def _active(self, events: Sequence[Event], length: int) -> np.ndarray:
        """Return which labels are active in which segments, bool (segments, labels)."""
        active = np.zeros((length, len(self._labels)), bool)
        for start, end, label in events:
            if label in self._labels:
                first, last = math.floor(start / self._resolution), math.ceil(end / self._resolution)
                active[first:last, self._labels.index(label)] = True
        return active

    def overall(self) -> dict[str, float]:
        """Return F-measure, precision and recall over all classes, and the rates of errors by reference segment."""
        hits, reference, found = self._counts.sum(1)
        rates = [_ratio(count, reference) for count in self._errors]
        names = ("substitution_rate", "deletion_rate", "insertion_rate")
        return {
            **_measures(hits, reference, found), "error_rate": sum(rates), **dict(zip(names, rates, strict=True)),
            "substitutions": self._errors[0], "deletions": self._errors[1], "insertions": self._errors[2],
        }  # fmt: skip

    def by_class(self) -> dict[str, dict[str, float]]:
        """Return the same for each class; a class has no substitutions."""
        scores = {}
        for label, (hits, reference, found) in zip(self._labels, self._counts.T, strict=True):
            missing, extra = _ratio(reference - hits, reference), _ratio(found - hits, reference)
            rates = {"error_rate": missing + extra, "deletion_rate": missing, "insertion_rate": extra}
            scores[label] = _measures(hits, reference, found) | rates
        return scores


class EventScores:
    """Event-based scores: a found event is right if it begins, and ends, near an annotated event of its label.

    Events are matched so that as many as possible are right.
    """

    def __init__(self, labels: Sequence[str], collar: float = 0.2, share: float = 0.5, offsets: bool = True):
        """Score events with these labels; events with other labels are ignored.

        Args:
          labels: the labels.
          collar: seconds by which the start may differ.
          share: the end may differ by this share of the annotated length, or by the collar if that is more.
          offsets: whether the end counts.
        """
        self._labels, self._collar, self._share, self._offsets = list(labels), collar, share, offsets
        self._counts = np.zeros((3, len(labels)))  # hits, reference, found, by class

    def add(self, reference: Sequence[Event], found: Sequence[Event]) -> None:
        """Count the events of a recording."""
        for column, label in enumerate(self._labels):
            a, b = (np.array([event[:2] for event in events if event[2] == label]) for events in (reference, found))
            self._counts[:, column] += self._hits(a, b) if len(a) and len(b) else 0, len(a), len(b)

    def _hits(self, reference: np.ndarray, found: np.ndarray) -> int:
        """Return how many of the events (events, 2) can be matched."""
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import maximum_bipartite_matching

        fit = np.abs(reference[:, None, 0] - found[None, :, 0]) <= self._collar
        if self._offsets:
            margin = np.maximum(self._collar, self._share * (reference[:, 1] - reference[:, 0]))
            fit &= np.abs(reference[:, None, 1] - found[None, :, 1]) <= margin[:, None]
        return int((maximum_bipartite_matching(csr_matrix(fit)) >= 0).sum())

    def overall(self) -> dict[str, float]:
        """Return F-measure, precision and recall over all classes."""
        return _measures(*self._counts.sum(1))

    def by_class(self) -> dict[str, dict[str, float]]:
        """Return the same for each class."""
        return {label: _measures(*counts) for label, counts in zip(self._labels, self._counts.T, strict=True)}
