"""The Python API of tagging: `Tagger` predicts every window of a file or waveform with a trained run, and returns `Tags`.

A file is streamed and cut into windows at the hop of the run's evaluation. Memory does not grow with the length of the file.
The file is read twice, because scaling to 16 bits and the gain cap need its largest sample first. If the run was trained on
conditioned data (`data.conditioning`), a file is held in memory and conditioned as a whole, as `prepare` does.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from genre_jax.console import UserError
from genre_jax.prepare import audio, condition, silence


@dataclasses.dataclass(frozen=True)
class Tags:
    """The predictions of a run for one signal.

    Attributes:
      labels: the classes, in the order of the columns of `probabilities`.
      starts: start of each window in seconds, `(windows,)`.
      window_seconds: length of a window in seconds.
      seconds: length of the signal in seconds.
      probabilities: `(windows, classes)`, in [0, 1].
      embeddings: input of the classifier, `(windows, dimensions)`.
    """

    labels: tuple[str, ...]
    starts: np.ndarray
    window_seconds: float
    seconds: float
    probabilities: np.ndarray
    embeddings: np.ndarray

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


class Tagger:
    """A trained run that predicts on files and waveforms.

    Attributes:
      labels: the classes of the run.
      sample_rate: sample rate of the network's input, in Hz.
      samples: length of a window in samples.
    """

    def __init__(self, workdir: str | Path):
        """Load a workdir, with the checkpoint that its evaluation uses, or a file of `genre_jax.save_pretrained`.

        Raises `UserError` if the run or one of its files is missing or damaged.
        """
        import jax

        from genre_jax import evaluate, forward
        from genre_jax.weights import pretrained

        self.config, self.labels, self._variables = pretrained.load_trained(workdir)
        self.sample_rate, self.samples = self.config.data.sample_rate, self.config.data.samples
        self._task = evaluate.task(self.config)
        double = self.config.dtype == "float64"
        with jax.enable_x64(double):  # for this network only; the caller's own setting stays
            network = forward.build(self.config, len(self.labels))

        @jax.jit
        def apply(variables, batch):
            logits, intermediates = network(variables, batch)
            return logits, intermediates["embedding"]

        def scores(batch: dict[str, np.ndarray]) -> tuple[jax.Array, jax.Array]:
            with jax.enable_x64(double):
                return apply(self._variables, batch)

        self._scores = scores

    def predict(self, source: str | Path | bytes | np.ndarray, sample_rate: int | None = None) -> dict[str, float]:
        """Return label → mean probability of a file or waveform, the largest first; the arguments are those of `tags`."""
        return self.tags(source, sample_rate).overall()

    def tags(self, source: str | Path | bytes | np.ndarray, sample_rate: int | None = None, hop: float = 0.0) -> Tags:
        """Predict every window of a signal.

        Args:
          source: the path of an audio file; its content as bytes, which is decoded in memory; or a waveform `(samples,)` or
            `(channels, samples)`: floats in [-1, 1] or int16.
          sample_rate: sample rate of a waveform in Hz, 1000 to 768000; ignored for a file. The signal is resampled to the
            sample rate of the run.
          hop: seconds from the start of a window to the start of the next; 0: the hop of the run's evaluation.

        Raises `UserError`, with the path of the file, if the signal cannot be read or used, if the mono mix of a file is
        silent, or if the network computes a number that is not finite.
        """
        if not isinstance(source, str | Path | bytes):
            return self._tags(np.asarray(source), sample_rate, hop)
        name = "the audio" if isinstance(source, bytes) else source
        try:
            return self._tags(source, None, hop)
        except (audio.AudioError, UserError) as error:
            raise UserError(f"{name}: {error}") from error
        except MemoryError as error:
            raise UserError(f"{name}: decoding needs more memory than this machine has free") from error

    def _tags(self, source: str | Path | bytes | np.ndarray, sample_rate: int | None, hop: float) -> Tags:
        step = round(hop * self.sample_rate) or self.config.evaluate.hop or self.samples
        if step < 1:
            raise UserError(f"hop must be 0 or more seconds, and was given {hop:g}")
        steps = self.config.data.conditioning
        if isinstance(source, np.ndarray | bytes) or steps:
            wave = condition.apply(steps, self._waveform(source, sample_rate), self.sample_rate)
            measured = _measure([wave])
            blocks: Iterable[np.ndarray] = [wave]
        else:
            measured = _measure(audio.stream(source, self.sample_rate, 1 << 16))
            blocks = audio.stream(source, self.sample_rate, 1 << 16)
        if not measured.samples:
            raise UserError("the signal holds no samples")
        if not isinstance(source, np.ndarray) and (fault := silence.fault(measured.peak, source)):
            raise UserError(fault)
        starts, logits, embeddings = self._run(windows(blocks, self.samples, step), measured)
        seconds, probabilities = starts / self.sample_rate, _probabilities(logits, self._task)
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

    def _run(self, cuts: Iterator[tuple[int, np.ndarray]], measured: "Measured") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return starts, logits and embeddings of all windows.

        All batches have the same size, and XLA therefore compiles once. The last batch is padded with silence.
        """
        size = self.config.evaluate.batch_size
        maximum = np.full(size, measured.maximum / max(measured.peak, 1.0), np.float32)
        starts: list[int] = []
        logits: list[np.ndarray] = []
        embeddings: list[np.ndarray] = []
        done = False
        while not done:
            pcm = np.zeros((size, self.samples), np.int16)
            count = 0
            for start, cut in cuts:
                pcm[count, : len(cut)] = audio.to_pcm(cut, measured.peak)
                starts.append(start)
                count += 1
                if count == size:
                    break
            done = count < size
            if count:
                outputs = self._scores({"audio": pcm, "maximum": maximum})
                for batches, output in zip((logits, embeddings), outputs, strict=True):
                    batches.append(np.asarray(output, np.float32)[:count])
        return np.array(starts), np.concatenate(logits), np.concatenate(embeddings)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Result of the first pass over a signal: number of samples, largest sample, largest magnitude."""

    samples: int
    maximum: float
    peak: float


def _measure(blocks: Iterable[np.ndarray]) -> Measured:
    samples, maximum, minimum = 0, 0.0, 0.0
    for block in blocks:
        if not np.isfinite(block).all():
            raise UserError("the signal holds samples that are not finite (NaN or infinity)")
        samples += len(block)
        maximum, minimum = max(maximum, float(block.max(initial=0))), min(minimum, float(block.min(initial=0)))
    return Measured(samples, maximum, max(maximum, -minimum))


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


def _probabilities(logits: np.ndarray, task: str) -> np.ndarray:
    from genre_jax import metrics

    with np.errstate(invalid="ignore"):  # `tags` refuses NaN
        return metrics.softmax(logits) if task == "single" else metrics.sigmoid(logits)
