"""The Python API of tagging: `Tagger` predicts every window of a file or waveform with trained networks, and returns `Tags`.

A file is decoded in blocks and cut into windows at the hop of the run's evaluation. Memory does not grow with the length of the
file. The blocks of a file of more than `HELD` samples are decoded twice, because scaling to 16 bits and the gain cap need the
largest sample first. If the run was trained on conditioned data (`data.conditioning`), a file is held in memory and conditioned
as a whole, as `prepare` does.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from genre_jax.console import UserError
from genre_jax.prepare import audio, condition, silence

HELD = 1 << 23  # samples of a decoded file that are kept in memory: 32 MB, 8:44 minutes at 16 kHz
_BLOCK = 1 << 16

Progress = Callable[[float, float | None], None]  # of (seconds that are done, seconds of the signal; None while it is decoded)


@dataclasses.dataclass(frozen=True)
class Tags:
    """The predictions for one signal.

    Attributes:
      labels: the labels, in the order of the columns of `probabilities`.
      starts: start of each window in seconds, `(windows,)`.
      window_seconds: length of a window in seconds.
      seconds: length of the signal in seconds.
      probabilities: `(windows, labels)`, in [0, 1].
      embeddings: input of the classifier, `(windows, dimensions)`; with several networks one beside the other.
      task: "single" if a window has one label, "multi" if it may have several.
    """

    labels: tuple[str, ...]
    starts: np.ndarray
    window_seconds: float
    seconds: float
    probabilities: np.ndarray
    embeddings: np.ndarray
    task: str = "single"

    def overall(self) -> dict[str, float]:
        """Return label → mean probability over the windows, the largest first."""
        mean = self.probabilities.mean(0)
        return {self.labels[i]: float(mean[i]) for i in np.argsort(-mean, kind="stable")}

    def segments(self) -> list[tuple[float, float, str, float]]:
        """Return (start s, end s, label, mean probability) for each run of windows with the same most probable label."""
        best = self.probabilities.argmax(1)
        cuts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
        return [
            (
                float(self.starts[a]),
                float(self.starts[b]) if b < len(best) else self.seconds,
                self.labels[best[a]],
                float(self.probabilities[a:b, best[a]].mean()),
            )
            for a, b in itertools.pairwise(cuts)
        ]


class Network(Protocol):
    """What computes the scores of windows.

    Attributes:
      labels: the labels, in the order of the columns of the probabilities.
      task: "single" if a window has one label, "multi" if it may have several.
      sample_rate: in Hz.
      samples: length of a window in samples.
      hop: samples from the start of a window to the start of the next.
      conditioning: steps of `prepare.condition` that are applied to the whole signal.
      batch_size: windows that are scored together.
    """

    labels: tuple[str, ...]
    task: str
    sample_rate: int
    samples: int
    hop: int
    conditioning: list[str]
    batch_size: int

    def scores(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (batch, labels) and embeddings (batch, dimensions) of a batch of windows.

        The batch holds "audio" int16 (batch, samples), and "maximum" float32 (batch,), the largest sample of the signal.
        """


class Tagger:
    """Trained networks that predict on files and waveforms.

    Attributes:
      labels: the labels that are predicted.
      sample_rate: sample rate of the networks' input, in Hz.
      samples: length of a window in samples.
      task: "single" if a window has one label, "multi" if it may have several.
      network: what computes the scores of windows.
    """

    def __init__(self, *sources: str | Path):
        """Load networks that read the same windows. `labels` are those of the first, then those that only later ones have.

        Args:
          sources: a file of `genre_jax.export` (.onnx and .tflite need no JAX). Or for each network a workdir, from which the
            checkpoint that its evaluation uses is taken; a file of `genre_jax.save_pretrained`; or the name of published
            weights. None: `musicnn.BOTH`, with all tags of the first, and of the second those in `musicnn.ADDED`.

        Raises `UserError` if a source is missing or damaged, or if the networks differ in sample rate, window length, hop,
        conditioning or task, or if an exported file stands beside other sources.
        """
        self.network: Network = _opened(sources)
        self.labels, self.task = self.network.labels, self.network.task
        self.sample_rate, self.samples = self.network.sample_rate, self.network.samples

    def predict(self, source: str | Path | bytes | np.ndarray, sample_rate: int | None = None) -> dict[str, float]:
        """Return label → mean probability of a file or waveform, the largest first; the arguments are those of `tags`."""
        return self.tags(source, sample_rate).overall()

    def tags(
        self,
        source: str | Path | bytes | np.ndarray,
        sample_rate: int | None = None,
        hop: float = 0.0,
        progress: Progress | None = None,
    ) -> Tags:
        """Predict every window of a signal.

        Args:
          source: the path of an audio file; its content as bytes, which is decoded in memory; or a waveform `(samples,)` or
            `(channels, samples)`: floats in [-1, 1] or int16.
          sample_rate: sample rate of a waveform in Hz, 1000 to 768000; ignored for a file. The signal is resampled to the
            sample rate of the run.
          hop: seconds from the start of a window to the start of the next; 0: the hop of the run's evaluation.
          progress: called again and again with the seconds that are done and the length of the signal in seconds; the length is
            None while the file is decoded.

        Raises `UserError`, with the path of the file, if the signal cannot be read or used, if the mono mix of a file is
        silent, or if the network computes a number that is not finite.
        """
        if not isinstance(source, str | Path | bytes):
            return self._tags(np.asarray(source), sample_rate, hop, progress)
        name = "the audio" if isinstance(source, bytes) else source
        try:
            return self._tags(source, None, hop, progress)
        except (audio.AudioError, UserError) as error:
            raise UserError(f"{name}: {error}") from error
        except MemoryError as error:
            raise UserError(f"{name}: decoding needs more memory than this machine has free") from error

    def _tags(
        self, source: str | Path | bytes | np.ndarray, sample_rate: int | None, hop: float, progress: Progress | None
    ) -> Tags:
        step = round(hop * self.sample_rate) or self.network.hop
        if step < 1:
            raise UserError(f"hop must be 0 or more seconds, and was given {hop:g}")

        def report(samples: int, total: int | None) -> None:
            if progress:
                progress(samples / self.sample_rate, total and total / self.sample_rate)

        steps = self.network.conditioning
        if isinstance(source, np.ndarray | bytes) or steps:
            wave = condition.apply(steps, self._waveform(source, sample_rate), self.sample_rate)
            decode: Callable[[], Iterable[np.ndarray]] = lambda: [wave]  # noqa: E731
        else:
            decode = functools.partial(audio.stream, source, self.sample_rate, _BLOCK)
        measured, held = _measure(decode(), report)
        if not measured.samples:
            raise UserError("the signal holds no samples")
        if not isinstance(source, np.ndarray) and (fault := silence.fault(measured.peak, source)):
            raise UserError(fault)
        starts, probabilities, embeddings = self._run(windows(held or decode(), self.samples, step), measured, report)
        seconds = starts / self.sample_rate
        finite = np.isfinite(probabilities).all(1) & np.isfinite(embeddings).all(1)
        if not finite.all():
            raise UserError(
                f"the network computes NaN or infinity for {(~finite).sum()} of {len(finite)} windows, first for the window at "
                f"{seconds[np.argmin(finite)]:g} s: its weights cannot be used, train again"
            )
        return Tags(
            labels=self.labels,
            starts=seconds,
            window_seconds=self.samples / self.sample_rate,
            seconds=measured.samples / self.sample_rate,
            probabilities=probabilities,
            embeddings=embeddings,
            task=self.task,
        )

    def _waveform(self, wave: np.ndarray | bytes | str | Path, sample_rate: int | None) -> np.ndarray:
        """Return a waveform or a file, or the content of a file, as mono float32 (samples,) at the sample rate of the run."""
        if not isinstance(wave, np.ndarray):
            with audio.explained():
                return audio.load(wave, self.sample_rate).samples
        low, high = audio.RATES
        if sample_rate is None or not low <= sample_rate <= high:
            raise UserError(f"a waveform needs its sample_rate in Hz, {low} to {high}, and was given {sample_rate}")
        if wave.dtype == np.int16:
            wave = wave / np.float32(32768)
        elif not np.issubdtype(wave.dtype, np.floating):
            raise UserError(f"a waveform must be floats in [-1, 1] or int16, and was given {wave.dtype}")
        if wave.ndim not in (1, 2) or (wave.ndim == 2 and not 0 < wave.shape[0] <= wave.shape[1]):
            raise UserError(f"a waveform must be (samples,) or (channels, samples), and was given shape {wave.shape}")
        mono = wave if wave.ndim == 1 else wave.mean(0)
        return audio.resample(mono.astype(np.float32), sample_rate, self.sample_rate)

    def _run(
        self, cuts: Iterator[tuple[int, np.ndarray]], measured: "Measured", report: Callable[[int, int | None], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return starts, probabilities and embeddings of all windows.

        All batches have the same size, and XLA therefore compiles once. The last batch is padded with silence.
        """
        size = self.network.batch_size
        maximum = np.full(size, measured.maximum / max(measured.peak, 1.0), np.float32)
        starts: list[int] = []
        probabilities: list[np.ndarray] = []
        embeddings: list[np.ndarray] = []
        while batch := list(itertools.islice(cuts, size)):
            pcm = np.zeros((size, self.samples), np.int16)
            for row, (start, cut) in zip(pcm, batch, strict=False):
                row[: len(cut)] = audio.to_pcm(cut, measured.peak)
                starts.append(start)
            outputs = self.network.scores({"audio": pcm, "maximum": maximum})
            for batches, output in zip((probabilities, embeddings), outputs, strict=True):
                batches.append(output[: len(batch)])
            report(min(starts[-1] + self.samples, measured.samples), measured.samples)
        return np.array(starts), np.concatenate(probabilities), np.concatenate(embeddings)


def _opened(sources: Sequence[str | Path]) -> Network:
    """What computes the scores of windows: an exported file, or trained networks."""
    from genre_jax.export import runtime

    if exported := [source for source in sources if runtime.is_exported(source)]:
        if len(sources) > 1:
            raise UserError(f"an exported file tags alone, and {exported[0]} was given with other sources")
        return runtime.Exported(runtime.on_disk(exported[0]))
    try:
        from genre_jax.trained import Networks
    except ImportError as error:
        raise UserError(
            f"a network that is no exported file needs JAX: install it, or give a file of export ({error})"
        ) from error

    return Networks(*sources)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Result of the first pass over a signal: number of samples, largest sample, largest magnitude."""

    samples: int
    maximum: float
    peak: float


def _measure(blocks: Iterable[np.ndarray], report: Callable[[int, int | None], None]) -> tuple[Measured, list[np.ndarray]]:
    """Return what a signal measures, and its blocks; no block if they hold more than `HELD` samples."""
    samples, maximum, minimum = 0, 0.0, 0.0
    held: list[np.ndarray] = []
    for block in blocks:
        if not np.isfinite(block).all():
            raise UserError("the signal holds samples that are not finite (NaN or infinity)")
        samples += len(block)
        maximum, minimum = max(maximum, float(block.max(initial=0))), min(minimum, float(block.min(initial=0)))
        held.append(block)
        if samples > HELD:
            held.clear()
        report(samples, None)
    return Measured(samples, maximum, max(maximum, -minimum)), held


def windows(blocks: Iterable[np.ndarray], samples: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, waveform) of each window of a stream, with the starts of `data.order.window_starts`.

    The last window ends at the end of the signal. A signal that is shorter than a window is yielded whole.
    """
    buffer, first, start = np.zeros(0, np.float32), 0, 0  # `first` is the position of buffer[0] in the signal
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while start + samples < first + len(buffer):
            yield start, buffer[start - first : start - first + samples]
            start += hop
        used = min(start - first, max(0, len(buffer) - samples))
        buffer, first = buffer[used:], first + used
    last = max(0, first + len(buffer) - samples)
    yield last, buffer[last - first :]
