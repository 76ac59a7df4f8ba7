"""Constant-Q and variable-Q transforms with librosa's arguments: inner products with windowed complex tones.

Low bins read a decimated signal through short kernels, each the least-squares equivalent of its long filter: what the
decimation filter does is thereby made good, and a frame's centre may fall between two samples of the decimated signal.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.console import UserError
from genre_jax.frontends.scaling import as_float
from genre_jax.frontends.stft import PAD_MODES, fft_window, in_chunks

C1 = 440.0 * 2 ** (-45 / 12)
# Glasberg and Moore's equivalent rectangular bandwidth is 24.7 + 0.108 f Hz (Hearing Research 47, 1990).
_ERB_HZ, _ERB_SLOPE = 24.7, 0.108
# A bin takes the lowest sample rate at which its kernel equals its filter to this, relative, in the 2-norm.
_TOLERANCE = 2e-5
_RATIO = 4  # from one sample rate to the next
_SLOWEST = 256  # the most the signal is decimated by
_SIDE = 40  # half the length of the decimation filter
_REACH = 12  # samples that a kernel is longer than its filter, at either end
_BLOCK = 16  # decimated samples made by one row of a matrix product
_GROUP = 16  # the most different delays that frames may have against the decimated signal
_PIECES = 12  # a kernel is cut into about this many pieces where frames are dense


class Level(NamedTuple):
    """The bins that read the signal decimated by `factor`, and their kernels, for groups of `group` frames."""

    factor: int
    bins: int
    group: int
    hop: int  # decimated samples from group to group
    first: int  # the decimated sample where the kernel begins, relative to the first frame's centre
    kernel: np.ndarray  # (decimated samples, group * 2 * bins)


def cqt_frequencies(
    *, n_bins: int = 84, fmin: float | None = None, bins_per_octave: int = 12, tuning: float = 0.0
) -> np.ndarray:
    """Centre frequencies in Hz: geometric from `fmin` (default C1, 32.703 Hz), which `tuning` raises by a part of a bin."""
    fmin = C1 if fmin is None else fmin
    for name, value in (("n_bins", n_bins), ("bins_per_octave", bins_per_octave)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, and was given {value}")
    if not 0 < fmin < math.inf:
        raise UserError(f"fmin must be above 0 Hz, and was given {fmin}")
    return fmin * 2.0 ** ((np.arange(n_bins) + tuning) / bins_per_octave)


def _lengths(
    hertz: np.ndarray, sr: float, bins_per_octave: int, window: Any, filter_scale: float, gamma: float | None
) -> np.ndarray:
    """Lengths of the filters in samples, fractional; checks that none reaches above sr / 2."""
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
            "lower n_bins or fmin"
        )
    return filter_scale * sr / (alpha * hertz + gamma)


def _filter(hertz: float, length: float, sr: float, window: Any, norm: float | None) -> np.ndarray:
    """One filter, complex128: `librosa.filters.wavelet`, with phase zero at sample ceil(length / 2)."""
    time = np.arange(-math.ceil(length / 2), math.floor(length / 2))
    taper = fft_window(window, len(time), len(time))
    size = 1.0 if norm is None else np.linalg.norm(taper, norm)
    return taper / size * np.exp(2j * np.pi * hertz / sr * time)


@functools.lru_cache
def _decimator(factor: int) -> np.ndarray:
    """Low-pass filter of odd length for decimation by `factor`, a power of `_RATIO`: Kaiser-windowed sinc, stage by stage."""
    if factor == 1:
        return np.ones(1)
    stage = np.sinc(np.arange(-_SIDE, _SIDE + 1) / _RATIO) * np.kaiser(2 * _SIDE + 1, 10.0)
    before = factor // _RATIO
    spread = np.zeros(2 * _SIDE * before + 1)
    spread[::before] = stage / stage.sum()
    return np.convolve(_decimator(before), spread)


@functools.lru_cache
def _decimator_spectrum(factor: int, size: int) -> np.ndarray:
    """Spectrum of `_decimator`, centred at sample 0, (factor, size // factor): the rows fold onto one another."""
    taps = _decimator(factor)
    padded = np.pad(taps, (0, size - len(taps)))
    return np.fft.fft(np.roll(padded, -(len(taps) // 2))).reshape(factor, -1)


def _energy(x: np.ndarray) -> float:
    return (x.real**2 + x.imag**2).sum()


def _equivalent(taps: np.ndarray, centre: int, factor: int, delays: list[int]) -> tuple[np.ndarray, float]:
    """Kernels for the decimated signal that do what the filter `taps` does to the signal, by least squares.

    Kernel d `(delays, 2 * side + 1)` has a sample of the decimated signal in its middle, and `taps[centre]` belongs
    `delays[d]` samples of the signal later. Returns them and the relative error of the first (no delay), in the 2-norm.
    """
    side = -(-(centre + 1) // factor) + (_REACH if factor > 1 else 0)
    size = 2 ** math.ceil(math.log2((2 * side + 2) * factor + len(_decimator(factor))))
    low = _decimator_spectrum(factor, size)
    wanted = np.fft.fft(np.roll(np.pad(taps, (0, size - len(taps))), -centre)).reshape(factor, -1)
    # The normal equations: filter and decimation filter correlated, against the latter with itself, every `factor` samples.
    right = np.fft.ifft((low.conj() * wanted).reshape(-1)) * factor
    delayed = right[np.arange(0, size, factor) - np.array(delays)[:, None]]
    kernels = np.fft.ifft(np.fft.fft(delayed) / (np.abs(low) ** 2).sum(0))
    kernels[:, side + 1 : -side] = 0
    error = math.sqrt(_energy(wanted - low * np.fft.fft(kernels[0])) / _energy(wanted))
    return np.roll(kernels, side, axis=1)[:, : 2 * side + 1], error


def _level(factor: int, hop_length: int, kernels: list[np.ndarray]) -> Level:
    """The bins with these `kernels` (each (delays, odd length)) as one matrix, every group of frames a row of its product."""
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
    """(half the longest filter's length in samples, the levels from the highest bins to the lowest)."""
    hertz = cqt_frequencies(n_bins=n_bins, fmin=fmin, bins_per_octave=bins_per_octave, tuning=tuning)
    lengths = _lengths(hertz, sr, bins_per_octave, window, filter_scale, gamma)
    found: dict[int, list[np.ndarray]] = {}
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
        found.setdefault(factor, []).append(kernels)
    levels = [_level(factor, hop_length, kernels) for factor, kernels in found.items()]
    return math.ceil(lengths.max() / 2), tuple(reversed(levels))


def _correlate(x: jax.Array, start: int, kernel: np.ndarray, hop: int, count: int) -> jax.Array:
    """Inner products `(..., count, channels)` of x from `start` + t · `hop` on with `kernel` (samples, channels).

    x is zero outside itself. One matrix product of the rows of x, cut every `hop` samples, with the kernel's pieces,
    then a sum along its diagonals: no overlapping frames are made.
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
    """x at a `_RATIO`-th of its rate, with everything its filter reaches; `zero` is the place of time 0, before and after."""
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
    """The transform of y (..., samples), whose frames are centred from sample `zero` on."""
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
    """Complex variable-Q transform `(..., 1 + samples // hop_length, n_bins)`: `librosa.vqt` (sparsity 0), bins last.

    Bin k of frame t is the inner product of the signal around sample t · hop_length with filter k of
    `librosa.filters.wavelet`, times its length (with `scale`, the root of it), to 5e-4 of the largest value.

    Where it does not resample (odd hops) librosa is this with the windows mirrored in time: 3 % of the largest value,
    since a periodic window is zero at its start alone. Elsewhere it does that at every rate it resamples to, and its
    `norm` other than 1 goes by that rate: 99 loud cells in 100 are within 0.7 dB for `cqt`, within 2 dB for `vqt`, of
    whose broad low filters it leaves out the negative frequencies.

    Args:
      y: (..., samples), real, in [-1, 1] by custom; at least one sample.
      sr: sample rate in Hz.
      hop_length: samples between frames, any integer ≥ 1 (512 is 23 ms at 22,050 Hz).
      fmin: centre of the lowest bin in Hz; default C1, 32.703 Hz.
      n_bins: number of bins; the highest with half its bandwidth must stay below sr / 2.
      gamma: Hz added to each filter's bandwidth, ≥ 0; None for the ear's, 24.7 / 0.108 of the relative bandwidth.
      bins_per_octave: bins to the octave, ≥ 1.
      tuning: part of a bin that all centres are raised by.
      filter_scale: factor of the filters' lengths, > 0; below 1 sharper in time.
      norm: each filter's norm of this order is 1: a number > 0, inf, or None for the window as it is.
      window: a name or tuple of `scipy.signal.get_window` (periodic).
      scale: divide by the root of each filter's length.
      pad_mode: what lies beyond the ends: constant (zeros), reflect (again and again where the clip is short) or edge.

    Raises UserError where an argument is out of range.
    """
    if hop_length < 1:
        raise UserError(f"hop_length must be at least 1, and was given {hop_length}")
    if pad_mode not in PAD_MODES:
        raise console.unknown("pad_mode", pad_mode, PAD_MODES)
    if not isinstance(window, str | tuple):
        raise UserError(
            f"window must be a name or tuple of scipy.signal.get_window, since filters differ in length, not {window!r}"
        )
    if norm is not None and not (isinstance(norm, int | float) and norm > 0):
        raise UserError(f"norm must be a number above 0, inf or None, and was given {norm!r}")
    y = as_float(y)
    if y.shape[-1] < 1:
        raise UserError(f"the signal must have at least 1 sample, and has {y.shape[-1]}")
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
    """Complex constant-Q transform `(..., 1 + samples // hop_length, n_bins)`: `librosa.cqt`, bins last: `vqt` of gamma 0."""
    return vqt(
        y, sr=sr, hop_length=hop_length, fmin=fmin, n_bins=n_bins, gamma=0, bins_per_octave=bins_per_octave, tuning=tuning,
        filter_scale=filter_scale, norm=norm, window=window, scale=scale, pad_mode=pad_mode,
    )  # fmt: skip
