"""Segments: runs of frames with the same decision, with their times, and the formats in which they are printed."""

import itertools
import json
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from genre_jax.console import printable
from genre_jax.segment.slider import SILENCE, Rows
from genre_jax.tag import as_csv as row_of_csv


class Segment(NamedTuple):
    """A part of a recording.

    Attributes:
      start, end: in seconds.
      label: a class of the network, or `SILENCE`.
      probability: mean of the filtered probability of the label over the frames; None for silence.
    """

    start: float
    end: float
    label: str
    probability: float | None


def decisions(rows: Rows, labels: tuple[str, ...]) -> np.ndarray:
    """Return the decision for each frame, int (frames,): the column of the largest probability, or len(labels) for silence."""
    return np.where(rows.silent, len(labels), rows.probabilities.argmax(1)) if len(rows.silent) else np.zeros(0, int)


class Timeline:
    """Joins the decisions for the frames of a recording to segments."""

    def __init__(self, labels: tuple[str, ...], period: float):
        """Begin a recording with frames of `period` seconds."""
        self._names, self._period = (*labels, SILENCE), period
        self._labels = labels
        self._start = self._end = 0  # frames of the segment that is not yet finished
        self._choice, self._sum = -1, 0.0
        self._segments: list[Segment] = []

    def add(self, rows: Rows) -> None:
        """Take the next frames."""
        chosen = decisions(rows, self._labels)
        cuts = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist(), len(chosen)]
        padded = np.concatenate([rows.probabilities, np.zeros((len(chosen), 1))], 1)
        for a, b in itertools.pairwise(cuts):
            if a == b:
                continue
            if chosen[a] != self._choice:
                self._close(self._end * self._period)
                self._start, self._choice, self._sum = self._end, int(chosen[a]), 0.0
            self._sum += float(padded[a:b, chosen[a]].sum())
            self._end += b - a

    def finish(self, seconds: float) -> list[Segment]:
        """Return all segments of a recording of `seconds`; the last one ends there."""
        self._close(seconds)
        return self._segments

    def _close(self, end: float) -> None:
        if self._end > self._start:
            silent = self._choice == len(self._labels)
            mean = None if silent else self._sum / (self._end - self._start)
            self._segments.append(Segment(self._start * self._period, end, self._names[self._choice], mean))


def totals(segments: Iterable[Segment]) -> dict[str, float]:
    """Return label → seconds, the largest first."""
    sums: dict[str, float] = {}
    for segment in segments:
        sums[segment.label] = sums.get(segment.label, 0.0) + segment.end - segment.start
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def clock(seconds: float) -> str:
    """Return h:mm:ss.cc, or m:ss.cc under an hour."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{rest / 100:05.2f}" if hours else f"{minutes}:{rest / 100:05.2f}"
    return f"{hours}:{text}" if hours else text


def as_text(name: str, seconds: float, segments: list[Segment]) -> str:
    """Return a line for each segment and for the total of each label."""
    wide, until = max(len(printable(segment.label)) for segment in segments), len(clock(seconds))
    lines = [f"{name}  ({clock(seconds)}, {len(segments)} segment{'s' if len(segments) > 1 else ''})"]
    for start, end, label, probability in segments:
        share = "" if probability is None else f"  {probability:4.0%}"
        lines.append(f"  {clock(start):>{until}} - {clock(end):>{until}}  {label:<{wide}}{share}".rstrip())
    whole = [f"{label} {clock(length)} ({length / seconds:.1%})" for label, length in totals(segments).items()]
    return "\n".join(map(printable, [*lines, f"  total: {', '.join(whole)}"]))


def as_json(name: str, seconds: float, segments: list[Segment]) -> str:
    """Return one JSON object on one line."""
    parts = [
        {"start": round(start, 3), "end": round(end, 3), "label": label, "probability": share and round(share, 6)}
        for start, end, label, share in segments
    ]
    sums = {label: round(length, 3) for label, length in totals(segments).items()}
    return json.dumps({"file": name, "seconds": round(seconds, 3), "totals": sums, "segments": parts}, allow_nan=False)


CSV_HEADER = "file,start,end,label,probability"


def as_csv(name: str, seconds: float, segments: list[Segment]) -> str:
    """Return a row of CSV for each segment, without the header `CSV_HEADER`."""
    del seconds
    return "\n".join(
        row_of_csv((name, f"{start:.3f}", f"{end:.3f}", label, "" if share is None else f"{share:.6g}"))
        for start, end, label, share in segments
    )


def as_rttm(name: str, seconds: float, segments: list[Segment]) -> str:
    """Return a line of NIST's RTTM for each segment that is not silent; the label is the speaker's name."""
    del seconds
    file = _word(os.path.splitext(os.path.basename(name))[0])
    return "\n".join(
        f"SPEAKER {file} 1 {start:.3f} {end - start:.3f} <NA> <NA> {_word(label)} "
        f"{'<NA>' if share is None else f'{share:.6g}'} <NA>"
        for start, end, label, share in segments
        if label != SILENCE
    )


def as_audacity(name: str, seconds: float, segments: list[Segment]) -> str:
    """Return the label track of Audacity (File › Import › Labels)."""
    del name, seconds
    return "\n".join(f"{start:.6f}\t{end:.6f}\t{printable(label)}" for start, end, label, _ in segments)


def _word(text: str) -> str:
    """Return a text without white space, which would end a field of RTTM."""
    return "_".join(printable(text).split()) or "-"
