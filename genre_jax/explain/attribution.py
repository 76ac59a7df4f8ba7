"""Which parts of a sound speak for an answer: occlusion and integrated gradients over the cells of an STFT.

Both change the sound itself and let the whole network, with its front end, answer. They therefore work for every front end.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.explain import reverse
from genre_jax.frontends.mel import hz_to_mel, mel_to_hz
from genre_jax.frontends.stft import istft, stft

Score = Callable[[jax.Array], jax.Array]  # waveforms (batch, samples) → a number of each (batch,)
TOLERANCE = 1e-3  # of the completeness of integrated gradients
MOST_STEPS = 256
_FIRST_STEPS, _BATCH = 64, 8
_POWER = 4  # of the points' density towards quiet cells: there logarithmic front ends change most


class Cells:
    """The STFT over whose cells an answer is explained: a Hann window and a hop of a quarter, which inverts exactly.

    Attributes:
      sr: sample rate in Hz.
      samples: length of the signals in samples.
      n_fft, hop: length of the window, and samples from frame to frame.
    """

    def __init__(self, sr: float, samples: int, n_fft: int = 0):
        """Choose the window: `n_fft` samples, or the power of two nearest to 64 ms; at most the signal."""
        self.sr, self.samples = sr, samples
        n_fft = n_fft or 2 ** round(np.log2(0.064 * sr))
        self.n_fft = max(4, min(n_fft, 2 ** int(np.log2(samples))) // 4 * 4)
        self.hop = self.n_fft // 4

    def spectrum(self, y: jax.Array) -> jax.Array:
        """Return the complex STFT (…, frames, bins) of signals (…, samples)."""
        return stft(y, n_fft=self.n_fft, hop_length=self.hop)

    def sound(self, spectrum: jax.Array) -> jax.Array:
        """Return the signals (…, samples) of STFTs (…, frames, bins)."""
        return istft(spectrum, n_fft=self.n_fft, hop_length=self.hop, length=self.samples)

    def patches(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of each bin (bins,) and the column of each frame (frames,) in a grid of patches.

        Rows are equal in mel, and columns in time.
        """
        hertz = np.arange(1 + self.n_fft // 2) * self.sr / self.n_fft
        edges = mel_to_hz(np.linspace(0, hz_to_mel(self.sr / 2), rows + 1))
        row = np.clip(np.searchsorted(edges, hertz, "right") - 1, 0, rows - 1)
        frames = 1 + self.samples // self.hop
        return row, np.minimum(np.arange(frames) * columns // frames, columns - 1)


def occlusion(score: Score, cells: Cells, y: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return by how much the score of a waveform (samples,) falls if a patch of its STFT is set to zero, (rows, columns).

    Row 0 holds the lowest frequencies. A negative number means that the score rises without the patch.
    """
    row, column = cells.patches(rows, columns)
    spectrum = cells.spectrum(jnp.asarray(y))

    @jax.jit
    def without(spectrum, numbers):
        def one(number):
            covered = (jnp.asarray(column)[:, None] == number % columns) & (jnp.asarray(row) == number // columns)
            return cells.sound(jnp.where(covered, 0, spectrum))

        return score(jax.vmap(one)(numbers))

    numbers = np.arange(-(-rows * columns // _BATCH) * _BATCH).reshape(-1, _BATCH)
    scores = np.concatenate([np.asarray(without(spectrum, part)) for part in numbers])[: rows * columns]
    whole = float(without(spectrum, np.full(_BATCH, rows * columns))[0])  # no patch has this number
    return (whole - scores).reshape(rows, columns)


class Gradients(NamedTuple):
    """Integrated gradients.

    Attributes:
      values: share of each cell in the difference of the scores (frames, bins).
      baseline: where the path starts: "silence" or "noise".
      difference: score of the sound minus score of the baseline.
      error: magnitude of (sum of `values` - `difference`), relative to `difference`.
      steps: steps of the path.
    """

    values: np.ndarray
    baseline: str
    difference: float
    error: float
    steps: int


def integrated_gradients(score: Score, cells: Cells, y: np.ndarray, baseline: str = "", most: int = MOST_STEPS) -> Gradients:
    """Integrate the gradient of the score by the STFT along the straight path from a baseline to a waveform (samples,).

    From silence this is the path over the magnitudes, with the phases of the sound (Sundararajan et al. 2017). A network whose
    front end scales each clip by itself hears no difference between loud and quiet; the path then starts at white noise with
    the power of the sound. The number of steps is doubled until the sum over all cells equals the difference of the scores to
    `TOLERANCE`, or until `most` is reached.

    Args:
      score: the number to be explained, differentiable by the waveform.
      cells: the STFT.
      y: the waveform, not silent.
      baseline: "silence", "noise", or "" to choose.
      most: largest number of steps.
    """
    sound = jnp.asarray(y)
    if not baseline:
        whole, quiet, silent = np.asarray(score(jnp.stack([sound, sound / 16, 0 * sound])))
        baseline = "noise" if abs(whole - quiet) <= 1e-3 * max(abs(whole - silent), 1e-6) else "silence"
    noise = jax.random.normal(jax.random.key(0), sound.shape, sound.dtype) * jnp.sqrt(jnp.mean(sound**2))
    start, end = cells.spectrum(noise if baseline == "noise" else 0 * sound), cells.spectrum(sound)
    step = end - start

    scores = reverse.with_finite_gradient(lambda spectra: score(cells.sound(spectra)))

    @jax.jit
    def partial_sum(total, shares, weights):
        gradients = jax.grad(lambda spectra: scores(spectra).sum())(start + shares[:, None, None] * step)
        return total + jnp.tensordot(weights, jnp.real(gradients * step), 1)

    def added(total, t, weight):
        """Add the sum over the points `t` in [0, 1] of the path, each with the same weight; the ends count half."""
        quiet = t if baseline == "silence" else 1 - t  # distance from the end of the path at which cells are quiet
        weights = weight * _POWER * quiet ** (_POWER - 1) * np.where((t == 0) | (t == 1), 0.5, 1)
        shares = quiet**_POWER if baseline == "silence" else 1 - quiet**_POWER
        shares, weights = (np.pad(array, (0, -len(t) % _BATCH)).astype(np.float32) for array in (shares, weights))
        for part in range(0, len(shares), _BATCH):
            total = partial_sum(total, shares[part : part + _BATCH], weights[part : part + _BATCH])
        return total

    difference = float(np.diff(scores(jnp.stack([start, end])))[0])
    count = min(_FIRST_STEPS, most)
    total: Any = added(jnp.zeros(step.shape, jnp.float32), np.linspace(0, 1, count + 1), 1 / count)
    while True:
        error = abs(float(np.asarray(total, np.float64).sum()) - difference) / max(abs(difference), 1e-9)
        if error <= TOLERANCE or count >= most:
            return Gradients(np.asarray(total), baseline, difference, error, count)
        total = added(total / 2, (np.arange(count) + 0.5) / count, 0.5 / count)  # the points between those of before
        count *= 2


def positive_mask(values: np.ndarray) -> np.ndarray:
    """Return the positive part of attributions, scaled to a largest value of 1; zeros if nothing is positive."""
    positive = np.maximum(values, 0)
    return positive / max(float(positive.max()), 1e-30)
