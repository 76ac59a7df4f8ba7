"""Mel filterbank, and mel spectrogram `(..., samples)` → `(..., frames, n_mels)`; arguments and values as in librosa."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.frontends.stft import in_chunks, spectrogram

# Slaney's Auditory Toolbox: linear up to 1 kHz (200/3 Hz per mel), logarithmic above (27 mels per factor of 6.4).
_HZ_PER_MEL = 200.0 / 3
_LOG_FROM_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(frequencies, *, htk: bool = False) -> np.ndarray:
    """Convert Hz to mel, on Slaney's scale or with `htk` on HTK's scale, 2595 log10(1 + f / 700)."""
    frequencies = np.asarray(frequencies, np.float64)
    if htk:
        return 2595.0 * np.log10(1.0 + frequencies / 700.0)
    logarithmic = _LOG_FROM_HZ / _HZ_PER_MEL + np.log(np.maximum(frequencies, 1e-10) / _LOG_FROM_HZ) / _LOG_STEP
    return np.where(frequencies >= _LOG_FROM_HZ, logarithmic, frequencies / _HZ_PER_MEL)


def mel_to_hz(mels, *, htk: bool = False) -> np.ndarray:
    """Convert mel to Hz: the inverse of `hz_to_mel`."""
    mels = np.asarray(mels, np.float64)
    if htk:
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    knee = _LOG_FROM_HZ / _HZ_PER_MEL
    return np.where(mels >= knee, _LOG_FROM_HZ * np.exp(_LOG_STEP * (mels - knee)), mels * _HZ_PER_MEL)


@functools.lru_cache
def mel_filterbank(
    *,
    sr: float,
    n_fft: int,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str = "slaney",
) -> np.ndarray:
    """Return triangular filters `(1 + n_fft // 2, n_mels)` in float64: `librosa.filters.mel`, transposed.

    Args:
      sr: float > 0, sample rate in Hz.
      n_fft: int, FFT length of the spectrogram.
      n_mels: int ≥ 1, number of filters, equally spaced in mel.
      fmin, fmax: float, band of the filters in Hz, 0 ≤ fmin < fmax ≤ sr / 2. Default of fmax: sr / 2.
      htk: bool. Uses the mel scale of HTK instead of Slaney's.
      norm: str. "slaney" divides each filter by half its width in Hz (equal areas); "none" keeps a peak of 1.

    Raises `UserError` if an argument is out of range. Warns about filters that contain no FFT bin.
    """
    fmax = check_band(sr, fmin, fmax, "n_mels", n_mels)
    if norm not in ("slaney", "none"):
        raise console.unknown("norm", norm, ("slaney", "none"))
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin, htk=htk), hz_to_mel(fmax, htk=htk), n_mels + 2), htk=htk)
    bins = np.fft.rfftfreq(n_fft, 1.0 / sr)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if norm == "slaney":
        weights *= 2.0 / (edges[2:] - edges[:-2])
    return finished(weights, "mel")


def check_band(sr: float, fmin: float, fmax: float | None, name: str, filters: int) -> float:
    """Check the band and the number of `filters`, which an error calls `name`. Returns fmax, or sr / 2 for None."""
    fmax = sr / 2 if fmax is None else fmax
    if filters < 1:
        raise UserError(f"{name} must be at least 1, and was given {filters}")
    if not 0 <= fmin < fmax <= sr / 2:
        raise UserError(f"fmin and fmax must satisfy 0 <= fmin < fmax <= sr / 2 = {sr / 2} Hz, and were given {fmin}, {fmax}")
    return fmax


def check_tuning(tuning: float) -> None:
    """Raise `UserError` if `tuning` is not a number; librosa's None estimates it from the data."""
    if tuning is None:
        raise UserError(
            "tuning must be a number in fractions of a bin, and was given None: it is not estimated from the data "
            "(librosa.estimate_tuning does so)"
        )


def finished(weights: np.ndarray, kind: str) -> np.ndarray:
    """Make a filterbank (bins, filters) read-only. Warns about filters that contain no bin; `kind` names the filters."""
    empty = np.flatnonzero(weights.max(0) == 0)
    if empty.size:
        warnings.warn(f"{kind} filters {empty.tolist()} are empty: use fewer filters or a longer n_fft", stacklevel=3)
    weights.setflags(write=False)
    return weights


def filtered_spectrogram(y: jax.Array, filters: np.ndarray, **options: Any) -> jax.Array:
    """Multiply `spectrogram(y, **options)` by `filters` (bins, filters): `(..., samples)` → `(..., frames, filters)`."""

    def compute(y):
        spectrum = spectrogram(y, **options)
        return jnp.matmul(spectrum, filters.astype(spectrum.dtype), precision=jax.lax.Precision.HIGHEST)

    return in_chunks(compute, y)


def mel_spectrogram(
    y: jax.Array,
    *,
    sr: float = 22050,
    n_fft: int = 2048,
    hop_length: int = 512,
    power: float = 2.0,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str = "slaney",
    **options: Any,
) -> jax.Array:
    """Compute the mel spectrogram, `(..., samples)` → `(..., frames, n_mels)`.

    Equals `librosa.feature.melspectrogram` with bins last.

    Args:
      y: real array (..., samples), usually in [-1, 1].
      sr: float > 0, sample rate in Hz.
      power: float > 0, exponent of the magnitude spectrum before the filters (1: magnitude, 2: power).
      n_mels, fmin, fmax, htk, norm: as in `mel_filterbank`.
      n_fft, hop_length: as in `stft`.
      options: further arguments of `stft`: win_length, window, center, pad_mode, engine.

    Raises `UserError` if an argument is out of range.
    """
    filters = mel_filterbank(sr=sr, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=norm)
    return filtered_spectrogram(y, filters, power=power, n_fft=n_fft, hop_length=hop_length, **options)
