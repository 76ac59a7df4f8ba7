"""What is done to speech and music before their features: silence found, loudness equalised, noise removed.

Document 003's front ends (SwishNet) name these steps; `log_mmse` is Ephraim & Malah's estimator (1985).
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

# |X|² under which a noise estimate counts as this: 20 dB below what rounding to int16 gives a frame of 20 ms at 16 kHz.
NOISE_FLOOR = 1e-10
# v in exp(E1(v) / 2): a bin 120 dB below the noise; E1 has a pole at 0.
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
    """1 where a frame's power is less than `threshold_db` below `ref`, else 0: `(..., frames)`, in the signal's dtype.

    A mask, and not the signal without its silence, whose length would depend on the data. A frame with NaN or Inf in it is
    NaN, and with "max" then every frame of its clip. A silent clip is 0 throughout (`librosa.effects.split` keeps it whole).

    Args:
      y: (..., samples).
      frame_length, hop_length, center, pad_mode: of the frames, as in `rms`.
      threshold_db: ≥ 0. Document 003 does not state its threshold: 60 is librosa's, as is the decision otherwise.
      ref: a power (mean square, > 0), or "max" for that of the clip's loudest frame.

    Raises UserError out of these ranges.
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
    """`seconds` in samples, ≥ 1."""
    if not seconds * sr >= 0.5:
        raise UserError(f"{name} must be at least one sample of sr = {sr} Hz, and was given {seconds} s")
    return round(seconds * sr)


def _frame_deviation(y: jax.Array, frame_length: int, hop: int) -> jax.Array:
    """Standard deviation of each frame, `(..., frames)`; what a frame has beyond the signal's end does not count.

    From the means and square sums of pieces of a hop, so that long frames with small hops need not be made.
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
    # As a product: XLA of JAX 0.10.2 gets the sum of products wrong where it makes one program of this and the next lines.
    average = jnp.einsum("fp,...fp->...f", weight, mean, precision=jax.lax.Precision.HIGHEST)
    offset = mean - average[..., None]
    variance = square.sum(-1) / size.sum(-1).astype(y.dtype) + (weight * jnp.square(offset)).sum(-1)
    return positive_power(variance, 0.5)


def equalise_loudness(
    y: jax.Array, *, sr: float, frame: float = 0.25, hop: float = 0.01, window: str | tuple = "hann", floor: float = 1e-4
) -> jax.Array:
    """The signal with standard deviation 1 throughout, `(..., samples)` like `y`: its level within `frame` is taken away.

    Frames are divided by their own standard deviation, windowed, overlap-added, and divided by the sum of the windows. The
    last frame may reach over the end; only what it has of the signal counts. Document 003 states 250 ms and no more; its
    first author's earlier code is `frame=0.2, window="boxcar"`.

    Args:
      y: (..., samples), ≥ 1.
      sr: sample rate in Hz.
      frame, hop: in seconds, rounded to samples; hop ≤ frame.
      window: a positive one of `scipy.signal.get_window`, by name or tuple; symmetric, without the zeros at its ends.
      floor: > 0; standard deviations below it (-80 dB of full scale) count as it: silence stays silence.

    Raises UserError out of these ranges.
    """
    y = as_float(y)
    length, step = _samples("frame", frame, sr), _samples("hop", hop, sr)
    if step > length:
        raise UserError(f"hop must lie in (0, frame = {frame}] s, and was given {hop}")
    if not floor > 0:
        raise UserError(f"floor must be positive, and was given {floor}")
    if y.shape[-1] < 1:
        raise UserError("the signal must have at least 1 sample, and has 0")
    gain = 1 / at_least(_frame_deviation(y, length, step), floor)
    count, parts = gain.shape[-1], -(-length // step)
    # Block b of `step` samples is the sum over j of gain[b - j] · taper[j]: overlap-add as a matrix product.
    taper = np.pad(fft_window(window, length + 1, length + 1)[1:], (0, parts * step - length)).reshape(parts, step)
    at = np.arange(count + parts - 1)[:, None] + np.arange(parts - 1, -1, -1)
    total = np.pad(np.ones(count), parts - 1)[at] @ taper
    share = jnp.pad(gain, [(0, 0)] * (gain.ndim - 1) + [(parts - 1, parts - 1)])[..., at]
    curve = jnp.matmul(share, taper.astype(y.dtype), precision=jax.lax.Precision.HIGHEST)
    curve = curve.reshape(*y.shape[:-1], -1)[..., : y.shape[-1]]
    return y * curve / total.reshape(-1)[: y.shape[-1]].astype(y.dtype)


@jax.custom_jvp
def exp1(x: jax.Array) -> jax.Array:
    """Exponential integral E1(x) = ∫ₓ^∞ exp(-t) / t dt of x > 0; relative error below 1e-6 in float32, 1e-12 in float64.

    Power series up to 1, continued fraction above (Abramowitz & Stegun 5.1.11 and 5.1.22). `jax.scipy.special.exp1` of 4,000
    numbers did not end within nine minutes in JAX 0.10.2.
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
    """Symmetric Hann window without the zeros at its ends, scaled so that at half overlap it adds up to 1 on average."""
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, length + 1) / (length + 1))
    return taper * (length // 2) / taper.sum()


def _gains(power: jax.Array, noise: jax.Array, weight: np.ndarray, alpha: float, smoothing: float, threshold: float):
    """Log-MMSE gains `(frames, ..., bins)` of power spectra, with the recursion over frames; `weight` is that of the bins."""

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
    """The signal with stationary noise removed, `(..., samples)`: the log-spectral amplitude estimator of Ephraim & Malah.

    IEEE Trans. ASSP 33(2), 1985; decision-directed a-priori SNR (their 1984 paper), at least -25 dB, a-posteriori SNR at most
    16 dB; noise from the first frames, and followed where the mean log likelihood ratio says that there is noise only, as in
    Loizou's `logmmse.m`, whose numbers these are. Frames overlap by half: the first half frame fades in, as there; frames go
    on to the end of the signal, where Loizou's stop short.

    Args:
      y: (..., samples), at least `noise_frames` frames; they hold noise and nothing else.
      sr: sample rate in Hz.
      frame: in seconds, cut to whole samples and made even.
      noise_frames: frames side by side for the first noise estimate (6 are 120 ms), ≥ 1.
      alpha: in [0, 1), weight of the frame before in the a-priori SNR.
      smoothing: in [0, 1], weight of the old noise estimate where it is followed.
      threshold: of the log likelihood ratio, in nats; below it there is noise only.

    A noise power |X|² counts as `NOISE_FLOOR` at least: after digital silence the signal passes as it is, but for a
    frame of onset. Raises UserError out of these ranges.
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
            f"the signal must have at least {noise_frames * length} samples, noise_frames = {noise_frames} of {length}, "
            f"and has {samples}"
        )
    taper = _taper(length).astype(y.dtype)
    first = jnp.fft.rfft(cut(y[..., : noise_frames * length], length, length) * taper, n=2 * length)
    amplitude = positive_power(jnp.square(first.real) + jnp.square(first.imag), 0.5).mean(-2)
    count = -(-samples // hop)
    padded = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, (count + 1) * hop - samples)])
    spectrum = jnp.fft.rfft(cut(padded, length, hop) * taper, n=2 * length)
    power = jnp.moveaxis(jnp.square(spectrum.real) + jnp.square(spectrum.imag), -2, 0)
    weight = np.full(length + 1, 2.0) / length  # each but the first and last bin stands for two of the whole spectrum
    weight[[0, -1]] /= 2
    gain = _gains(power, at_least(jnp.square(amplitude), NOISE_FLOOR), weight, alpha, smoothing, threshold)
    frames = jnp.fft.irfft(spectrum * jnp.moveaxis(gain, 0, -2), n=2 * length)[..., :length]
    return overlap_add(frames, hop)[..., :samples]
