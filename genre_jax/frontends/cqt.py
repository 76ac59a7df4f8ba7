"""Constant-Q and variable-Q transforms `(..., samples)` → `(..., frames, bins)` with librosa's arguments.

Each value is an inner product of the signal with a filter, a windowed complex tone. Low bins have long filters. They use a
decimated signal and a short kernel, the least-squares equivalent of the long filter. The kernel compensates the decimation
filter, and allows the centre of a frame to lie between two samples of the decimated signal.

The values are those of `librosa.vqt` (sparsity 0) with bins last. The differences are:
- librosa mirrors the windows in time. A periodic window is zero only at its start: the difference is 3 % of the largest value.
- librosa resamples unless hop_length is odd. It mirrors the windows, and applies a `norm` other than 1, at each sample rate.
- librosa omits the negative frequencies of the wide, low filters of `vqt`.
With resampling, 99 % of the loud cells are within 0.7 dB of librosa for `cqt`, and within 2 dB for `vqt`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.frontends.mel import check_tuning
from genre_jax.frontends.scaling import as_float
from genre_jax.frontends.stft import PAD_MODES, fft_window, in_chunks

C1 = 440.0 * 2 ** (-45 / 12)
# Glasberg and Moore's equivalent rectangular bandwidth is 24.7 + 0.108 f Hz (Hearing Research 47, 1990).
_ERB_HZ, _ERB_SLOPE = 24.7, 0.108
# A bin uses the lowest sample rate at which the relative error of its kernel (2-norm) is below this.
_TOLERANCE = 2e-5
_RATIO = 4  # factor from one sample rate to the next
_SLOWEST = 256  # largest decimation factor
_SIDE = 40  # half the length of the decimation filter
_REACH = 12  # samples that a kernel adds to each end of its filter
_BLOCK = 16  # decimated samples from one row of a matrix product
_GROUP = 16  # largest number of different delays of frames relative to the decimated signal
_PIECES = 12  # approximate number of pieces of a kernel when frames are dense


class Level(NamedTuple):
    """The bins that use the signal decimated by `factor`, with their kernels for groups of `group` frames."""

    factor: int
    bins: int
    group: int
    hop: int  # decimated samples from group to group
    first: int  # first decimated sample of the kernel, relative to the centre of the first frame
    kernel: np.ndarray  # (decimated samples, group * 2 * bins)


def cqt_frequencies(
    *, n_bins: int = 84, fmin: float | None = None, bins_per_octave: int = 12, tuning: float = 0.0
) -> np.ndarray:
    """Return the centre frequencies (n_bins,) in Hz: `librosa.cqt_frequencies`.

    Args:
      n_bins: int ≥ 1, number of bins.
      fmin: float > 0, centre of the lowest bin in Hz. Default: C1, 32.703 Hz.
      bins_per_octave: int ≥ 1.
      tuning: float, shift of all centres in bins.
    """
    fmin = C1 if fmin is None else fmin
    for name, value in (("n_bins", n_bins), ("bins_per_octave", bins_per_octave)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, and was given {value}")
    check_tuning(tuning)
    if not 0 < fmin < math.inf:
        raise UserError(f"fmin must be above 0 Hz, and was given {fmin}")
    return fmin * 2.0 ** ((np.arange(n_bins) + tuning) / bins_per_octave)


def _lengths(
    hertz: np.ndarray, sr: float, bins_per_octave: int, window: Any, filter_scale: float, gamma: float | None
) -> np.ndarray:
    """Return the lengths of the filters in samples, as floats. Checks that no filter exceeds sr / 2."""
    if not filter_scale > 0:
        raise UserError(f"filter_scale must be above 0, and was given {filter_scale}")
    if gamma is not None and not gamma >= 0:
        raise UserError(f"gamma must be at least 0 Hz, or None, and was given {gamma}")
    step = 2.0 ** (2 / bins_per_octave)
    alpha = (step - 1) / (step + 1)
    gamma = alpha * _ERB_HZ / _ERB_SLOPE if gamma is None else gamma
    taper = fft_window(window, 1000, 1000)
    noise_bandwidth = 1000 * (taper**2).sum() / taper.sum() ** 2
    top = hertz[-1] * (1 + 0.5 * noise_bandwidth * alpha / filter_scale) + 0.5 * gamma
    if not top <= sr / 2:
        raise UserError(
            f"bin {len(hertz)} at {hertz[-1]:.1f} Hz reaches up to {top:.1f} Hz, and must stay below sr / 2 = {sr / 2} Hz: "
            "use a lower n_bins or fmin"
        )
    return filter_scale * sr / (alpha * hertz + gamma)


def _filter(hertz: float, length: float, sr: float, window: Any, norm: float | None) -> np.ndarray:
    """Return one filter of `librosa.filters.wavelet` in complex128. The phase is zero at sample ceil(length / 2)."""
    time = np.arange(-math.ceil(length / 2), math.floor(length / 2))
    taper = fft_window(window, len(time), len(time))
    size = 1.0 if norm is None else np.linalg.norm(taper, norm)
    return taper / size * np.exp(2j * np.pi * hertz / sr * time)


@functools.lru_cache
def _decimator(factor: int) -> np.ndarray:
    """Return a low-pass filter of odd length for decimation by `factor`, a power of `_RATIO`.

    Each stage is a sinc with a Kaiser window.
    """
    if factor == 1:
        return np.ones(1)
    stage = np.sinc(np.arange(-_SIDE, _SIDE + 1) / _RATIO) * np.kaiser(2 * _SIDE + 1, 10.0)
    before = factor // _RATIO
    spread = np.zeros(2 * _SIDE * before + 1)
    spread[::before] = stage / stage.sum()
    return np.convolve(_decimator(before), spread)


@functools.lru_cache
def _decimator_spectrum(factor: int, size: int) -> np.ndarray:
    """Return the spectrum of `_decimator`, centred on sample 0: (factor, size // factor). Decimation adds up the rows."""
    taps = _decimator(factor)
    padded = np.pad(taps, (0, size - len(taps)))
    return np.fft.fft(np.roll(padded, -(len(taps) // 2))).reshape(factor, -1)


def _energy(x: np.ndarray) -> float:
    """Return the sum of |x|²."""
    return (x.real**2 + x.imag**2).sum()


def _equivalent(taps: np.ndarray, centre: int, factor: int, delays: list[int]) -> tuple[np.ndarray, float]:
    """Compute kernels for the decimated signal that replace the filter `taps` for the signal (least squares).

    Args:
      taps: complex array (samples,), the filter.
      centre: int, index of the sample of `taps` on which a frame is centred.
      factor: int, the decimation factor.
      delays: number of samples of the signal from the centre of the kernel to `taps[centre]`, for each kernel. The first is 0.

    Returns (kernels (delays, 2 * side + 1), relative error of the first kernel in the 2-norm).
    """
    side = -(-(centre + 1) // factor) + (_REACH if factor > 1 else 0)
    size = 2 ** math.ceil(math.log2((2 * side + 2) * factor + len(_decimator(factor))))
    low = _decimator_spectrum(factor, size)
    wanted = np.fft.fft(np.roll(np.pad(taps, (0, size - len(taps))), -centre)).reshape(factor, -1)
    # Normal equations at every `factor`-th sample: the autocorrelation of the decimation filter, convolved with the kernel, is
    # the cross-correlation of both filters.
    right = np.fft.ifft((low.conj() * wanted).reshape(-1)) * factor
    delayed = right[np.arange(0, size, factor) - np.array(delays)[:, None]]
    kernels = np.fft.ifft(np.fft.fft(delayed) / (np.abs(low) ** 2).sum(0))
    kernels[:, side + 1 : -side] = 0
    error = math.sqrt(_energy(wanted - low * np.fft.fft(kernels[0])) / _energy(wanted))
    return np.roll(kernels, side, axis=1)[:, : 2 * side + 1], error


def _level(factor: int, hop_length: int, kernels: list[np.ndarray]) -> Level:
    """Combine the kernels of all bins, each (delays, odd length), into one matrix that computes a group of frames at once."""
    delays, bins = len(kernels[0]), len(kernels)
    side = max(kernel.shape[1] for kernel in kernels) // 2
    hop = hop_length * delays // factor
    repeat = max(1, round((2 * side + 1) / (_PIECES * hop)))
    group = repeat * delays
    place = [frame * hop_length // factor for frame in range(group)]
    matrix = np.zeros((2 * side + 1 + place[-1], group, 2, bins))
    for number, kernel in enumerate(kernels):
        offset = side - kernel.shape[1] // 2
        for frame in range(group):
            taps = kernel[frame % delays]
            rows = slice(place[frame] + offset, place[frame] + offset + len(taps))
            matrix[rows, frame, 0, number] = taps.real
            matrix[rows, frame, 1, number] = taps.imag
    return Level(factor, bins, group, hop * repeat, -side, matrix.reshape(len(matrix), -1))


@functools.lru_cache(maxsize=16)
def _plan(
    sr: float, hop_length: int, fmin: float | None, n_bins: int, bins_per_octave: int, tuning: float, filter_scale: float,
    norm: float | None, window: Any, scale: bool, gamma: float | None,
) -> tuple[int, tuple[Level, ...]]:  # fmt: skip
    """Return half the length of the longest filter in samples, and the levels from the highest bins to the lowest bins."""
    hertz = cqt_frequencies(n_bins=n_bins, fmin=fmin, bins_per_octave=bins_per_octave, tuning=tuning)
    lengths = _lengths(hertz, sr, bins_per_octave, window, filter_scale, gamma)
    by_factor: dict[int, list[np.ndarray]] = {}
    factor = _SLOWEST
    for frequency, length in zip(hertz, lengths, strict=True):
        taps = _filter(frequency, length, sr, window, norm).conj() * (math.sqrt(length) if scale else length)
        while True:
            delays = factor // math.gcd(factor, hop_length)
            if delays <= _GROUP:
                places = [frame * hop_length % factor for frame in range(delays)]
                kernels, error = _equivalent(taps, math.ceil(length / 2), factor, places)
                if factor == 1 or error < _TOLERANCE:
                    break
            factor //= _RATIO
        by_factor.setdefault(factor, []).append(kernels)
    levels = [_level(factor, hop_length, kernels) for factor, kernels in by_factor.items()]
    return math.ceil(lengths.max() / 2), tuple(reversed(levels))


def _correlate(x: jax.Array, start: int, kernel: np.ndarray, hop: int, count: int) -> jax.Array:
    """Return the inner products `(..., count, channels)` of x, from sample `start` + t · `hop`, with `kernel`.

    `kernel` has the shape (samples, channels). Zeros surround x. This method needs no overlapping frames: it cuts x into rows
    of `hop` samples and the kernel into pieces, multiplies all rows by all pieces in one matrix product, and adds up diagonals.
    """
    samples, channels = kernel.shape
    pieces = -(-samples // hop)
    width = min(samples, hop)
    length = (count + pieces - 1) * hop
    lead = [(0, 0, 0)] * (x.ndim - 1)
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [*lead, (-start, start + length - x.shape[-1], 0)])
    rows = x.reshape(*x.shape[:-1], -1, hop)[..., :width]
    cut = np.pad(kernel, ((0, pieces * width - samples), (0, 0))).reshape(pieces, width, channels)
    matrix = np.swapaxes(cut, 0, 1).reshape(width, -1).astype(x.dtype)
    products = jnp.matmul(rows, matrix, precision=jax.lax.Precision.HIGHEST)
    products = products.reshape(*products.shape[:-1], pieces, channels)
    return functools.reduce(jnp.add, [products[..., piece : piece + count, piece, :] for piece in range(pieces)])


def _decimate(x: jax.Array, zero: int) -> tuple[jax.Array, int]:
    """Decimate x by `_RATIO`, with all samples at both ends that the filter can reach.

    `zero` is the index of time 0 in x. Returns (decimated signal, index of time 0 in it).
    """
    taps = _decimator(_RATIO)
    kernel = np.zeros(((_BLOCK - 1) * _RATIO + len(taps), _BLOCK))
    for column in range(_BLOCK):
        kernel[column * _RATIO : column * _RATIO + len(taps), column] = taps
    before = (zero + _SIDE) // _RATIO
    after = (x.shape[-1] - zero - 1 + _SIDE) // _RATIO + 1
    blocks = -(-(before + after) // _BLOCK)
    low = _correlate(x, zero - before * _RATIO - _SIDE, kernel, _BLOCK * _RATIO, blocks)
    return low.reshape(*low.shape[:-2], -1), before


def _transform(y: jax.Array, levels: tuple[Level, ...], zero: int, frames: int) -> jax.Array:
    """Compute the transform `(..., frames, bins)` of y (..., samples). Frame 0 is centred on sample `zero`."""
    bands, factor = [], 1
    for level in levels:
        while factor < level.factor:
            y, zero = _decimate(y, zero)
            factor *= _RATIO
        z = _correlate(y, zero + level.first, level.kernel, level.hop, -(-frames // level.group))
        z = z.reshape(*z.shape[:-2], -1, 2, level.bins)[..., :frames, :, :]
        bands.append(z)
    z = jnp.concatenate(bands[::-1], -1)
    return jax.lax.complex(z[..., 0, :], z[..., 1, :])


def vqt(
    y: jax.Array,
    *,
    sr: float = 22050,
    hop_length: int = 512,
    fmin: float | None = None,
    n_bins: int = 84,
    gamma: float | None = None,
    bins_per_octave: int = 12,
    tuning: float = 0.0,
    filter_scale: float = 1,
    norm: float | None = 1,
    window: Any = "hann",
    scale: bool = True,
    pad_mode: str = "constant",
) -> jax.Array:
    """Compute the complex variable-Q transform, `(..., samples)` → `(..., 1 + samples // hop_length, n_bins)`.

    Bin k of frame t is the inner product of the signal around sample t · hop_length with filter k of
    `librosa.filters.wavelet`, times its length (with `scale`, its root), up to 5e-4 of the largest value. The module docstring
    lists the differences from `librosa.vqt`.

    Args:
      y: real array (..., samples), usually in [-1, 1]; at least 1 sample.
      sr: float > 0, sample rate in Hz.
      hop_length: int ≥ 1, samples from frame to frame. The default is 23 ms at 22,050 Hz.
      fmin: float > 0, centre of the lowest bin in Hz. Default: C1, 32.703 Hz.
      n_bins: int ≥ 1, number of bins. The highest bin with half its bandwidth must be below sr / 2.
      gamma: float ≥ 0, Hz added to the bandwidth of each filter. Default: 24.7 / 0.108 of the relative bandwidth (hearing).
      bins_per_octave, tuning: int ≥ 1; float, shift of all centres in bins.
      filter_scale: float > 0, factor of the filter lengths. Values below 1 improve the resolution in time.
      norm: float > 0 or inf, order of the norm that scales each filter to 1. None does not scale.
      window: a name or tuple of `scipy.signal.get_window` (periodic).
      scale: bool. Divides by the root of each filter's length.
      pad_mode: str, padding of both ends: "constant" (zeros), "reflect" (repeated if the clip is short) or "edge".

    Raises `UserError` if an argument is out of range.
    """
    if hop_length < 1:
        raise UserError(f"hop_length must be at least 1, and was given {hop_length}")
    if pad_mode not in PAD_MODES:
        raise console.unknown("pad_mode", pad_mode, PAD_MODES)
    if not isinstance(window, str | tuple):
        raise UserError(
            f"window must be a name or tuple of scipy.signal.get_window, because filters differ in length, not {window!r}"
        )
    if norm is not None and not (isinstance(norm, int | float) and norm > 0):
        raise UserError(f"norm must be a number above 0, inf or None, and was given {norm!r}")
    y = as_float(y)
    side, levels = _plan(
        sr, hop_length, fmin, n_bins, bins_per_octave, tuning, filter_scale, norm, window, scale, gamma
    )  # fmt: skip
    frames = 1 + y.shape[-1] // hop_length
    if pad_mode == "constant":
        return in_chunks(lambda y: _transform(y, levels, 0, frames), y)
    place = np.pad(np.arange(y.shape[-1]), side, mode=pad_mode)  # type: ignore[call-overload]
    y = jnp.concatenate([y[..., place[:side]], y, y[..., place[-side:]]], -1)
    return in_chunks(lambda y: _transform(y, levels, side, frames), y)


def cqt(
    y: jax.Array,
    *,
    sr: float = 22050,
    hop_length: int = 512,
    fmin: float | None = None,
    n_bins: int = 84,
    bins_per_octave: int = 12,
    tuning: float = 0.0,
    filter_scale: float = 1,
    norm: float | None = 1,
    window: Any = "hann",
    scale: bool = True,
    pad_mode: str = "constant",
) -> jax.Array:
    """Compute the complex constant-Q transform, `(..., samples)` → `(..., 1 + samples // hop_length, n_bins)`.

    This is `vqt` with gamma = 0, and `librosa.cqt` with bins last. The arguments are those of `vqt`.
    """
    return vqt(
        y, sr=sr, hop_length=hop_length, fmin=fmin, n_bins=n_bins, gamma=0, bins_per_octave=bins_per_octave, tuning=tuning,
        filter_scale=filter_scale, norm=norm, window=window, scale=scale, pad_mode=pad_mode,
    )  # fmt: skip
