"""Cepstral coefficients `(..., samples)` → `(..., frames, bins)`, their time derivatives, and pre-emphasis.

`mfcc` follows librosa, `mfcc_htk` python_speech_features (the convention of HTK), `lfcc` torchaudio.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.frontends.compression import power_to_db
from genre_jax.frontends.mel import check_band, filtered_spectrogram, finished, hz_to_mel, mel_spectrogram, mel_to_hz
from genre_jax.frontends.scaling import as_features, as_float
from genre_jax.frontends.stft import fft_window, frame, in_chunks, lengths

DELTA_MODES = {"interp": "", "nearest": "edge", "mirror": "reflect", "constant": "constant", "wrap": "wrap"}
# mfcc_htk uses symmetric windows, as HTK does; stft uses periodic windows.
HTK_WINDOWS: dict[str, Callable] = {
    "boxcar": np.ones,
    "hamming": np.hamming,
    "hann": np.hanning,
    "blackman": np.blackman,
    "bartlett": np.bartlett,
}


@functools.lru_cache
def _dct_matrix(size: int, dct_type: int, norm: str) -> np.ndarray:
    """Return the cosine transform of `scipy.fft.dct` as a matrix (input, output) in float64."""
    if dct_type not in (1, 2, 3):
        raise UserError(f"dct_type must be 1, 2 or 3, and was given {dct_type}")
    if norm not in ("ortho", "none"):
        raise console.unknown("norm", norm, ("none", "ortho"))
    if dct_type == 1 and size < 2:
        raise UserError(f"the cosine transform of type 1 needs at least 2 bands, and was given {size}")
    period = size - 1 if dct_type == 1 else size
    rows = np.arange(size) + (0.5 if dct_type == 2 else 0.0)
    columns = np.arange(size) + (0.5 if dct_type == 3 else 0.0)
    matrix = 2 * np.cos(np.pi / period * np.outer(rows, columns))
    first, last = [0], [0, size - 1]
    inputs, outputs = {1: (last, last), 2: ([], first), 3: (first, [])}[dct_type]
    if norm == "ortho":
        matrix /= math.sqrt(2 * period)
        matrix[inputs] /= math.sqrt(2)
        matrix[:, outputs] /= math.sqrt(2)
    else:
        matrix[inputs] /= 2
    matrix.setflags(write=False)
    return matrix


def _cepstra(bands: jax.Array, count: int, kind: str, *, dct_type: int = 2, norm: str = "ortho") -> jax.Array:
    """Return the first `count` coefficients of the cosine transform over the bands. An error calls them `kind`."""
    size = bands.shape[-1]
    if not 1 <= count <= size:
        raise UserError(f"{kind} must lie in [1, {size}], the number of bands, and was given {count}")
    matrix = _dct_matrix(size, dct_type, norm)[:, :count]
    return jnp.matmul(bands, matrix.astype(bands.dtype), precision=jax.lax.Precision.HIGHEST)


def _lifted(cepstra: jax.Array, lifter: float, first: int) -> jax.Array:
    """Multiply coefficient n by 1 + lifter / 2 · sin(π (n + first) / lifter). A lifter of 0 changes nothing."""
    if not 0 <= lifter < math.inf:
        raise UserError(f"lifter must be at least 0 and finite, and was given {lifter}")
    if lifter == 0:
        return cepstra
    weights = 1 + lifter / 2 * np.sin(np.pi * np.arange(first, first + cepstra.shape[-1]) / lifter)
    return cepstra * weights.astype(cepstra.dtype)


def mfcc(
    y: jax.Array,
    *,
    sr: float = 22050,
    n_mfcc: int = 20,
    dct_type: int = 2,
    norm: str = "ortho",
    lifter: float = 0.0,
    mel_norm: str = "slaney",
    **options: Any,
) -> jax.Array:
    """Compute mel-frequency cepstral coefficients, `(..., samples)` → `(..., frames, n_mfcc)`.

    Equals `librosa.feature.mfcc` with bins last: the cosine transform of the mel power spectrogram in dB relative to 1, not
    lower than 80 dB below the maximum of the clip. (librosa before 1.0 takes the maximum of the batch.)

    Args:
      y: real array (..., samples), usually in [-1, 1].
      sr: float > 0, sample rate in Hz.
      n_mfcc: int in [1, n_mels], number of coefficients. (librosa reduces a larger value to n_mels.)
      dct_type: int, 1, 2 or 3, type of the cosine transform.
      norm: str, "ortho" (orthonormal cosine transform) or "none" (librosa's None, scipy's transform with a factor of 2).
      lifter: float ≥ 0. Coefficient n is multiplied by 1 + lifter / 2 · sin(π (n + 1) / lifter); 0 disables this.
      mel_norm: str, `norm` of `mel_spectrogram`.
      options: further arguments of `mel_spectrogram`: n_fft, hop_length, n_mels, fmin, fmax, htk, ….

    Raises `UserError` if an argument is out of range.
    """
    decibels = power_to_db(mel_spectrogram(y, sr=sr, norm=mel_norm, **options))
    return _lifted(_cepstra(decibels, n_mfcc, "n_mfcc", dct_type=dct_type, norm=norm), lifter, 1)


@functools.lru_cache
def linear_filterbank(
    *, sr: float, n_fft: int, n_filters: int = 128, fmin: float = 0.0, fmax: float | None = None
) -> np.ndarray:
    """Return triangular filters of equal width and peak 1, `(1 + n_fft // 2, n_filters)` in float64.

    Equals `torchaudio.functional.linear_fbanks` for even values. For an odd `n_fft`, torchaudio places the last bin at sr / 2
    (correct: (n_fft - 1) / n_fft of sr / 2); for an odd `sr`, it uses (sr - 1) / 2 for sr / 2.

    Args:
      sr: float > 0, sample rate in Hz.
      n_fft: int, FFT length of the spectrogram.
      n_filters: int ≥ 1, number of filters. Their centres are equally spaced in Hz.
      fmin, fmax: float, lower end of the first and upper end of the last filter in Hz, 0 ≤ fmin < fmax ≤ sr / 2. Default of
        fmax: sr / 2.

    Raises `UserError` if an argument is out of range. Warns about filters that contain no FFT bin.
    """
    fmax = check_band(sr, fmin, fmax, "n_filters", n_filters)
    bins = np.fft.rfftfreq(n_fft, 1.0 / sr)[:, None]
    step = (fmax - fmin) / (n_filters + 1)
    centres = fmin + step * np.arange(1, n_filters + 1)
    weights = np.maximum(0.0, 1.0 - np.abs(bins - centres) / step)
    return finished(weights, "linear")


def lfcc(
    y: jax.Array,
    *,
    sr: float = 22050,
    n_lfcc: int = 20,
    n_filters: int = 128,
    n_fft: int = 2048,
    hop_length: int = 512,
    fmin: float = 0.0,
    fmax: float | None = None,
    **options: Any,
) -> jax.Array:
    """Compute linear-frequency cepstral coefficients, `(..., samples)` → `(..., frames, n_lfcc)`.

    This is `mfcc` with `linear_filterbank` instead of mel filters: the orthonormal cosine transform (type 2) of the filters'
    power in dB relative to 1, not lower than 80 dB below the maximum of the clip. Equals `torchaudio.transforms.LFCC` with
    `log_lf=False`, the same n_fft and hop_length, and `pad_mode="reflect"`. There are two exceptions: the filters of torchaudio
    differ for odd n_fft, and its maximum is that of all channels of a recording.

    Args:
      y: real array (..., samples), usually in [-1, 1].
      sr: float > 0, sample rate in Hz.
      n_lfcc: int in [1, n_filters], number of coefficients.
      n_filters, fmin, fmax: as in `linear_filterbank`.
      n_fft, hop_length: as in `stft`; the defaults are those of librosa.
      options: further arguments of `stft`.

    Raises `UserError` if an argument is out of range.
    """
    filters = linear_filterbank(sr=sr, n_fft=n_fft, n_filters=n_filters, fmin=fmin, fmax=fmax)
    power = filtered_spectrogram(y, filters, n_fft=n_fft, hop_length=hop_length, **options)
    return _cepstra(power_to_db(power), n_lfcc, "n_lfcc")


@functools.lru_cache
def mel_filterbank_htk(*, sr: float, n_fft: int, n_mels: int = 26, fmin: float = 0.0, fmax: float | None = None) -> np.ndarray:
    """Return triangular filters `(1 + n_fft // 2, n_mels)`: `python_speech_features.get_filterbanks`, transposed.

    The edges are equally spaced on the mel scale of HTK, then rounded down to FFT bins, floor((n_fft + 1) · Hz / sr). The
    triangles have a peak of 1. The arguments are those of `mel_filterbank`.
    Raises `UserError` if an argument is out of range. Warns about filters that contain no FFT bin.
    """
    fmax = check_band(sr, fmin, fmax, "n_mels", n_mels)
    hertz = mel_to_hz(np.linspace(hz_to_mel(fmin, htk=True), hz_to_mel(fmax, htk=True), n_mels + 2), htk=True)
    edges = np.floor((n_fft + 1) * hertz / sr)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(1 + n_fft // 2)[:, None]
    # If two edges share a bin, that side of the triangle is empty. The 1 avoids a division by zero.
    rising = (bins - left) / np.maximum(centre - left, 1)
    falling = (right - bins) / np.maximum(right - centre, 1)
    weights = np.where((left <= bins) & (bins < centre), rising, 0) + np.where((centre <= bins) & (bins < right), falling, 0)
    return finished(weights, "mel")


def fbank_htk(
    y: jax.Array,
    *,
    sr: float = 16000,
    win_length: int = 400,
    hop_length: int = 160,
    n_fft: int = 512,
    window: Any = "boxcar",
    n_mels: int = 26,
    fmin: float = 0.0,
    fmax: float | None = None,
    preemph: float = 0.97,
) -> tuple[jax.Array, jax.Array]:
    """Compute the mel energies and the energy of each frame, `(..., samples)` → `(..., frames, n_mels)`, `(..., frames)`.

    Equals `python_speech_features.fbank`. Frame 0 starts at sample 0. Zeros complete the last frame, therefore the number of
    frames is 1 + ceil((samples - win_length) / hop_length), and at least 1. The power spectrum is |FFT|² / n_fft; the energy is
    its sum over the bins 0 … n_fft // 2.

    Args:
      y: real array (..., samples), usually in [-1, 1]. python_speech_features often gets int16: multiply by 32768 to
        get its values.
      sr: float > 0, sample rate in Hz.
      win_length: int in [1, n_fft], frame length in samples. (python_speech_features: `winlen` in seconds, and frames longer
        than n_fft are truncated.)
      hop_length: int ≥ 1, samples from frame to frame (python_speech_features: `winstep` in seconds).
      n_fft: int, FFT length; zeros pad the frames to this length.
      window: str, the symmetric window "boxcar", "hamming", "hann", "blackman" or "bartlett" (of NumPy, as in HTK); or an
        array of win_length samples.
      n_mels, fmin, fmax: as in `mel_filterbank_htk`.
      preemph: float. Computes y[t] - preemph · y[t - 1] before framing and keeps the first sample; 0 disables this.

    Raises `UserError` if an argument is out of range.
    """
    win_length, hop_length = lengths(n_fft, win_length, hop_length)
    if not isinstance(window, str):
        window = fft_window(window, win_length, win_length)
    else:
        window = console.pick("window", window, HTK_WINDOWS)(win_length)
    filters = mel_filterbank_htk(sr=sr, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
    y = as_float(y)
    _check_samples(y, 1)
    frames = 1 + max(0, math.ceil((y.shape[-1] - win_length) / hop_length))
    missing = (frames - 1) * hop_length + win_length - y.shape[-1]

    def compute(y):
        y = preemphasis(y, coef=preemph, zi=0)
        framed = frame(jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, missing)]), win_length, hop_length)
        spectrum = jnp.fft.rfft(framed * window.astype(y.dtype), n=n_fft)
        power = (spectrum.real**2 + spectrum.imag**2) / n_fft
        bands = jnp.matmul(power, filters.astype(y.dtype), precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([bands, power.sum(-1, keepdims=True)], -1)

    both = in_chunks(compute, y)
    return both[..., :-1], both[..., -1]


def log_filterbank_htk(y: jax.Array, **options: Any) -> jax.Array:
    """Compute the natural logarithm of the mel energies, `(..., samples)` → `(..., frames, n_mels)`.

    Equals `python_speech_features.logfbank`; `options` are the arguments of `fbank_htk`. An energy of exactly 0 becomes
    2.2e-16 (the epsilon of float64), also in float32; other energies have no lower limit. In float32, signals below about 1e-20
    have energy 0, and energies 130 dB below the maximum of the frame are rounding errors (such as the side lobes of a pure tone
    under a Hann window).
    """
    return _log(fbank_htk(y, **options)[0])


def mfcc_htk(y: jax.Array, *, n_mfcc: int = 13, lifter: float = 22, use_energy: bool = True, **options: Any) -> jax.Array:
    """Compute the mel-frequency cepstral coefficients of speech recognition, `(..., samples)` → `(..., frames, n_mfcc)`.

    Equals `python_speech_features.mfcc`. `log_filterbank_htk` describes energies of zero.

    Args:
      y: real array (..., samples), as in `fbank_htk`.
      n_mfcc: int in [1, n_mels], number of coefficients.
      lifter: float ≥ 0. Coefficient n is multiplied by 1 + lifter / 2 · sin(π n / lifter); 0 disables this.
      use_energy: bool. Replaces coefficient 0 by the logarithm of the frame's energy.
      options: further arguments of `fbank_htk`.

    Raises `UserError` if an argument is out of range.
    """
    bands, energy = fbank_htk(y, **options)
    cepstra = _lifted(_cepstra(_log(bands), n_mfcc, "n_mfcc"), lifter, 0)
    return jnp.concatenate([_log(energy)[..., None], cepstra[..., 1:]], -1) if use_energy else cepstra


@functools.lru_cache
def _slope(width: int, order: int) -> np.ndarray:
    """Return weights (width,) that give the `order`-th derivative of the least-squares polynomial of `width` frames."""
    half = width // 2
    powers = np.vander(np.arange(-half, half + 1) / half, order + 1, increasing=True)
    return np.linalg.pinv(powers)[order] * math.factorial(order) / half**order


def delta(data: jax.Array, *, width: int = 9, order: int = 1, mode: str = "interp") -> jax.Array:
    """Compute time derivatives of features, `(..., frames, bins)` → same shape: `librosa.feature.delta` with bins last.

    The result is the `order`-th derivative per frame of the polynomial of degree `order` that fits `width` frames in the
    least-squares sense (Savitzky and Golay 1964).

    Args:
      data: real array (..., frames, bins).
      width: int, odd, ≥ 3 and > order, number of frames in the fit.
      order: int ≥ 1, order of the derivative.
      mode: str, values at both ends. "interp" uses the polynomial of the first or last `width` frames and needs `width`
        frames. The other modes pad: "nearest" (the end frame), "mirror" (reflection at the end frame), "constant" (zeros),
        "wrap" (the other end).

    Raises `UserError` if an argument is out of range.
    """
    padding = console.pick("mode", mode, DELTA_MODES)
    if width < 3 or width % 2 == 0:
        raise UserError(f"width must be an odd number of at least 3 frames, and was given {width}")
    if not 1 <= order < width:
        raise UserError(f"order must lie in [1, width - 1 = {width - 1}], and was given {order}")
    series = jnp.swapaxes(as_features(data), -1, -2)
    frames = series.shape[-1]
    if frames < (width if mode == "interp" else 1):
        needed = f"at least width = {width} frames for mode 'interp'" if mode == "interp" else "at least 1 frame"
        raise UserError(f"delta needs {needed}, and was given {frames}")
    ends = [(0, 0)] * (series.ndim - 1) + [(width // 2, width // 2)]
    if mode != "interp":
        series = jnp.pad(series, ends, mode=padding)
    weights = _slope(width, order).astype(series.dtype)
    slopes = jnp.einsum("...tw,w->...t", frame(series, width, 1), weights, precision=jax.lax.Precision.HIGHEST)
    # The `order`-th derivative of a polynomial of degree `order` is constant: the ends repeat it.
    return jnp.swapaxes(jnp.pad(slopes, ends, mode="edge") if mode == "interp" else slopes, -1, -2)


def preemphasis(y: jax.Array, *, coef: float = 0.97, zi: jax.Array | float | None = None) -> jax.Array:
    """Compute y[t] - coef · y[t - 1], `(..., samples)` → same shape: `librosa.effects.preemphasis`.

    Args:
      y: real array (..., samples).
      coef: float, the coefficient.
      zi: float or array (..., 1), added to the first sample. Default: 2 y[0] - y[1], which needs 2 samples. Use 0 to keep the
        first sample, and -coef · x to continue after a block whose last sample was x.
    """
    y = as_float(y)
    _check_samples(y, 2 if zi is None else 1)
    start = 2 * y[..., :1] - y[..., 1:2] if zi is None else jnp.asarray(zi, y.dtype)
    return jnp.concatenate([y[..., :1] + start, y[..., 1:] - coef * y[..., :-1]], -1)


def _log(energy: jax.Array) -> jax.Array:
    """Return the natural logarithm. Zero is replaced by the epsilon of float64 and has gradient zero."""
    return jnp.log(jnp.where(energy == 0, jnp.asarray(np.finfo(np.float64).eps, energy.dtype), energy))


def _check_samples(y: jax.Array, needed: int) -> None:
    if y.shape[-1] < needed:
        raise UserError(f"the signal must have at least {needed} samples, and has {y.shape[-1]}")
