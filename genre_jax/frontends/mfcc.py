"""Cepstra: librosa's MFCC, the speech convention's, LFCC; and what goes with them: deltas and pre-emphasis."""

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
from genre_jax.frontends.scaling import as_float
from genre_jax.frontends.stft import fft_window, frame, in_chunks, lengths

DELTA_MODES = {"interp": "", "nearest": "edge", "mirror": "reflect", "constant": "constant", "wrap": "wrap"}
# The windows of mfcc_htk are symmetric, as in HTK; those of stft are periodic.
HTK_WINDOWS: dict[str, Callable] = {
    "boxcar": np.ones,
    "hamming": np.hamming,
    "hann": np.hanning,
    "blackman": np.blackman,
    "bartlett": np.bartlett,
}


@functools.lru_cache
def _dct_matrix(size: int, dct_type: int, norm: str) -> np.ndarray:
    """The cosine transform of `scipy.fft.dct` as a matrix (input, output) in float64."""
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
    """The first `count` cosine coefficients over the bands; `kind` is what an error calls them."""
    size = bands.shape[-1]
    if not 1 <= count <= size:
        raise UserError(f"{kind} must lie in [1, {size}], the number of bands, and was given {count}")
    matrix = _dct_matrix(size, dct_type, norm)[:, :count]
    return jnp.matmul(bands, matrix.astype(bands.dtype), precision=jax.lax.Precision.HIGHEST)


def _lifted(cepstra: jax.Array, lifter: float, first: int) -> jax.Array:
    """Coefficient n times 1 + lifter / 2 · sin(π (n + first) / lifter); 0 for none."""
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
    """Mel-frequency cepstral coefficients `(..., frames, n_mfcc)`: `librosa.feature.mfcc`, bins last.

    The cosine transform of the mel power spectrogram in dB (ref 1, floor 80 dB below each clip's loudest cell; librosa
    before 1.0 floors all clips of a batch by the loudest of them).

    Args:
      y: (..., samples).
      sr: sample rate in Hz.
      n_mfcc: number of coefficients, in [1, n_mels]. librosa cuts a larger one to n_mels.
      dct_type: 1, 2 or 3.
      norm: of the cosine transform, "ortho" or "none" (librosa's None: scipy's factor of 2).
      lifter: coefficient n is scaled by 1 + lifter / 2 · sin(π (n + 1) / lifter); 0 for none.
      mel_norm: `mel_spectrogram`'s norm.
      options: the other arguments of `mel_spectrogram`: n_fft, hop_length, n_mels (128), fmin, fmax, htk, ….

    Raises UserError where an argument is out of range.
    """
    decibels = power_to_db(mel_spectrogram(y, sr=sr, norm=mel_norm, **options))
    return _lifted(_cepstra(decibels, n_mfcc, "n_mfcc", dct_type=dct_type, norm=norm), lifter, 1)


@functools.lru_cache
def linear_filterbank(
    *, sr: float, n_fft: int, n_filters: int = 128, fmin: float = 0.0, fmax: float | None = None
) -> np.ndarray:
    """Triangular filters of equal width and peak 1, `(1 + n_fft // 2, n_filters)` in float64.

    `torchaudio.functional.linear_fbanks`, which for an odd `n_fft` takes the last bin to lie at sr / 2 where it lies at
    (n_fft - 1) / n_fft of that, and for an odd `sr` takes (sr - 1) / 2 for it. The centres are evenly spaced in Hz,
    `fmin` and `fmax` (default sr / 2) one step outside them. Raises UserError where a range is not legal.
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
    """Linear-frequency cepstral coefficients `(..., frames, n_lfcc)`: `mfcc` with `linear_filterbank` for the mel one.

    The orthonormal cosine transform (type 2) of the filters' power in dB (ref 1, floor 80 dB below each clip's loudest).
    `torchaudio.transforms.LFCC` with `log_lf=False` and the same n_fft, hop_length and `pad_mode="reflect"`, except that
    its filterbank differs for odd n_fft and that the channels of a recording share one floor there.

    Args:
      y: (..., samples).
      sr: sample rate in Hz.
      n_lfcc: number of coefficients, in [1, n_filters].
      n_filters, fmin, fmax: those of `linear_filterbank`.
      n_fft, hop_length: those of `stft`, with librosa's defaults.
      options: the other arguments of `stft`.

    Raises UserError where an argument is out of range.
    """
    filters = linear_filterbank(sr=sr, n_fft=n_fft, n_filters=n_filters, fmin=fmin, fmax=fmax)
    power = filtered_spectrogram(y, filters, n_fft=n_fft, hop_length=hop_length, **options)
    return _cepstra(power_to_db(power), n_lfcc, "n_lfcc")


@functools.lru_cache
def mel_filterbank_htk(*, sr: float, n_fft: int, n_mels: int = 26, fmin: float = 0.0, fmax: float | None = None) -> np.ndarray:
    """Triangular filters `(1 + n_fft // 2, n_mels)`: `python_speech_features.get_filterbanks` transposed.

    Edges evenly spaced on HTK's mel scale are rounded down to FFT bins, floor((n_fft + 1) · Hz / sr), and the triangles
    (peak 1) run between those bins. Raises UserError where a range is not legal; warns of filters that catch no bin.
    """
    fmax = check_band(sr, fmin, fmax, "n_mels", n_mels)
    hertz = mel_to_hz(np.linspace(hz_to_mel(fmin, htk=True), hz_to_mel(fmax, htk=True), n_mels + 2), htk=True)
    edges = np.floor((n_fft + 1) * hertz / sr)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(1 + n_fft // 2)[:, None]
    # Two edges on one bin leave that side of the triangle empty: the 1 keeps the division finite there.
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
    """Mel energies `(..., frames, n_mels)` and energy `(..., frames)` of each frame: `python_speech_features.fbank`.

    Frames start at sample 0; zeros complete the last one, so there are 1 + ceil((samples - win_length) / hop_length), and
    one at least. The power spectrum is |FFT|² / n_fft, the energy its sum over bins 0 … n_fft // 2.

    Args:
      y: (..., samples), in [-1, 1]; python_speech_features is often given int16: multiply by 32768 to equal that.
      sr: sample rate in Hz.
      win_length: frame length in samples, in [1, n_fft] (there in seconds, `winlen`; a longer one is cut there).
      hop_length: samples between frames, ≥ 1 (there `winstep`).
      n_fft: FFT length; frames are padded with zeros to it.
      window: "boxcar", "hamming", "hann", "blackman" or "bartlett" in the symmetric form (NumPy's), as HTK has it; or an
        array of win_length samples.
      n_mels, fmin, fmax: those of `mel_filterbank_htk`.
      preemph: y[t] - preemph · y[t - 1] before framing, the first sample as it is; 0 for none.

    Raises UserError where an argument is out of range.
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

    def of(y):
        y = preemphasis(y, coef=preemph, zi=0)
        framed = frame(jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, missing)]), win_length, hop_length)
        spectrum = jnp.fft.rfft(framed * window.astype(y.dtype), n=n_fft)
        power = (spectrum.real**2 + spectrum.imag**2) / n_fft
        bands = jnp.matmul(power, filters.astype(y.dtype), precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([bands, power.sum(-1, keepdims=True)], -1)

    both = in_chunks(of, y)
    return both[..., :-1], both[..., -1]


def log_filterbank_htk(y: jax.Array, **options: Any) -> jax.Array:
    """Natural logarithm of the mel energies `(..., frames, n_mels)`: `python_speech_features.logfbank`.

    `options` are those of `fbank_htk`. An energy of exactly 0 becomes 2.2e-16 (float64's epsilon), as there, in float32
    too; no other energy is floored. In float32 signals below about 1e-20 have energy 0, and what lies 130 dB under the
    loudest of its frame is rounding (the side lobes of a pure tone under a Hann window).
    """
    return _log(fbank_htk(y, **options)[0])


def mfcc_htk(y: jax.Array, *, n_mfcc: int = 13, lifter: float = 22, use_energy: bool = True, **options: Any) -> jax.Array:
    """Mel-frequency cepstral coefficients `(..., frames, n_mfcc)` as speech recognisers take them.

    `python_speech_features.mfcc`, for zero energies as in `log_filterbank_htk`.

    Args:
      y: (..., samples), as in `fbank_htk`.
      n_mfcc: number of coefficients, in [1, n_mels].
      lifter: coefficient n is scaled by 1 + lifter / 2 · sin(π n / lifter); 0 for none.
      use_energy: the logarithm of the frame's energy stands in the place of coefficient 0.
      options: those of `fbank_htk`.

    Raises UserError where an argument is out of range.
    """
    bands, energy = fbank_htk(y, **options)
    cepstra = _lifted(_cepstra(_log(bands), n_mfcc, "n_mfcc"), lifter, 0)
    return jnp.concatenate([_log(energy)[..., None], cepstra[..., 1:]], -1) if use_energy else cepstra


@functools.lru_cache
def _slope(width: int, order: int) -> np.ndarray:
    """Weights (width,) whose product with a window of frames is its least-squares polynomial's `order`-th derivative."""
    half = width // 2
    powers = np.vander(np.arange(-half, half + 1) / half, order + 1, increasing=True)
    return np.linalg.pinv(powers)[order] * math.factorial(order) / half**order


def delta(data: jax.Array, *, width: int = 9, order: int = 1, mode: str = "interp") -> jax.Array:
    """Local derivative along the frames: `librosa.feature.delta` of `(..., frames, bins)`, same shape.

    The `order`-th derivative (per frame) of the polynomial of degree `order` that fits `width` frames best (Savitzky and
    Golay 1964).

    Args:
      data: (..., frames, bins), of floats.
      width: frames in the fit, odd, ≥ 3, > order.
      order: of the derivative, ≥ 1.
      mode: what stands beyond the ends: "interp" (the first and last full windows' polynomials, which takes `width` frames
        at least), "nearest" (the end frames), "mirror" (about the end frames), "constant" (zeros) or "wrap".

    Raises UserError where an argument is out of range.
    """
    padding = console.pick("mode", mode, DELTA_MODES)
    if width < 3 or width % 2 == 0:
        raise UserError(f"width must be an odd number of at least 3 frames, and was given {width}")
    if not 1 <= order < width:
        raise UserError(f"order must lie in [1, width - 1 = {width - 1}], and was given {order}")
    series = jnp.swapaxes(as_float(data), -1, -2)
    frames = series.shape[-1]
    if frames < (width if mode == "interp" else 1):
        needed = f"at least width = {width} frames for mode 'interp'" if mode == "interp" else "at least 1 frame"
        raise UserError(f"delta needs {needed}, and was given {frames}")
    ends = [(0, 0)] * (series.ndim - 1) + [(width // 2, width // 2)]
    if mode != "interp":
        series = jnp.pad(series, ends, mode=padding)
    weights = _slope(width, order).astype(series.dtype)
    slopes = jnp.einsum("...tw,w->...t", frame(series, width, 1), weights, precision=jax.lax.Precision.HIGHEST)
    # A polynomial of degree `order` has one and the same `order`-th derivative everywhere: the ends repeat it.
    return jnp.swapaxes(jnp.pad(slopes, ends, mode="edge") if mode == "interp" else slopes, -1, -2)


def preemphasis(y: jax.Array, *, coef: float = 0.97, zi: jax.Array | float | None = None) -> jax.Array:
    """y[t] - coef · y[t - 1], `(..., samples)`: `librosa.effects.preemphasis`.

    `zi`, a number or `(..., 1)`, is added to the first sample; by default 2 y[0] - y[1], which takes 2 samples. (To go on
    after a block that ended in y[-1], give -coef · y[-1].) `mfcc_htk` keeps the first sample as it is: `zi=0`.
    """
    y = as_float(y)
    _check_samples(y, 2 if zi is None else 1)
    start = 2 * y[..., :1] - y[..., 1:2] if zi is None else jnp.asarray(zi, y.dtype)
    return jnp.concatenate([y[..., :1] + start, y[..., 1:] - coef * y[..., :-1]], -1)


def _log(energy: jax.Array) -> jax.Array:
    """Natural logarithm; of zero, that of float64's epsilon, with gradient zero."""
    return jnp.log(jnp.where(energy == 0, jnp.asarray(np.finfo(np.float64).eps, energy.dtype), energy))


def _check_samples(y: jax.Array, needed: int) -> None:
    if y.shape[-1] < needed:
        raise UserError(f"the signal must have at least {needed} samples, and has {y.shape[-1]}")
