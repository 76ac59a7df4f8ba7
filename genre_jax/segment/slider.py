"""The engine of segmentation: `Slider` takes the samples of a recording in blocks, and gives a decision for each frame.

Files and live streams go through the same steps, each of which can be computed in blocks:

    samples → loudness (if the run's data have it) → network → softmax → read later → median filter
            → power of each frame → runs of silent frames
"""

from typing import NamedTuple

import numpy as np

from genre_jax import metrics
from genre_jax.console import UserError
from genre_jax.segment import local
from genre_jax.segment.networks import Network, frames_of

LOOKAHEAD = 0.5  # seconds
SILENCE = "silence"


class Options(NamedTuple):
    """How frames are decided.

    Attributes:
      lookahead: seconds after a frame at which a causal network is read; None: `LOOKAHEAD`.
      median: length of the median filter in frames; 0 or 1: no filter.
      silence_db: frames with at most this power are silent, in dB relative to full scale (a mean square of 1).
      least_silence: shorter silences are not marked, in seconds.
    """

    lookahead: float | None = None
    median: int = 200
    silence_db: float = -60.0
    least_silence: float = 0.1


class Rows(NamedTuple):
    """Decisions for successive frames.

    Attributes:
      first: number of the first frame.
      probabilities: (frames, labels), filtered.
      silent: whether a frame is silent, bool (frames,).
    """

    first: int
    probabilities: np.ndarray
    silent: np.ndarray


class Slider:
    """The decisions for one recording, the same for all sequences of blocks.

    Attributes:
      delay: seconds from the start of a frame to the latest sample that its decision waits for.
      samples: how many samples were pushed.
    """

    def __init__(self, network: Network, options: Options):
        """Begin a recording. Raises `UserError` if an option is out of range."""
        if options.median < 0 or (options.lookahead or 0.0) < 0 or options.least_silence < 0:
            raise UserError(
                f"--median, --lookahead and --min_silence must be 0 or more, and were given {options.median}, "
                f"{options.lookahead} and {options.least_silence:g}"
            )
        self._network, self._stream = network, network.start()
        period = network.hop / network.sample_rate
        levelled = "equalise_loudness" in network.config.data.conditioning
        self._loudness = local.levelled(network.sample_rate) if levelled else None
        shift, median = 0, max(1, options.median)
        if network.causal:
            shift = round((LOOKAHEAD if options.lookahead is None else options.lookahead) / period)
        self._later, self._median = local.later(shift), local.median(median)
        least = max(1, round(options.least_silence / period))
        self._power, self._runs = _Power(network), local.long_runs(least)
        self._limit = 10 ** (options.silence_db / 10)
        loudness = 0.25 + period if levelled else 0.0
        marked = (least - 1) * period + network.frame / network.sample_rate
        self.delay = max(network.reach + loudness + (shift + (median - 1) // 2) * period, marked)
        self.samples = self._given = 0
        self._probabilities = np.zeros((0, len(network.labels)))
        self._silent = np.zeros(0, bool)

    def push(self, samples: np.ndarray) -> Rows:
        """Take samples float32 (samples,) in [-1, 1] at the rate of the network, and return the frames that are decided.

        Samples beyond full scale are clipped. Raises `UserError` if a sample is not finite.
        """
        if not np.isfinite(samples).all():
            raise UserError("the signal holds samples that are not finite (NaN or infinity)")
        if not len(samples):
            return self._ready()
        self.samples += len(samples)
        self._silent = np.append(self._silent, self._runs.push(self._power.push(samples) <= self._limit))
        self._add(self._stream.push(self._loudness.push(samples) if self._loudness else samples))
        return self._ready()

    def finish(self) -> Rows:
        """Return the decisions for the last frames. Raises `UserError` if no sample was pushed."""
        if not self.samples:
            raise UserError("the signal holds no samples")
        self._silent = np.concatenate([self._silent, self._runs.push(self._power.finish() <= self._limit), self._runs.finish()])
        if self._loudness:
            self._add(self._stream.push(self._loudness.finish()))
        self._add(self._stream.finish())
        last = self._median.push(self._later.finish())
        self._probabilities = np.concatenate([self._probabilities, last, self._median.finish()])
        assert self._given + len(self._probabilities) == frames_of(self._network, self.samples)
        return self._ready()

    def _add(self, logits: np.ndarray) -> None:
        """Take the logits of the next frames."""
        if not len(logits):
            return
        if not np.isfinite(logits).all():
            raise UserError("the network computes NaN or infinity: its weights cannot be used, train again")
        self._probabilities = np.concatenate(
            [self._probabilities, self._median.push(self._later.push(metrics.softmax(logits)))]
        )

    def _ready(self) -> Rows:
        """Return the frames of which both the probabilities and the power are known."""
        count = min(len(self._probabilities), len(self._silent))
        rows = Rows(self._given, self._probabilities[:count], self._silent[:count])
        self._given += count
        self._probabilities, self._silent = self._probabilities[count:], self._silent[count:]
        return rows


class _Power:
    """The mean square of each frame of a recording; the last frame may be incomplete."""

    def __init__(self, network: Network):
        self._frame, self._hop = network.frame, network.hop
        self._held = np.zeros(0, np.float32)
        self._begun = False

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples, and return the power of the frames that are complete."""
        self._held = np.concatenate([self._held, samples])
        count = max(0, (len(self._held) - self._frame) // self._hop + 1)
        if not count:
            return np.zeros(0)
        frames = np.lib.stride_tricks.sliding_window_view(self._held, self._frame)[:: self._hop]
        power = np.einsum("fs,fs->f", frames, frames, dtype=np.float64) / self._frame
        self._held, self._begun = self._held[count * self._hop :], True
        return power

    def finish(self) -> np.ndarray:
        """Return the power of the last frame if it is incomplete."""
        # What is left begins with samples of the last complete frame, unless there was none.
        new = len(self._held) > (self._frame - self._hop if self._begun else 0)
        return np.array([np.square(self._held, dtype=np.float64).mean()] if new else [])
