"""Mel filterbank and mel spectrogram with librosa's arguments and numbers."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.frontends.stft import in_chunks, spectrogram

# Slaney's Auditory Toolbox: linear to 1 kHz (200/3 Hz a mel), logarithmic above (27 steps for a factor of 6.4).
_HZ_PER_MEL = 200.0 / 3
_LOG_FROM_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(frequencies, *, htk: bool = False) -> np.ndarray:
    """Hz to mel, on Slaney's scale or HTK's (2595 log10(1 + f / 700))."""
    frequencies = np.asarray(frequencies, np.float64)
    if htk:
        return 2595.0 * np.log10(1.0 + frequencies / 700.0)
    logarithmic = _LOG_FROM_HZ / _HZ_PER_MEL + np.log(np.maximum(frequencies, 1e-10) / _LOG_FROM_HZ) / _LOG_STEP
    return np.where(frequencies >= _LOG_FROM_HZ, logarithmic, frequencies / _HZ_PER_MEL)


def mel_to_hz(mels, *, htk: bool = False) -> np.ndarray:
    """The inverse of `hz_to_mel`."""
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
    """Triangular filters `(1 + n_fft // 2, n_mels)` in float64, the transpose of `librosa.filters.mel`.

    Args:
      sr: sample rate in Hz.
      n_fft: FFT length of the spectrogram to be multiplied.
      n_mels: number of filters, evenly spaced in mel between `fmin` and `fmax` (Hz; default sr / 2).
      htk: HTK's mel scale instead of Slaney's.
      norm: "slaney" (each filter divided by half its width in Hz: equal area) or "none" (peak 1).

    Raises UserError where a range is not legal; warns with the numbers of filters that catch no FFT bin.
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
    """`fmax`, sr / 2 where it is None. Raises UserError where the range or the number of `filters`, `name`, is not legal."""
    fmax = sr / 2 if fmax is None else fmax
    if filters < 1:
        raise UserError(f"{name} must be at least 1, and was given {filters}")
    if not 0 <= fmin < fmax <= sr / 2:
        raise UserError(f"fmin and fmax must satisfy 0 <= fmin < fmax <= sr / 2 = {sr / 2} Hz, and were given {fmin}, {fmax}")
    return fmax


def finished(weights: np.ndarray, kind: str) -> np.ndarray:
    """A filterbank (bins, filters), read-only; warns with the numbers of the `kind` filters that catch no bin."""
    empty = np.flatnonzero(weights.max(0) == 0)
    if empty.size:
        warnings.warn(f"{kind} filters {empty.tolist()} are empty: fewer filters or a longer n_fft", stacklevel=3)
    weights.setflags(write=False)
    return weights


def filtered_spectrogram(y: jax.Array, filters: np.ndarray, **options: Any) -> jax.Array:
    """`spectrogram(y, **options)` times `filters` (bins, filters), `(..., frames, filters)`, a few clips at a time."""

    def of(y):
        spectrum = spectrogram(y, **options)
        return jnp.matmul(spectrum, filters.astype(spectrum.dtype), precision=jax.lax.Precision.HIGHEST)

    return in_chunks(of, y)


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
    """Mel spectrogram `(..., frames, n_mels)`: `librosa.feature.melspectrogram`, bins last.

    `power` is that of the spectrogram under the filters, `options` are further ones of `stft` (win_length, window, center,
    pad_mode, engine), the other arguments are those of `mel_filterbank`.
    """
    filters = mel_filterbank(sr=sr, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=norm)
    return filtered_spectrogram(y, filters, power=power, n_fft=n_fft, hop_length=hop_length, **options)
