"""Spectral and temporal descriptors, and statistics of features over time.

Each descriptor maps a waveform `(..., samples)` → `(..., frames, bins)`, with the arguments and values of
`librosa.feature.<name>`; **librosa has bins first**. In all of them `y` is a real array (..., samples), `sr` the sample rate in
Hz, and `n_fft`, `hop_length` and `options` are the arguments of `stft`.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.frontends.compression import power_to_db
from genre_jax.frontends.mel import check_tuning, filtered_spectrogram
from genre_jax.frontends.scaling import as_features, as_float, positive_power
from genre_jax.frontends.stft import at_least, frame, lengths, pad_center, spectrogram


def _magnitude(y: jax.Array, n_fft: int, hop_length: int, options: dict[str, Any], power: float = 1.0) -> jax.Array:
    """Return |STFT|^power, `(..., frames, 1 + n_fft // 2)`."""
    return spectrogram(y, power=power, n_fft=n_fft, hop_length=hop_length, **options)


def _hertz(sr: float, n_fft: int) -> np.ndarray:
    """Return the centre frequencies of the FFT bins (1 + n_fft // 2,)."""
    if not sr > 0:
        raise UserError(f"sr must be positive, and was given {sr}")
    return np.fft.rfftfreq(n_fft, 1.0 / sr)


def _normalise(x: jax.Array, norm: float | None) -> jax.Array:
    """Divide each frame by its maximum (inf) or its p-norm. Keeps frames whose norm is below the smallest normal float."""
    if norm is None:
        return x
    if not norm > 0:
        raise UserError(f"norm must be positive, inf or None, and was given {norm}")
    magnitude = jnp.abs(x)
    if norm == np.inf:
        length = magnitude.max(-1, keepdims=True)
    else:
        length = positive_power(positive_power(magnitude, norm).sum(-1, keepdims=True), 1 / norm)
    return x / jnp.where(length < jnp.finfo(x.dtype).tiny, 1, length)


@functools.lru_cache
def chroma_filterbank(
    *,
    sr: float,
    n_fft: int,
    n_chroma: int = 12,
    tuning: float = 0.0,
    ctroct: float = 5.0,
    octwidth: float | None = 2.0,
    norm: float | None = 2.0,
    base_c: bool = True,
) -> np.ndarray:
    """Return the weights of FFT bins in pitch classes, `(1 + n_fft // 2, n_chroma)` in float64.

    Equals `librosa.filters.chroma`, transposed.

    Args:
      sr: float > 0, sample rate in Hz.
      n_fft: int, FFT length of the spectrogram.
      n_chroma: int ≥ 1, pitch classes per octave. Each is a Gaussian with the width of a class, or of a bin if that is larger.
      tuning: float, deviation from A440 in fractions of a pitch class.
      ctroct: float, octave with the largest weight, in octaves above 27.5 Hz (5: 880 Hz).
      octwidth: float, standard deviation of this (Gaussian) weight in octaves. None gives all octaves the same weight.
      norm: float > 0 or inf, order of the norm that scales the weights of each bin to 1. None does not scale.
      base_c: bool. The first class is C (True) or A (False).

    Raises `UserError` if n_chroma or sr is not positive.
    """
    if n_chroma < 1:
        raise UserError(f"n_chroma must be at least 1, and was given {n_chroma}")
    if not sr > 0:
        raise UserError(f"sr must be positive, and was given {sr}")
    check_tuning(tuning)
    a0 = 27.5 * 2.0 ** (tuning / n_chroma)
    pitch = n_chroma * np.log2(np.arange(1, n_fft) * sr / n_fft / a0)
    pitch = np.concatenate([pitch[:1] - 1.5 * n_chroma, pitch])  # as librosa: bin 0 lies 1.5 octaves below bin 1
    width = np.append(np.maximum(np.diff(pitch), 1.0), 1.0)
    half = np.round(n_chroma / 2)
    distance = np.remainder(pitch[:, None] - np.arange(n_chroma) + half + 10 * n_chroma, n_chroma) - half
    weights = np.exp(-0.5 * (2 * distance / width[:, None]) ** 2)
    if norm is not None:
        length = np.linalg.norm(weights, norm, axis=1, keepdims=True)
        weights /= np.where(length < np.finfo(np.float64).tiny, 1, length)
    if octwidth is not None:
        weights *= np.exp(-0.5 * ((pitch / n_chroma - ctroct) / octwidth) ** 2)[:, None]
    if base_c:
        weights = np.roll(weights, -3 * (n_chroma // 12), axis=1)
    weights = np.ascontiguousarray(weights[: 1 + n_fft // 2])
    weights.setflags(write=False)
    return weights


def chroma_stft(
    y: jax.Array,
    *,
    sr: float = 22050,
    norm: float | None = np.inf,
    n_fft: int = 2048,
    hop_length: int = 512,
    tuning: float = 0.0,
    n_chroma: int = 12,
    ctroct: float = 5.0,
    octwidth: float | None = 2.0,
    base_c: bool = True,
    **options: Any,
) -> jax.Array:
    """Compute the energy of each pitch class, `(..., samples)` → `(..., frames, n_chroma)`: `librosa.feature.chroma_stft`.

    `tuning` is 0 by default; librosa estimates it from the data.

    Args:
      y, sr, n_fft, hop_length, options: see the module.
      norm: float > 0 or inf, order of the norm that scales each frame to 1. The default, inf, scales the maximum to 1; None
        does not scale. Silent frames stay 0.
      tuning, n_chroma, ctroct, octwidth, base_c: as in `chroma_filterbank`.
    """
    filters = chroma_filterbank(
        sr=sr, n_fft=n_fft, n_chroma=n_chroma, tuning=tuning, ctroct=ctroct, octwidth=octwidth, base_c=base_c
    )
    return _normalise(filtered_spectrogram(y, filters, n_fft=n_fft, hop_length=hop_length, **options), norm)


@functools.lru_cache
def _tonal_space(n_chroma: int) -> np.ndarray:
    """Return coordinates `(n_chroma, 6)` of the pitch classes on the circles of fifths, minor thirds and major thirds."""
    turns = np.outer(np.arange(n_chroma) * 12 / n_chroma, [7 / 6, 7 / 6, 3 / 2, 3 / 2, 2 / 3, 2 / 3])
    phase = turns - np.array([0.5, 0, 0.5, 0, 0.5, 0])
    return np.cos(np.pi * phase) * np.array([1, 1, 1, 1, 0.5, 0.5])


def tonnetz(y: jax.Array | None = None, *, sr: float = 22050, chroma: jax.Array | None = None, **options: Any) -> jax.Array:
    """Compute tonal centroids, `(..., samples)` → `(..., frames, 6)` (Harte, Sandler & Gasser 2006).

    The bins are x and y of the fifths, of the minor thirds (both in [-1, 1]) and of the major thirds (in [-0.5, 0.5]). With
    `chroma` the values equal `librosa.feature.tonnetz(chroma=…)`. Without it they differ from librosa, which uses `chroma_cqt`.

    Args:
      y, sr, options: arguments of `chroma_stft`, for the chromagram if `chroma` is None.
      chroma: real array (..., frames, n_chroma), a chromagram.

    Raises `UserError` if both y and chroma are None.
    """
    if chroma is None:
        if y is None:
            raise UserError("tonnetz needs a waveform y or a chromagram chroma, and was given neither")
        chroma = chroma_stft(y, sr=sr, **options)
    chroma = as_features(chroma)
    space = _tonal_space(chroma.shape[-1]).astype(chroma.dtype)
    return jnp.matmul(_normalise(chroma, 1), space, precision=jax.lax.Precision.HIGHEST)


def spectral_centroid(
    y: jax.Array, *, sr: float = 22050, n_fft: int = 2048, hop_length: int = 512, **options: Any
) -> jax.Array:
    """Compute the mean frequency of the magnitude spectrum, `(..., samples)` → `(..., frames, 1)` in Hz. Silence gives 0.

    Equals `librosa.feature.spectral_centroid`. The module describes the arguments.
    """
    share = _normalise(_magnitude(y, n_fft, hop_length, options), 1)
    return (share * _hertz(sr, n_fft).astype(share.dtype)).sum(-1, keepdims=True)


def spectral_bandwidth(
    y: jax.Array,
    *,
    sr: float = 22050,
    n_fft: int = 2048,
    hop_length: int = 512,
    norm: bool = True,
    p: float = 2.0,
    **options: Any,
) -> jax.Array:
    """Compute the spread of the spectrum about its centroid, `(..., samples)` → `(..., frames, 1)` in Hz. Silence gives 0.

    Equals `librosa.feature.spectral_bandwidth`.

    Args:
      y, sr, n_fft, hop_length, options: see the module.
      norm: bool. The weights are the magnitudes divided by their sum (True) or the magnitudes (False).
      p: float > 0, order of the spread. The default is a standard deviation.
    """
    if not p > 0:
        raise UserError(f"p must be positive, and was given {p}")
    magnitude = _magnitude(y, n_fft, hop_length, options)
    hertz = _hertz(sr, n_fft).astype(magnitude.dtype)
    share = _normalise(magnitude, 1)
    deviation = jnp.abs(hertz - (share * hertz).sum(-1, keepdims=True))
    spread = ((share if norm else magnitude) * positive_power(deviation, p)).sum(-1, keepdims=True)
    return positive_power(spread, 1 / p)


@functools.lru_cache
def _contrast_bands(sr: float, n_fft: int, fmin: float, n_bands: int, quantile: float) -> tuple[tuple[int, int, int], ...]:
    """Return (first bin, last bin + 1, bins in a quantile) of each band: below fmin, then octaves from fmin upwards.

    As in librosa, a band begins one bin below its edge, and all bands except the highest omit their last bin.
    """
    hertz = _hertz(sr, n_fft)
    edges = np.concatenate([[0.0], fmin * 2.0 ** np.arange(n_bands + 1)])
    bands = []
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = np.flatnonzero((hertz >= low) & (hertz <= high))
        top = number == n_bands
        kept = (hertz.size - inside[0] if top else inside.size - 1) + (number > 0) if inside.size else 0
        if kept < 1:
            raise UserError(
                f"the band from {low:g} to {high:g} Hz is narrower than a bin of n_fft = {n_fft} at {sr:g} Hz: "
                "use a longer n_fft or a larger fmin"
            )
        first = int(inside[0]) - (number > 0)
        bands.append((first, first + int(kept), max(1, int(np.rint(quantile * (kept + (not top)))))))
    return tuple(bands)


def spectral_contrast(
    y: jax.Array,
    *,
    sr: float = 22050,
    n_fft: int = 2048,
    hop_length: int = 512,
    fmin: float = 200.0,
    n_bands: int = 6,
    quantile: float = 0.02,
    linear: bool = False,
    **options: Any,
) -> jax.Array:
    """Compute peak minus valley of each octave band, `(..., samples)` → `(..., frames, n_bands + 1)`.

    Equals `librosa.feature.spectral_contrast`.

    Args:
      y, sr, n_fft, hop_length, options: see the module.
      fmin: float > 0, upper edge of the first band in Hz. The other bands are octaves above it; the last ends at sr / 2.
      n_bands: int ≥ 1, number of octaves. The lower edge of the last octave must be below sr / 2.
      quantile: float in (0, 1), share of the bins of a band whose mean is the peak (loudest bins) or valley (quietest bins).
      linear: bool. True returns the difference of the magnitudes; False the difference of their `power_to_db`, not lower than
        80 dB below the maximum of the clip.

    Raises `UserError` if an argument is out of range or a band is narrower than a bin.
    """
    if n_bands < 1:
        raise UserError(f"n_bands must be at least 1, and was given {n_bands}")
    if not 0 < quantile < 1:
        raise UserError(f"quantile must lie in (0, 1), and was given {quantile}")
    if not fmin > 0:
        raise UserError(f"fmin must be positive, and was given {fmin}")
    if fmin * 2 ** (n_bands - 1) >= sr / 2:
        raise UserError(
            f"the last band must begin below sr / 2 = {sr / 2:g} Hz, and begins at {fmin * 2 ** (n_bands - 1):g} Hz: "
            f"use an fmin below {fmin:g} Hz or fewer bands than {n_bands}"
        )
    magnitude = _magnitude(y, n_fft, hop_length, options)
    peaks, valleys = [], []
    for first, end, count in _contrast_bands(sr, n_fft, fmin, n_bands, quantile):
        ordered = jnp.sort(magnitude[..., first:end], axis=-1)
        valleys.append(ordered[..., :count].mean(-1))
        peaks.append(ordered[..., -count:].mean(-1))
    peak, valley = jnp.stack(peaks, -1), jnp.stack(valleys, -1)
    contrast = peak - valley if linear else power_to_db(peak) - power_to_db(valley)
    return jnp.where(jnp.isfinite(peak), contrast, jnp.nan)


def spectral_rolloff(
    y: jax.Array,
    *,
    sr: float = 22050,
    n_fft: int = 2048,
    hop_length: int = 512,
    roll_percent: float = 0.85,
    **options: Any,
) -> jax.Array:
    """Compute the frequency below which `roll_percent` of the magnitude lies, `(..., samples)` → `(..., frames, 1)` in Hz.

    Equals `librosa.feature.spectral_rolloff`. The result is the frequency of a bin, therefore the gradient is 0. Silence gives
    0.

    Args:
      y, sr, n_fft, hop_length, options: see the module.
      roll_percent: float in (0, 1), share of the magnitude.
    """
    if not 0 < roll_percent < 1:
        raise UserError(f"roll_percent must lie in (0, 1), and was given {roll_percent}")
    total = jnp.cumsum(_magnitude(y, n_fft, hop_length, options), axis=-1)
    at = jnp.argmax(total >= roll_percent * total[..., -1:], axis=-1, keepdims=True)
    return jnp.where(jnp.isfinite(total[..., -1:]), jnp.asarray(_hertz(sr, n_fft), total.dtype)[at], jnp.nan)


def spectral_flatness(
    y: jax.Array,
    *,
    n_fft: int = 2048,
    hop_length: int = 512,
    amin: float = 1e-10,
    power: float = 2.0,
    **options: Any,
) -> jax.Array:
    """Compute geometric mean / arithmetic mean of |STFT|^power, `(..., samples)` → `(..., frames, 1)` in [0, 1].

    Equals `librosa.feature.spectral_flatness`.

    Args:
      y, n_fft, hop_length, options: see the module.
      amin: float > 0, lower limit of |STFT|^power. Silence is therefore flat and gives 1.
      power: float > 0, exponent of the magnitude.
    """
    if not amin > 0:
        raise UserError(f"amin must be positive, and was given {amin}")
    s = at_least(_magnitude(y, n_fft, hop_length, options, power), amin)
    return jnp.exp(jnp.log(s).mean(-1, keepdims=True)) / s.mean(-1, keepdims=True)


def _frames(y: jax.Array, frame_length: int, hop_length: int, center: bool, pad_mode: str) -> jax.Array:
    """Return the frames `(..., frames, frame_length)` of the padded signal. Checks the lengths."""
    if frame_length < 1:
        raise UserError(f"frame_length must be at least 1, and was given {frame_length}")
    lengths(frame_length, None, hop_length)
    return frame(pad_center(as_float(y), frame_length, center, pad_mode), frame_length, hop_length)


def frame_power(
    y: jax.Array, *, frame_length: int = 2048, hop_length: int = 512, center: bool = True, pad_mode: str = "constant"
) -> jax.Array:
    """Compute the mean square of each frame, `(..., samples)` → `(..., frames)`. The arguments are those of `rms`."""
    return jnp.square(_frames(y, frame_length, hop_length, center, pad_mode)).mean(-1)


def rms(
    y: jax.Array, *, frame_length: int = 2048, hop_length: int = 512, center: bool = True, pad_mode: str = "constant"
) -> jax.Array:
    """Compute the root mean square of each frame, `(..., samples)` → `(..., frames, 1)`: `librosa.feature.rms`.

    The gradient on silence is 0.

    Args:
      y: real array (..., samples).
      frame_length: int ≥ 1, in samples.
      hop_length: int ≥ 1, samples from frame to frame.
      center: bool. Pads both ends by frame_length // 2 samples: frame t is centred on sample t · hop_length.
      pad_mode: str, the padding: "constant" (zeros), "reflect" or "edge".
    """
    power = frame_power(y, frame_length=frame_length, hop_length=hop_length, center=center, pad_mode=pad_mode)
    return positive_power(power, 0.5)[..., None]


def zero_crossing_rate(
    y: jax.Array,
    *,
    frame_length: int = 2048,
    hop_length: int = 512,
    center: bool = True,
    threshold: float = 1e-10,
    zero_pos: bool = True,
) -> jax.Array:
    """Compute sign changes per sample of each frame, `(..., samples)` → `(..., frames, 1)` in [0, 1).

    Equals `librosa.feature.zero_crossing_rate`. The gradient is 0.

    Args:
      y, frame_length, hop_length: as in `rms`.
      center: as in `rms`; the padding repeats the first and the last sample.
      threshold: float ≥ 0. Magnitudes up to this value count as 0.
      zero_pos: bool. Zeros count as positive (True) or as a third sign (False).
    """
    if not threshold >= 0:
        raise UserError(f"threshold must be at least 0, and was given {threshold}")
    y = as_float(y)
    level = jnp.where(jnp.abs(y) <= threshold, 0, y)
    sign = jnp.where(level < 0, -1, 1) if zero_pos else jnp.sign(level)
    frames = _frames(jnp.where(jnp.isfinite(y), sign, jnp.nan).astype(y.dtype), frame_length, hop_length, center, "edge")
    step = jnp.abs(jnp.diff(frames, axis=-1))  # 0, 1 or 2, or NaN
    return (step * (3 - step) / 2).sum(-1, keepdims=True) / frame_length


def _deviation(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return x minus its mean over frames, and its standard deviation. Both are exactly 0 if x is constant."""
    # The mean of a constant may be rounded; therefore the first frame is subtracted before the mean.
    centred = x - x[..., :1, :]
    centred = centred - centred.mean(-2, keepdims=True)
    return centred, positive_power(jnp.square(centred).mean(-2, keepdims=True), 0.5)


def _standardised_moment(x: jax.Array, order: int) -> jax.Array:
    """Return the mean of ((x - mean) / std)^order over frames, or 0 if x is constant."""
    centred, std = _deviation(x)
    return ((centred / jnp.where(std == 0, 1, std)) ** order).mean(-2)


def _kurtosis(x: jax.Array) -> jax.Array:
    """Return the excess kurtosis over frames, or 0 if x is constant."""
    fourth = _standardised_moment(x, 4)
    return jnp.where(fourth == 0, 0, fourth - 3)


STATISTICS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mean": lambda x: x.mean(-2),
    "std": lambda x: _deviation(x)[1][..., 0, :],
    "min": lambda x: x.min(-2),
    "max": lambda x: x.max(-2),
    "median": lambda x: jnp.median(x, axis=-2),
    "skew": lambda x: _standardised_moment(x, 3),
    "kurtosis": _kurtosis,
}


def summarise(features: jax.Array, *, statistics: tuple[str, ...] = ("mean", "std")) -> jax.Array:
    """Compute statistics over time, `(..., frames, bins)` → `(..., len(statistics) · bins)`, ordered by statistic.

    The definitions are those of NumPy and scipy.stats without bias correction. For constant features, the std, its gradient,
    the skew and the kurtosis are 0 (scipy.stats returns NaN for skew and kurtosis).

    Args:
      features: real array (..., frames, bins) with at least one frame.
      statistics: tuple of at least one of "mean", "std", "min", "max", "median", "skew", "kurtosis" (excess).

    Raises `UserError` if there is no frame or a name is unknown.
    """
    # An empty tuple raises the same error as an unknown name, with the list of legal names.
    functions = [console.pick("statistic", name, STATISTICS) for name in statistics or ("",)]
    features = as_features(features)
    return jnp.concatenate([function(features) for function in functions], axis=-1)
