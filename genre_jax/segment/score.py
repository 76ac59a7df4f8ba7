"""Score a network on recordings whose segments are known.

    python -m genre_jax.segment.score --workdir=DIR --recordings=DIR [--context=0.5,1,2] [--every=10] [--json=FILE]

The recordings are those of `genre_jax.segment.recordings`. The table has a row for each way to decide a frame: the slid network
with and without the median filter, and the network on windows of each --context around the frame, each by itself with zeros
before it, as in training. Frames that are annotated as silence do not count, and here the network never answers silence. Below
are the scores of the segments that `genre_jax.segment` prints, with the definitions of sed_eval (docs/segment.md).
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from genre_jax import console, metrics, tag_inputs
from genre_jax.atomic import write_whole
from genre_jax.console import UserError, say
from genre_jax.prepare import audio
from genre_jax.segment import arguments, local, networks, recordings, timeline
from genre_jax.segment.events import Event, EventScores, SegmentScores
from genre_jax.segment.networks import Network
from genre_jax.segment.slider import SILENCE, Options, Rows, Slider

_BATCH = 64  # windows that are computed at once
SPEECH = "speech"


def accuracies(confusion: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the scores of a confusion matrix (annotated, found) of frames.

    "accuracy" is the share of right frames, "speech" the accuracy of speech against everything else (None without the class
    speech), and "recall" has the recall of each class, None for a class that does not occur.
    """
    total, of_class = confusion.sum(), confusion.sum(1)
    speech = None
    if SPEECH in labels and total:
        row = labels.index(SPEECH)
        both = confusion[row, row] + np.delete(np.delete(confusion, row, 0), row, 1).sum()
        speech = float(both / total)
    recall = {label: float(confusion[n, n] / of_class[n]) if of_class[n] else None for n, label in enumerate(labels)}
    return {"accuracy": float(np.trace(confusion) / total) if total else None, "speech": speech, "recall": recall}


def annotated(segments: list[timeline.Segment], labels: tuple[str, ...], times: np.ndarray) -> np.ndarray:
    """Return the column of the annotated label at each time in seconds, int (times,); -1 for silence and outside."""
    found = np.full(len(times), -1)
    for start, end, label, _ in segments:
        if label != SILENCE:
            found[(times >= start) & (times < end)] = labels.index(label)
    return found


class Windows:
    """The network on windows of one length, each by itself.

    Attributes:
      seconds: length of the window.
    """

    def __init__(self, network: Network, seconds: float):
        """Prepare windows of `seconds`: for frames of 10 ms, 100 frames a second."""
        self.seconds, self._network = seconds, network
        self._frames = round(seconds * network.sample_rate / network.hop)
        self._samples = (self._frames - 1) * network.hop + network.frame
        self._compiled = networks.classifier(network)

    def probabilities(self, pcm: np.ndarray, every: int) -> np.ndarray:
        """Return the probabilities (frames, labels) for every `every`-th frame of a recording int16 (samples,).

        The window lies around the frame, or at an end of the recording.
        """
        net = self._network
        numbers = np.arange(0, networks.frames_of(net, len(pcm)), every)
        padded = np.pad(pcm, (0, max(0, self._samples - len(pcm)) + net.frame))
        last = max(0, (len(pcm) - self._samples) // net.hop)
        starts = np.clip(numbers - self._frames // 2, 0, last) * net.hop
        made = []
        for n in range(0, len(starts), _BATCH):
            batch = np.zeros((_BATCH, self._samples), np.int16)
            for row, start in zip(batch, starts[n : n + _BATCH], strict=False):
                row[:] = padded[start : start + self._samples]
            made.append(self._compiled(batch)[: len(starts[n : n + _BATCH])])
        return metrics.softmax(np.concatenate(made))


class Scores:
    """The confusion matrices of all ways to decide a frame, and the scores of the segments."""

    def __init__(self, labels: tuple[str, ...], names: list[str]):
        """Score the labels of a network, decided in the ways `names`."""
        self.labels = labels
        self._confusion = {name: np.zeros((len(labels), len(labels)), np.int64) for name in names}
        self._segments = SegmentScores(labels)
        self._events = {"onset_and_offset": EventScores(labels), "onset": EventScores(labels, offsets=False)}

    def frames(self, name: str, truth: np.ndarray, probabilities: np.ndarray) -> None:
        """Count frames with their annotation `truth`, -1 for those that do not count."""
        counted = truth >= 0
        np.add.at(self._confusion[name], (truth[counted], probabilities[counted].argmax(1)), 1)

    def segments(self, reference: list[timeline.Segment], found: list[timeline.Segment]) -> None:
        """Count the segments of a recording, without silence. Segments beside each other with the same label are one."""
        a, b = (_events(parts) for parts in (reference, found))
        self._segments.add(a, b)
        for score in self._events.values():
            score.add(a, b)

    def results(self) -> dict[str, Any]:
        """Return all scores as values that JSON can represent."""
        events = {name: {"overall": score.overall(), "by_class": score.by_class()} for name, score in self._events.items()}
        return {
            "labels": list(self.labels),
            "frames": {name: accuracies(matrix, self.labels) for name, matrix in self._confusion.items()},
            "confusion": {name: matrix.tolist() for name, matrix in self._confusion.items()},
            "segments_of_1_s": {"overall": self._segments.overall(), "by_class": self._segments.by_class()},
            "events": events,
        }


def _events(segments: list[timeline.Segment]) -> list[Event]:
    events: list[Event] = []
    for start, end, label, _ in segments:
        if events and events[-1][1] == start and events[-1][2] == label:
            events[-1] = (events[-1][0], end, label)
        else:
            events.append((start, end, label))
    return [event for event in events if event[2] != SILENCE]


def score(network: Network, files: list[tuple[Path, list[timeline.Segment]]], contexts: list[float], every: int) -> dict:
    """Return the scores of a network on recordings (WAV file, segments); raises `UserError` if a file cannot be read."""
    from threadpoolctl import threadpool_limits

    how, rate, labels = arguments.options(), network.sample_rate, network.labels
    windows = [Windows(network, seconds) for seconds in contexts]
    names = ["slid, median filter", "slid"]
    names += [f"{each.seconds:g} s windows{rest}" for each in windows for rest in (", median filter", "")]
    scores = Scores(labels, names)
    with threadpool_limits(1, "blas"), tag_inputs.Progress(len(files), "score") as progress:  # as in recording.segment
        for path, truth in files:
            try:
                wave = audio.load(path, rate).samples
            except audio.AudioError as error:
                raise UserError(f"{path}: {error}") from error
            raw, silent = _rows(network, how._replace(median=0), wave)
            period = network.hop / rate
            wanted = annotated(truth, labels, (np.arange(len(raw)) + 0.5) * period)
            smooth = _filtered(raw, how.median)
            scores.frames(names[0], wanted, smooth)
            scores.frames(names[1], wanted, raw)
            line = timeline.Timeline(labels, period)
            line.add(Rows(0, smooth, silent))
            scores.segments(truth, line.finish(truth[-1].end))
            pcm = audio.to_pcm(_levelled(network, wave), 1.0)
            for each, name in zip(windows, names[2::2], strict=True):
                found = each.probabilities(pcm, every)
                scores.frames(name, wanted[::every], _filtered(found, round(how.median / every)))
                scores.frames(name.removesuffix(", median filter"), wanted[::every], found)
            progress.within(len(wave) / rate, len(wave) / rate)
            progress.next()
    return scores.results()


def _rows(network: Network, how: Options, wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities (frames, labels) of the slid network, and which frames are silent."""
    slider = Slider(network, how)
    parts = slider.push(wave), slider.finish()
    return np.concatenate([part.probabilities for part in parts]), np.concatenate([part.silent for part in parts])


def _filtered(probabilities: np.ndarray, size: int) -> np.ndarray:
    median = local.median(max(1, size))
    return np.concatenate([median.push(probabilities), median.finish()])


def _levelled(network: Network, wave: np.ndarray) -> np.ndarray:
    if "equalise_loudness" not in network.config.data.conditioning:
        return wave
    loudness = local.levelled(network.sample_rate)
    return np.concatenate([loudness.push(wave), loudness.finish()])


def table(results: dict) -> str:
    """Return the scores as lines of text."""

    def percent(value: float | None) -> str:
        return "-" if value is None or math.isnan(value) else f"{100 * value:.2f}"

    labels = results["labels"]
    head = ["frames (%)", "accuracy", *(["speech/rest"] if SPEECH in labels else []), *(f"recall {label}" for label in labels)]
    rows = [head]
    for name, found in results["frames"].items():
        speech = [percent(found["speech"])] if SPEECH in labels else []
        rows.append([name, percent(found["accuracy"]), *speech, *(percent(found["recall"][label]) for label in labels)])
    whole = results["segments_of_1_s"]["overall"]
    rows += [[], ["segments of 1 s (%)", "F1", "precision", "recall", "error rate", "substituted", "deleted", "inserted"]]
    keys = ("f_measure", "precision", "recall", "error_rate", "substitution_rate", "deletion_rate", "insertion_rate")
    rows.append(["overall", *(percent(whole[key]) for key in keys)])
    for label, found in results["segments_of_1_s"]["by_class"].items():
        rows.append([label, *(percent(found[key]) if key in found else "" for key in keys)])
    rows += [[], ["events (%)", "F1", "precision", "recall"]]
    for name, found in results["events"].items():
        rows.append([name.replace("_", " "), *(percent(found["overall"][key]) for key in keys[:3])])
    return "\n".join(_lines(rows))


def _lines(rows: list[list[str]]) -> Iterator[str]:
    first = max(len(row[0]) for row in rows if row)
    for row in rows:
        yield "  ".join([f"{row[0]:<{first}}", *(f"{cell:>11}" for cell in row[1:])]).rstrip() if row else ""


def define_flags() -> None:
    """Define the flags of this command."""
    arguments.define_flags()
    flags.DEFINE_string("recordings", None, "Folder that genre_jax.segment.recordings wrote.")
    flags.DEFINE_list("context", ["0.5", "1", "2"], "Lengths of the windows in seconds; empty: none.")
    flags.DEFINE_integer("every", 10, "With windows, every how many frames one is scored.", lower_bound=1)
    flags.DEFINE_integer("limit", None, "Score only this many recordings.", lower_bound=1)
    flags.DEFINE_string("json", None, "Write all scores to this file.")


def main(argv: list[str]) -> None:
    """Print the scores."""
    args = flags.FLAGS
    if argv[1:]:
        raise UserError(f"unknown argument {argv[1]!r}: the recordings are named by --recordings")
    if not args.workdir or not args.recordings:
        raise UserError("--workdir=DIR and --recordings=DIR are needed")
    contexts = _contexts(args.context)
    labels, files = recordings.read(Path(args.recordings))
    network = arguments.load()
    if unknown := sorted({part.label for _, parts in files for part in parts} - {*network.labels, SILENCE}):
        raise UserError(
            f"the recordings hold the class {unknown[0]!r}, and {args.workdir} knows {', '.join(network.labels)}: "
            "make recordings of the classes of the run"
        )
    files = files[: args.limit]
    results = score(network, files, contexts, args.every)
    say(f"{len(files)} recordings of {', '.join(labels)}")
    say(table(results))
    if args.json:
        with write_whole(Path(args.json), "w") as file:
            file.write(json.dumps(_finite(results), indent=1) + "\n")


def _finite(value: Any) -> Any:
    """Return nested values with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _contexts(texts: list[str]) -> list[float]:
    try:
        contexts = [float(text) for text in texts if text]
    except ValueError:
        contexts = [math.nan]
    if not all(0.05 <= seconds <= 60 for seconds in contexts):
        raise UserError(f"--context must be lengths of 0.05 to 60 s, as in 0.5,1,2, and was given {','.join(texts)!r}")
    return contexts


if __name__ == "__main__":
    define_flags()
    console.run(main)
