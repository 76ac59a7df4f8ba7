"""Conditioning of waveforms before the features: silence detection, loudness equalisation, noise reduction.

The front ends of document 003 (SwishNet) use these steps. The signals keep their shape `(..., samples)`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError
from genre_jax.frontends.descriptors import frame_power
from genre_jax.frontends.scaling import as_float, positive_power
from genre_jax.frontends.stft import at_least, fft_window, overlap_add
from genre_jax.frontends.stft import frame as cut

# Lower limit of a noise power |X|²: 20 dB below the rounding noise of int16 in a frame of 20 ms at 16 kHz.
NOISE_FLOOR = 1e-10
# Lower limit of v in exp(E1(v) / 2), a bin 120 dB below the noise: E1 has a pole at 0.
_V_FLOOR = 1e-12
_MAX_POSTERIOR_SNR = 40.0
_MIN_PRIOR_SNR = 10**-2.5


def silence_mask(
    y: jax.Array,
    *,
    frame_length: int = 2048,
    hop_length: int = 512,
    center: bool = True,
    pad_mode: str = "constant",
    threshold_db: float = 60.0,
    ref: float | str = "max",
) -> jax.Array:
    """Detect silent frames, `(..., samples)` → `(..., frames)`: 0 for silence, 1 for other frames, in the dtype of y.

    A frame is silent if its power is at least `threshold_db` below `ref`, as in `librosa.effects.split`. There are two
    differences. The result is a mask, because the length of a signal without its silence depends on the data. A clip of zeros
    is silent; librosa keeps it. A frame that contains NaN or Inf is NaN; with ref "max", all frames of its clip are NaN.

    Args:
      y: real array (..., samples).
      frame_length, hop_length, center, pad_mode: as in `descriptors.rms`.
      threshold_db: float ≥ 0, in dB. Document 003 does not state its value; the default is that of librosa.
      ref: float > 0, a power (mean square); or "max" for the power of the loudest frame of the clip.

    Raises `UserError` if an argument is out of range.
    """
    if not threshold_db >= 0:
        raise UserError(f"threshold_db must be at least 0, and was given {threshold_db}")
    if ref != "max" and (isinstance(ref, str) or not ref > 0):
        raise UserError(f"ref must be a power above 0 or 'max', and was given {ref!r}")
    power = frame_power(y, frame_length=frame_length, hop_length=hop_length, center=center, pad_mode=pad_mode)
    known = jnp.isfinite(power)
    if ref == "max":
        known, reference = known.all(-1, keepdims=True), power.max(-1, keepdims=True)
    else:
        reference = jnp.asarray(ref, power.dtype)
    return jnp.where(known, power > reference * 10 ** (-threshold_db / 10), jnp.nan).astype(power.dtype)


def _samples(name: str, seconds: float, sr: float) -> int:
    """Convert `seconds` to samples, ≥ 1. An error calls the argument `name`."""
    if not seconds * sr >= 0.5:
        raise UserError(f"{name} must be at least one sample of sr = {sr} Hz, and was given {seconds} s")
    return round(seconds * sr)


def _frame_deviation(y: jax.Array, frame_length: int, hop: int) -> jax.Array:
    """Compute the standard deviation of each frame, `(..., samples)` → `(..., frames)`.

    The last frame may be incomplete: samples beyond the end of the signal do not count. The result is computed from means and
    sums of squares of pieces of a hop. This avoids long overlapping frames.
    """
    samples = y.shape[-1]
    count = 1 + max(0, -(-(samples - frame_length) // hop))
    whole, rest = divmod(frame_length, hop)
    blocks = count + whole
    y = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, blocks * hop - samples)]).reshape(*y.shape[:-1], blocks, hop)
    inside = (np.arange(blocks * hop) < samples).reshape(blocks, hop)
    means, squares, sizes = [], [], []
    for width in (hop, rest):
        valid = inside[:, :width]
        size = valid.sum(-1)
        mean = y[..., :width].sum(-1) / np.maximum(size, 1).astype(y.dtype)
        means.append(mean)
        squares.append(jnp.where(valid, jnp.square(y[..., :width] - mean[..., None]), 0).sum(-1))
        sizes.append(size)
    at = np.arange(count)[:, None] + np.arange(whole + 1)
    full, last = at[:, :-1], at[:, -1:]
    mean, square = (jnp.concatenate([x[0][..., full], x[1][..., last]], -1) for x in (means, squares))
    size = np.concatenate([sizes[0][full], sizes[1][last]], -1)
    weight = (size / size.sum(-1, keepdims=True)).astype(y.dtype)
    # A product, because XLA of JAX 0.10.2 computes a sum of products incorrectly when it fuses it with the next lines.
    average = jnp.einsum("fp,...fp->...f", weight, mean, precision=jax.lax.Precision.HIGHEST)
    offset = mean - average[..., None]
    variance = square.sum(-1) / size.sum(-1).astype(y.dtype) + (weight * jnp.square(offset)).sum(-1)
    return positive_power(variance, 0.5)


def equalise_loudness(
    y: jax.Array, *, sr: float, frame: float = 0.25, hop: float = 0.01, window: str | tuple = "hann", floor: float = 1e-4
) -> jax.Array:
    """Scale a signal to a standard deviation of about 1 at all times, `(..., samples)` → same shape.

    Divides each frame by its standard deviation, multiplies it by the window, adds the overlapping frames, and divides by the
    sum of the windows. The last frame may be incomplete: samples beyond the end do not count. Document 003 states only the
    length of 250 ms. The earlier code of its first author corresponds to `frame=0.2, window="boxcar"`.

    Args:
      y: real array (..., samples), at least 1 sample.
      sr: float > 0, sample rate in Hz.
      frame, hop: float, frame length and hop length in seconds, rounded to samples; hop ≤ frame.
      window: a positive window of `scipy.signal.get_window`, name or tuple; symmetric, without the zeros at its ends.
      floor: float > 0, lower limit of the standard deviations; it keeps silence silent. The default is -80 dB of full scale.

    Raises `UserError` if an argument is out of range.
    """
    y = as_float(y)
    length, step = _samples("frame", frame, sr), _samples("hop", hop, sr)
    if step > length:
        raise UserError(f"hop must lie in (0, frame = {frame}] s, and was given {hop}")
    if not floor > 0:
        raise UserError(f"floor must be positive, and was given {floor}")
    gain = 1 / at_least(_frame_deviation(y, length, step), floor)
    count, parts = gain.shape[-1], -(-length // step)
    # Overlap-add as a matrix product: block b of `step` samples is the sum over j of gain[b - j] · taper[j].
    taper = np.pad(fft_window(window, length + 1, length + 1)[1:], (0, parts * step - length)).reshape(parts, step)
    at = np.arange(count + parts - 1)[:, None] + np.arange(parts - 1, -1, -1)
    total = np.pad(np.ones(count), parts - 1)[at] @ taper
    share = jnp.pad(gain, [(0, 0)] * (gain.ndim - 1) + [(parts - 1, parts - 1)])[..., at]
    curve = jnp.matmul(share, taper.astype(y.dtype), precision=jax.lax.Precision.HIGHEST)
    curve = curve.reshape(*y.shape[:-1], -1)[..., : y.shape[-1]]
    return y * curve / total.reshape(-1)[: y.shape[-1]].astype(y.dtype)


@jax.custom_jvp
def exp1(x: jax.Array) -> jax.Array:
    """Return the exponential integral E1(x) = ∫ₓ^∞ exp(-t) / t dt for x > 0.

    The relative error is below 1e-6 in float32 and 1e-12 in float64. Uses a power series up to x = 1 and a continued fraction
    above (Abramowitz & Stegun 5.1.11 and 5.1.22), because `jax.scipy.special.exp1` of JAX 0.10.2 did not finish 4,000 numbers
    within nine minutes.
    """
    depth = 100 if x.dtype == jnp.float64 else 24
    small, large = jnp.where(x <= 1, x, 1), jnp.where(x <= 1, 1, x)
    term, series = jnp.ones_like(x), jnp.zeros_like(x)
    for k in range(1, 19):
        term = term * small * (-1 / k)
        series = series - term / k
    fraction = jnp.zeros_like(x)
    for k in range(depth, 0, -1):
        fraction = k * k / (large + (2 * k + 1) - fraction)
    return jnp.where(x <= 1, series - np.euler_gamma - jnp.log(small), jnp.exp(-large) / (large + 1 - fraction))


@exp1.defjvp
def _exp1_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return exp1(x), -jnp.exp(-x) / x * dx


@functools.lru_cache
def _taper(length: int) -> np.ndarray:
    """Return a symmetric Hann window without zeros at its ends. At half overlap, the windows add up to 1 on average."""
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, length + 1) / (length + 1))
    return taper * (length // 2) / taper.sum()


def _gains(power: jax.Array, noise: jax.Array, weight: np.ndarray, alpha: float, smoothing: float, threshold: float):
    """Compute the gains of `log_mmse` by a recursion over frames.

    Args:
      power: array (frames, ..., bins), power spectra.
      noise: array (..., bins), the first estimate of the noise power.
      weight: array (bins,), weights of the bins in the mean of the log likelihood ratio.
      alpha, smoothing, threshold: as in `log_mmse`.

    Returns gains (frames, ..., bins).
    """

    def step(carry, power):
        noise, before = carry
        ratio = power / noise
        posterior = jnp.where(ratio > _MAX_POSTERIOR_SNR, _MAX_POSTERIOR_SNR, ratio)
        prior = at_least(alpha * before / noise + (1 - alpha) * at_least(posterior - 1, 0), _MIN_PRIOR_SNR)
        share = prior / (1 + prior)
        likelihood = posterior * share - jnp.log1p(prior)
        noise_only = (likelihood * weight.astype(power.dtype)).sum(-1, keepdims=True) < threshold
        gain = share * jnp.exp(0.5 * exp1(at_least(posterior * share, _V_FLOOR)))
        updated = at_least(smoothing * noise + (1 - smoothing) * power, NOISE_FLOOR)
        return (jnp.where(noise_only, updated, noise), power * jnp.square(gain)), gain

    return jax.lax.scan(step, (noise, noise), power)[1]


def log_mmse(
    y: jax.Array,
    *,
    sr: float,
    frame: float = 0.02,
    noise_frames: int = 6,
    alpha: float = 0.98,
    smoothing: float = 0.98,
    threshold: float = 0.15,
) -> jax.Array:
    """Remove stationary noise, `(..., samples)` → same shape: the log-spectral amplitude estimator of Ephraim & Malah.

    Source: IEEE Trans. ASSP 33(2), 1985, with the decision-directed a-priori SNR of their 1984 paper and the constants of
    Loizou's `logmmse.m`. The a-priori SNR is at least -25 dB, the a-posteriori SNR at most 16 dB. The first frames give the
    noise estimate. Later frames update it if their mean log likelihood ratio indicates pure noise. Frames overlap by half; the
    first half frame fades in. Unlike in Loizou's code, the frames cover the signal up to its end.

    Args:
      y: real array (..., samples), at least `noise_frames` frames. These frames must contain only noise.
      sr: float > 0, sample rate in Hz.
      frame: float, frame length in seconds, rounded down to samples and up to an even number.
      noise_frames: int ≥ 1, number of frames without overlap in the first noise estimate. The default is 120 ms.
      alpha: float in [0, 1), weight of the previous frame in the a-priori SNR.
      smoothing: float in [0, 1], weight of the old noise estimate in an update.
      threshold: float, limit of the log likelihood ratio in nats; a lower ratio indicates pure noise.

    The noise power |X|² is at least `NOISE_FLOOR`: after digital silence the signal passes unchanged, except one frame at its
    onset. Raises `UserError` if an argument is out of range.
    """
    y = as_float(y)
    length = int(frame * sr + 1e-9)
    length += length % 2
    if length < 2:
        raise UserError(f"frame must be at least one sample of sr = {sr} Hz, and was given {frame} s")
    if noise_frames < 1:
        raise UserError(f"noise_frames must be at least 1, and was given {noise_frames}")
    if not (0 <= alpha < 1 and 0 <= smoothing <= 1):
        raise UserError(f"alpha must lie in [0, 1) and smoothing in [0, 1], and were given {alpha}, {smoothing}")
    samples, hop = y.shape[-1], length // 2
    if samples < noise_frames * length:
        raise UserError(
            f"the signal must have at least {noise_frames * length} samples "
            f"(noise_frames = {noise_frames} of {length} samples), and has {samples}"
        )
    taper = _taper(length).astype(y.dtype)
    first = jnp.fft.rfft(cut(y[..., : noise_frames * length], length, length) * taper, n=2 * length)
    amplitude = positive_power(jnp.square(first.real) + jnp.square(first.imag), 0.5).mean(-2)
    count = -(-samples // hop)
    padded = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, (count + 1) * hop - samples)])
    spectrum = jnp.fft.rfft(cut(padded, length, hop) * taper, n=2 * length)
    power = jnp.moveaxis(jnp.square(spectrum.real) + jnp.square(spectrum.imag), -2, 0)
    weight = np.full(length + 1, 2.0) / length  # all bins except the first and last occur twice in the full spectrum
    weight[[0, -1]] /= 2
    gain = _gains(power, at_least(jnp.square(amplitude), NOISE_FLOOR), weight, alpha, smoothing, threshold)
    frames = jnp.fft.irfft(spectrum * jnp.moveaxis(gain, 0, -2), n=2 * length)[..., :length]
    return overlap_add(frames, hop)[..., :samples]
